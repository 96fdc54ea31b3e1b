"""Runs of several processes: the results of one process, and what one of them does wrong."""

import pytest
from runs import finish, finish_many, read_metrics

SHORT = ("--config.training.steps=6", "--config.training.eval_epochs=0.4")
SHORT += ("--config.evaluation.report=", "--config.data.text_length=40")
FIGURES = ("loss", "gradient_norm", "learning_rate", "R1", "mAP", "mINP")


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone")
    finish("finetune", data, workdir, *SHORT)
    return read_metrics(workdir)


@pytest.mark.parametrize(("processes", "devices"), [(2, 2), pytest.param(4, 1)])
def test_several_processes_compute_what_one_does(data, alone, tmp_path, processes, devices):
    outputs = finish_many("finetune", data, tmp_path, *SHORT, processes=processes, devices=devices)
    assert f"{processes * devices} cpu device(s)" in outputs[0]
    assert not any("step" in output for output in outputs[1:])  # one of them speaks
    lines = read_metrics(tmp_path)
    assert len(lines) == len(alone) == 7
    for line, reference in zip(lines, alone, strict=True):
        assert (line["step"], line["kind"]) == (reference["step"], reference["kind"])
        for name in set(FIGURES) & set(reference):
            assert line[name] == pytest.approx(reference[name], rel=2e-6, abs=0.02), name
