"""Readers that die, fail or hang are replaced at the same batch; rows 33 and 34 of the faults."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
from runs import LONG, PATIENCE, STEPS, assert_same_run, finish, start, wait_for_step

from ivt_jax.data.feed import STRIKES, Feed, hanging_sample
from ivt_jax.data.records import DataError
from ivt_jax.errors import UserError

WORKER = ("--config.data.workers=1", "--config.data.prefetch=1")


class Source:
    """Batches that are their own number, with faults at given calls of `make` and numbers."""

    def __init__(self, faults):
        self.faults, self.made = faults, []

    def make(self, number):
        self.made.append(number)
        faults = self.faults.pop(0) if self.faults else {}
        while True:
            if number in faults:
                faults[number]()
            yield {"number": number}
            number += 1

    def feed(self, start=0, deadline=None):
        self.said = []
        return Feed(
            self.make,
            start,
            deadline=deadline,
            suspect=lambda number: f"suspect of {number}",
            say=self.said.append,
        )


def die():
    raise RuntimeError("worker killed")


def hang(*_) -> str:
    time.sleep(3600)
    return ""


def numbers(feed, count):
    return [next(feed)["number"] for _ in range(count)]


@pytest.mark.parametrize(("fault", "deadline"), [(die, None), (die, 60.0), (hang, 0.2)])
def test_new_readers_start_at_the_missing_batch(fault, deadline):
    source = Source([{7: fault}, {7: fault}, {}, {}])
    feed = source.feed(5, deadline)
    assert numbers(feed, 6) == list(range(5, 11))
    assert source.made == [5, 7, 7]
    assert len(source.said) == 2 and "(1 of 3)" in source.said[0]
    assert ("suspect of 7" if fault is hang else "worker killed") in source.said[0]


def test_three_strikes_at_one_batch_are_out_and_at_several_are_not():
    source = Source([{1: die}, {2: die}, {3: die}, {4: die}])
    assert numbers(source.feed(), 6) == list(range(6))
    source = Source([{1: die}] * STRIKES)
    feed = source.feed()
    next(feed)
    with pytest.raises(UserError, match="batch 1 .* 3 times .*worker killed") as found:
        next(feed)
    assert found.value.exit_code == 5


def test_unusable_data_is_not_tried_again():
    def unusable():
        raise DataError("nothing can be read")

    source = Source([{0: unusable}])
    with pytest.raises(DataError, match="nothing can be read"):
        next(source.feed())
    assert source.made == [0]


def test_the_feed_moves():
    source = Source([])
    feed = source.feed(3)
    assert numbers(feed, 2) == [3, 4]
    feed.move(40)
    assert numbers(feed, 2) == [40, 41]


def test_the_hanging_sample_is_named():
    def read(sample):
        if sample == 12:
            hang()
        if sample == 11:
            raise ValueError("bad, but it does not hang")

    def name(sample):
        return f"people, {sample}.jpg"

    assert hanging_sample(read, name, range(10, 14), patience=0.3) == (
        "sample 12, people, 12.jpg hangs"
    )
    assert hanging_sample(read, hang, range(10, 14), patience=0.3) == "sample 10 hangs"
    assert hanging_sample(read, name, range(13, 16), patience=30) == ""


def workers(process):
    """Numbers of the reading processes of a run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes()
        except (OSError, IndexError):
            continue
        if parent == process.pid and b"spawn_main" in command:
            found.append(int(folder.name))
    return found


@pytest.mark.chaos
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
def test_a_worker_struck_from_outside_changes_nothing(data, undisturbed, tmp_path, number):
    options = (*LONG, *WORKER, "--config.data.worker_deadline=45")
    process = start("pretrain", data, tmp_path, *options)
    wait_for_step(tmp_path, 5, process)
    (worker,) = workers(process)
    os.kill(worker, number)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    assert "readers replaced at batch" in output and "(2 of 3)" not in output
    if number == signal.SIGSTOP:
        assert "every sample can be read now" in output
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.chaos
def test_a_worker_does_not_outlive_its_run(data, tmp_path):
    process = start("pretrain", data, tmp_path, *LONG, *WORKER)
    wait_for_step(tmp_path, 5, process)
    (worker,) = workers(process)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + PATIENCE
    while Path(f"/proc/{worker}/stat").exists():
        assert time.monotonic() < deadline, "the worker is still there"
        time.sleep(0.1)


@pytest.mark.chaos
@pytest.mark.parametrize("action", ["kill", "raise", "sleep"])
def test_a_worker_that_fails_at_the_same_sample_again_ends_the_run(data, tmp_path, action):
    options = (*LONG, *WORKER, "--config.data.worker_deadline=25")
    output = finish(
        "pretrain", data, tmp_path, *options, code=5, IVT_FAULT=f"{action}@sample:{8 * 4 + 3}"
    )
    assert "Traceback" not in output
    # A worker that dies takes the batches with it that it had made ahead.
    given_up = re.search("batch ([2-4]) could not be read 3 times in a row", output)
    assert given_up, output
    told = len(re.findall("^step ", output, re.MULTILINE))  # each is told one step late
    assert STEPS > told >= int(given_up[1]) - 1, output
    if action == "sleep":
        assert re.search(r"sample 35, synthetic_scenes, \S+ hangs", output)
