"""The record of time adds up, whatever happened: a fake clock, and a real run that was killed."""

import json
import random
import time

import pytest

from ivt_jax.__main__ import main
from ivt_jax.training.goodput import BUCKETS, FILE, Goodput, process_start, read_goodput, totals


class Clock:
    """Moves only when told."""

    def __init__(self, now):
        self.now = now

    def __call__(self):
        return self.now

    def spend(self, spent, bucket, seconds):
        with spent.span(bucket):
            self.now += seconds


def process(workdir, began, *, first, last, every=2, seconds=10.0, restore=0.0):
    """A process that trains from `first` to `last` and dies; returns when."""
    clock = Clock(began)
    spent = Goodput(workdir, began=began, clock=clock)
    clock.now += 3
    spent.rest("start")
    clock.spend(spent, "restore", restore)
    clock.now += 2
    spent.mark(first, rest="prepare")
    for step in range(first + 1, last + 1):
        clock.spend(spent, "data", 1.0)
        clock.now += seconds - 1.0
        if step % every == 0:
            spent.mark(step)
    return clock.now


def found(workdir):
    lines = read_goodput(workdir)
    seconds = totals(lines)
    assert sum(seconds.values()) == pytest.approx(lines[-1].ended - lines[0].began)
    return {bucket: value for bucket, value in seconds.items() if value}


def test_one_process(tmp_path):
    process(tmp_path, 1000.0, first=0, last=4)
    assert found(tmp_path) == {"start": 3, "prepare": 2, "data": 4, "step": 36}


def test_steps_done_again_are_wasted_and_the_time_between_is_a_gap(tmp_path):
    """Killed in step 8, three seconds after the line of step 6; resumed at 3 half a minute on."""
    process(tmp_path, 1000.0, first=0, last=6)
    process(tmp_path, 1065.0 + 33.0, first=3, last=8, every=1, restore=7.0)
    seconds = found(tmp_path)
    assert seconds["gap"] == 33 and seconds["restore"] == 7
    assert seconds["wasted"] == pytest.approx(30.0), "steps 4 to 6"
    assert seconds["step"] + seconds["data"] == pytest.approx(80.0), "steps 1 to 8, once each"


def test_a_rollback_within_a_process_is_wasted_time(tmp_path):
    clock = Clock(0.0)
    spent = Goodput(tmp_path, began=0.0, clock=clock)
    for step, seconds in ((0, 5), (4, 40), (6, 20), (2, 9), (6, 40)):
        clock.now += seconds
        spent.mark(step, rest="prepare" if step in (0, 2) else "step")
    assert found(tmp_path) == pytest.approx({"prepare": 14, "step": 60, "wasted": 40})


def test_what_was_wasted_is_not_wasted_twice(tmp_path):
    ends = process(tmp_path, 0.0, first=0, last=4)
    ends = process(tmp_path, ends + 1, first=2, last=6)
    process(tmp_path, ends + 1, first=0, last=6)
    seconds = found(tmp_path)
    assert seconds["step"] + seconds["data"] == pytest.approx(60.0)
    assert seconds["wasted"] == pytest.approx(80.0) and seconds["gap"] == 2


def test_buckets_sum_to_the_wall_time_of_any_history(tmp_path):
    draw = random.Random(0)
    ends, step = 0.0, 0
    for _ in range(20):
        first = draw.randint(0, step)
        step = first + draw.randint(0, 9)
        began = ends + draw.random()
        ends = process(tmp_path, began, first=first, last=step, seconds=draw.uniform(1, 20))
    seconds = found(tmp_path)
    assert set(seconds) == {"start", "prepare", "data", "step", "wasted", "gap"}


def test_a_torn_line_is_left_out_and_the_next_one_stands_alone(tmp_path):
    ends = process(tmp_path, 0.0, first=0, last=2)
    with (tmp_path / FILE).open("a") as file:
        file.write('{"step": 4, "fr')
    process(tmp_path, ends + 8, first=2, last=4)
    assert found(tmp_path)["gap"] == 8
    assert [line.process for line in read_goodput(tmp_path)] == [1, 1, 2, 2, 2]


def test_a_clock_that_is_set_back_takes_nothing_away(tmp_path):
    clock = Clock(100.0)
    spent = Goodput(tmp_path, began=90.0, clock=clock)
    spent.mark(0, rest="prepare")
    clock.now -= 50
    spent.mark(1)
    (first, second) = read_goodput(tmp_path)
    assert first.seconds == {"prepare": 10} and second.seconds == {"step": 0}


def test_the_others_of_a_run_write_nothing(tmp_path):
    spent = Goodput(tmp_path, quiet=True, began=0.0, clock=Clock(3.0))
    spent.mark(0)
    assert not list(tmp_path.iterdir()) and spent.total["step"] == 3


def test_the_start_of_this_process_is_known():
    assert 0 < time.time() - process_start() < 24 * 3600


def test_spans_cost_microseconds(tmp_path):
    spent = Goodput(tmp_path)
    began = time.thread_time()
    for _ in range(10_000):
        with spent.span("data"):
            pass
    assert (time.thread_time() - began) / 10_000 < 1e-4


def test_the_command_prints_a_table_and_draws(tmp_path, capsys):
    process(tmp_path, 1000.0, first=0, last=6)
    process(tmp_path, 1098.0, first=3, last=8, every=1)
    assert main(["goodput", str(tmp_path), f"--out={tmp_path / 'new' / 'picture.png'}"]) == 0
    told = capsys.readouterr().out
    wall = 65 + 33 + 55
    assert f"wall time{wall:>13,.1f}" in told and f"sum{wall:>19,.1f}" in told
    assert "goodput 47.1 % at step 8, 2 processes" in told  # 72 of 153 seconds
    shown = [
        line.split()[0] for line in told.splitlines()[1:] if line and line.split()[0] in BUCKETS
    ]
    assert shown[:3] == ["step", "gap", "wasted"]
    assert (tmp_path / "new" / "picture.png").stat().st_size > 5_000


def test_a_folder_without_a_record_is_a_sentence(tmp_path, capsys):
    assert main(["goodput", str(tmp_path)]) == 2
    assert "name the --workdir" in capsys.readouterr().err
    (tmp_path / FILE).write_text("{")
    assert main(["goodput", str(tmp_path)]) == 2
    assert "no whole line" in capsys.readouterr().err


def test_lines_are_json_objects(tmp_path):
    process(tmp_path, 1000.0, first=0, last=2)
    (_, line) = map(json.loads, (tmp_path / FILE).read_text().splitlines())
    assert line == {"step": 2, "from": 1005, "to": 1025, "seconds": {"data": 2, "step": 18}}
