"""Runs of several processes: the results of one process, and what they refuse together."""

import socket

import pytest
from runs import finish, finish_many, free_port, outputs, read_metrics, start

SHORT = ("--config.training.steps=6", "--config.training.eval_epochs=0.4")
SHORT += ("--config.evaluation.report=", "--config.data.text_length=40")
# Sums in another order: relative for the loss, in percent points for a rank that may turn.
NEAR = {"loss": {"rel": 1e-6}, "gradient_norm": {"rel": 1e-3}, "learning_rate": {"rel": 0}}
NEAR |= dict.fromkeys(("R1", "mAP", "mINP"), {"abs": 0.1})


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone")
    finish("finetune", data, workdir, *SHORT)
    return workdir


@pytest.mark.chaos
@pytest.mark.parametrize(("processes", "devices"), [(2, 2), (4, 1)])
def test_several_processes_compute_what_one_does(data, alone, tmp_path, processes, devices):
    said = finish_many("finetune", data, tmp_path, *SHORT, processes=processes, devices=devices)
    assert f"{processes * devices} cpu device(s)" in said[0]
    assert not any("step" in output for output in said[1:])  # one of them speaks
    lines, references = read_metrics(tmp_path), read_metrics(alone)
    assert len(lines) == len(references) == 7
    for line, reference in zip(lines, references, strict=True):
        assert (line["step"], line["kind"]) == (reference["step"], reference["kind"])
        for name in set(NEAR) & set(reference):
            assert line[name] == pytest.approx(reference[name], **NEAR[name]), name
    cut = "texts were longer than data.text_length"
    assert [line for line in said[0].splitlines() if cut in line]


def start_two(data, first, second, *options):
    """Two processes that differ: `first` and `second` are their work directory and options."""
    place = (f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2", *options)
    return [
        start("finetune", data, workdir, *SHORT, *place, f"--process_id={number}", *own)
        for number, (workdir, *own) in enumerate((first, second))
    ]


def test_processes_that_disagree_leave_together_with_a_sentence(data, tmp_path):
    other = "--config.optimizer.learning_rate=0.5"
    processes = start_two(data, (tmp_path,), (tmp_path, other))
    first, second = outputs(processes)
    assert [process.returncode for process in processes] == [2, 2], first + second
    assert "process 1: another configuration than that of process 0" in first
    assert "optimizer.learning_rate: 0.001 -> 0.5" in first and "0.001 -> 0.5" in second
    assert not (tmp_path / "config.json").exists()


@pytest.mark.chaos
def test_a_folder_that_is_not_shared_is_found_out(data, tmp_path):
    processes = start_two(data, (tmp_path / "here",), (tmp_path / "there",))
    first, second = outputs(processes)
    assert [process.returncode for process in processes] == [2, 2], first + second
    assert str(tmp_path / "there") in first and "one shared --workdir" in first
    assert list((tmp_path / "here").iterdir()) == []


def test_a_start_without_all_processes_names_the_missing(data, tmp_path):
    place = (f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=3", "--process_id=0")
    output = finish("finetune", data, tmp_path, *SHORT, *place, "--join_timeout=1", code=2)
    assert "process 1, 2 of 3 did not join within 1 s" in output and "Traceback" not in output


def test_a_taken_port_is_a_sentence(data, tmp_path):
    with socket.create_server(("", 0)) as other:
        place = (f"--coordinator=127.0.0.1:{other.getsockname()[1]}", "--num_processes=2")
        output = finish("finetune", data, tmp_path, *place, "--process_id=0", code=2)
    assert "cannot listen on port" in output and "Traceback" not in output


def test_flags_of_the_place_are_checked_with_all_others(data, tmp_path):
    flags = ("--num_processes=two", "--config.training.batch_size=0", "--coordinater=a:1")
    output = finish("finetune", data, tmp_path, *flags, code=2)
    assert "--num_processes: must be a whole number" in output
    assert "training.batch_size" in output and "--coordinator" in output
