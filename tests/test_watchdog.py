"""Deadlines and the comparison of processes, without a run around them."""

import threading
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from ivt_jax.disk import patiently
from ivt_jax.training import watchdog
from ivt_jax.training.lifecycle import _Pace
from ivt_jax.training.watchdog import Watchdog

LIMITS = {"startup": 1800.0, "step": 120.0, "step_limit": 900.0, "data": 600.0}


def dog(folder, leave=lambda text, code: None, **limits) -> Watchdog:
    return Watchdog(folder, **LIMITS | limits, leave=leave)


@pytest.mark.parametrize(
    ("seconds", "limit"), [([], 120), ([1.0] * 5, 120), ([20.0, 30.0, 40.0], 300), ([200.0], 900)]
)
def test_a_step_may_take_ten_median_steps_within_bounds(tmp_path, seconds, limit):
    watched = dog(tmp_path)
    for one in seconds:
        watched.note_step(one)
    assert watched.limit("step") == limit
    assert (watched.limit("startup"), watched.limit("data")) == (1800, 600)
    assert watched.limit("save") == watched.limit("evaluation") == 1800


def test_zero_means_any_time(tmp_path):
    watched = dog(tmp_path, startup=0.0, step=0.0, data=0.0)
    watched.note_step(1e6)
    assert [watched.limit(what) for what in ("startup", "step", "data", "save")] == [0] * 4
    assert dog(tmp_path, step_limit=0.0).limit("step") == 120


def test_peers_that_wait_for_data_are_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(watchdog.cluster, "processes", lambda: 2)
    assert dog(tmp_path).limit("step") == 600


def test_no_progress_writes_stacks_and_leaves_but_progress_does_not(tmp_path, monkeypatch):
    monkeypatch.setattr(watchdog, "TICK", 0.02)
    left, over = [], threading.Event()

    def leave(text, code):
        left.append((text, code))
        over.set()

    with dog(tmp_path, leave, data=0.5, step_limit=0.0) as watched:
        watched.enter("data", 7)
        assert over.wait(60)
    text, code = left[0]
    assert code == 75 and "in data 7" in text
    stacks = (tmp_path / "stalls" / "process-0.txt").read_text()
    assert "test_watchdog.py" in stacks


def test_a_lock_on_a_dead_disk_holds_up_no_deadline(tmp_path, monkeypatch):
    monkeypatch.setattr(watchdog, "TICK", 0.02)
    monkeypatch.setattr(watchdog, "BEAT", 0.02)
    left, over, mended = [], threading.Event(), threading.Event()

    def leave(text, code):
        left.append(code)
        over.set()

    with dog(tmp_path, leave, data=0.5, step_limit=0.0) as watched:
        watched.lock = cast(Any, SimpleNamespace(beat=mended.wait))
        watched.enter("data", 7)
        assert over.wait(60) and left[0] == 75
        mended.set()


def test_what_a_dead_disk_holds_up_is_not_waited_for():
    mended = threading.Event()
    patiently(mended.wait, seconds=0.05)
    assert not mended.is_set()
    mended.set()


def steps(pace: _Pace, own: list[float], count: int) -> list[str]:
    return [said for _ in range(count) if (said := pace.compare(np.array(own), 1.0))]


def test_a_slow_process_is_named_once():
    said = steps(_Pace(), [0.1, 0.1, 0.4, 0.1], 60)
    assert len(said) == 1 and "process 2 is slow" in said[0] and "0.30 s more" in said[0]
    assert len(steps(_Pace(), [0.1, 0.4], 10)) == 1


def test_equal_processes_and_pauses_name_nobody():
    assert steps(_Pace(), [0.1, 0.15, 0.1], 60) == []
    assert steps(_Pace(), [0.0, 0.4], 60) == []
