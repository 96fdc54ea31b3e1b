"""Runs of several processes: the results of one process, and what one of them does wrong."""

import pytest
from runs import finish, finish_many, read_metrics

SHORT = ("--config.training.steps=6", "--config.training.eval_epochs=0.4")
SHORT += ("--config.evaluation.report=", "--config.data.text_length=40")
# Sums in another order: relative for the loss, in percent points for a rank that may turn.
NEAR = {"loss": {"rel": 1e-6}, "gradient_norm": {"rel": 1e-3}, "learning_rate": {"rel": 0}}
NEAR |= dict.fromkeys(("R1", "mAP", "mINP"), {"abs": 0.1})


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone")
    finish("finetune", data, workdir, *SHORT)
    return read_metrics(workdir)


@pytest.mark.parametrize(("processes", "devices"), [(2, 2), (4, 1)])
def test_several_processes_compute_what_one_does(data, alone, tmp_path, processes, devices):
    outputs = finish_many("finetune", data, tmp_path, *SHORT, processes=processes, devices=devices)
    assert f"{processes * devices} cpu device(s)" in outputs[0]
    assert not any("step" in output for output in outputs[1:])  # one of them speaks
    lines = read_metrics(tmp_path)
    assert len(lines) == len(alone) == 7
    for line, reference in zip(lines, alone, strict=True):
        assert (line["step"], line["kind"]) == (reference["step"], reference["kind"])
        for name in set(NEAR) & set(reference):
            assert line[name] == pytest.approx(reference[name], **NEAR[name]), name
