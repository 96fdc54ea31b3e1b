"""The metrics of a run that was killed and resumed stand in its file once."""

import contextlib
import json
import math
import resource
import struct

import pytest
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import RecordWriter

from ivt_jax.training.events import EventFile
from ivt_jax.training.telemetry import Telemetry, cut_lines


def write(workdir, steps, start=0):
    with Telemetry(workdir, start_step=start, total_steps=10) as log:
        for step in steps:
            log.train(step, {"loss": float(step), "learning_rate": 1e-3})
            if step % 4 == 0:
                log.evaluation(step, "val", {"R1": 10.0 * step})


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_lines_are_objects_of_step_kind_and_scalars(tmp_path):
    write(tmp_path, [2, 4])
    assert lines(tmp_path) == [
        {"step": 2, "kind": "train", "loss": 2.0, "learning_rate": 1e-3},
        {"step": 4, "kind": "train", "loss": 4.0, "learning_rate": 1e-3},
        {"step": 4, "kind": "val", "R1": 40.0},
    ]


def test_a_line_is_on_disk_before_the_run_ends(tmp_path):
    with Telemetry(tmp_path, start_step=0, total_steps=10) as log:
        log.train(1, {"loss": 0.5})
        assert lines(tmp_path)[-1]["loss"] == 0.5


@pytest.mark.parametrize("tail", ["", '{"step": 7, "kind": "tr', "\x00\x00", '{"step": 3}', "[1]"])
def test_resuming_cuts_what_comes_again_and_a_torn_line(tmp_path, tail):
    write(tmp_path, [2, 4, 6])
    before = lines(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(tail)
    write(tmp_path, [6, 8], start=4)
    kept = [line for line in before if line["step"] <= 4]
    if tail == '{"step": 3}':
        kept.append({"step": 3})  # whole, though its line end is missing
    again = [{"step": 6, "kind": "train"}, {"step": 8, "kind": "train"}, {"step": 8, "kind": "val"}]
    assert [{k: x[k] for k in ("step", "kind") if k in x} for x in lines(tmp_path)] == [
        {k: x[k] for k in ("step", "kind") if k in x} for x in kept
    ] + again
    assert not list(tmp_path.glob("*.tmp"))


def test_starting_anew_empties_the_file(tmp_path):
    write(tmp_path, [2, 4])
    write(tmp_path, [1])
    assert [line["step"] for line in lines(tmp_path)] == [1]


def test_cutting_a_file_that_is_not_there_is_nothing(tmp_path):
    cut_lines(tmp_path / "metrics.jsonl", last_step=3)
    assert not list(tmp_path.iterdir())


def test_what_is_said(tmp_path, capsys):
    write(tmp_path, [4])
    said = capsys.readouterr().out
    assert "step 4/10" in said and "loss 4.00" in said and "learning rate 0.001" in said
    assert "val: R1 40.00" in said


def test_quiet_says_nothing(tmp_path, capsys):
    with Telemetry(tmp_path, start_step=0, total_steps=10, quiet=True) as log:
        log.train(1, {"loss": 1.0})
        log.say("a sentence")
    assert capsys.readouterr().out == ""


def records(path):
    """The events of a file, each framed as tensorboardX frames it."""
    content, found = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event, frame = content[12 : 12 + length], content[: 16 + length]
        ours = path.with_suffix(".reference")
        writer = RecordWriter(str(ours))
        writer.write(event)
        writer.close()
        assert ours.read_bytes() == frame
        ours.unlink()
        found.append(event_pb2.Event.FromString(event))
        content = content[len(frame) :]
    return found


def test_tensorboard_gets_the_same_scalars(tmp_path):
    write(tmp_path, [2], start=1)
    (events,) = (tmp_path / "tensorboard").iterdir()
    version, purge, scalars = records(events)
    assert version.file_version == "brain.Event:2"
    assert purge.step == 2 and purge.session_log.status == 1  # START
    assert {value.tag: value.simple_value for value in scalars.summary.value} == {
        "train/loss": 2.0,
        "train/learning_rate": pytest.approx(1e-3),
    }


def test_what_a_full_disk_refuses_is_written_when_there_is_room(tmp_path, caplog):
    """A limit of the kernel on the size of files stands for the disk."""
    unlimited = resource.RLIM_INFINITY
    with Telemetry(tmp_path, start_step=0, total_steps=99) as log:
        try:
            for step in range(1, 99):
                full = 500 if 20 < step < 80 else unlimited
                resource.setrlimit(resource.RLIMIT_FSIZE, (full, unlimited))
                log.train(step, {"loss": float(step)})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
    assert [line["loss"] for line in lines(tmp_path)] == list(range(1, 99))
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert [event.step for event in records(events)[2:]] == list(range(1, 99))
    assert caplog.text.count("metrics.jsonl cannot be written") == 1


def test_scalars_of_any_size_and_sign_are_written(tmp_path):
    written = {"tiny": 1e-30, "negative": -2.5, "endless": math.inf, "huge": 1e300, "ä": 0.0}
    with contextlib.closing(EventFile(tmp_path, first_step=0)) as file:
        for step in (0, 127, 128, 3 << 40):
            file.add_scalars(written, step)
    (path,) = tmp_path.iterdir()
    events = records(path)[2:]
    assert [event.step for event in events] == [0, 127, 128, 3 << 40]
    for event in events:
        read = {value.tag: value.simple_value for value in event.summary.value}
        assert read == written | {"tiny": pytest.approx(1e-30), "huge": math.inf}
