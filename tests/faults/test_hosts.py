"""Runs of several processes that lose or wait for one: rows 4, 8, 9, 10 and 12 of the faults.

A start goes on from what the one before left; the end is that of a run nothing happened to.
"""

import signal
import time

import pytest
from runs import (
    LONG,
    PATIENCE,
    STEPS,
    finish_many,
    outputs,
    read_metrics,
    start_many,
    wait_for_step,
)
from runs import wait_for_text as wait_for

from ivt_jax.training.checkpoint import saved_steps

HEARTBEAT = 10  # seconds, where a process is lost
SLACK = 30  # seconds for a loaded machine


def codes(processes) -> list[int]:
    return [process.returncode for process in processes]


def stalled(data, workdir) -> None:
    """Row 10: one process sleeps in its own code, the other waits for it on a device."""
    limits = ("--config.watchdog.step=15", "--config.watchdog.data=15")
    processes = start_many(
        "pretrain", data, workdir, *LONG, *limits, processes=2, IVT_FAULT="sleep@step:5:1"
    )
    wait_for(processes[1], "sleeps at step")
    began = time.monotonic()
    said = outputs(processes)
    assert time.monotonic() - began < 15 + 5 + SLACK
    assert codes(processes) == [75, 75], said
    for number, output in enumerate(said):
        assert "no progress for" in output
        stacks = (workdir / "stalls" / f"process-{number}.txt").read_text()
        assert "loop.py" in stacks and "loop.py" in output
        assert ("in strike" in stacks) == (number == 1)
    assert saved_steps(workdir)[-1] == 4


def stopped(data, workdir) -> None:
    """Row 9: a process that is suspended is found by its silence."""
    run = ("pretrain", data, workdir, *LONG)
    processes = start_many(*run, processes=2, heartbeat=HEARTBEAT, IVT_FAULT="slow@step")
    wait_for_step(workdir, 7, processes[0])
    processes[1].send_signal(signal.SIGSTOP)
    began = time.monotonic()
    output, _ = processes[0].communicate(timeout=HEARTBEAT + 5 + 2 * SLACK)
    took = time.monotonic() - began
    processes[1].kill()
    processes[1].communicate()
    assert took < HEARTBEAT + 5 + SLACK
    assert processes[0].returncode == -signal.SIGABRT, output
    assert "(stopped sending heartbeats):\n1\n" in output, output


def slow_then_terminated(data, workdir) -> None:
    """Rows 12 and 4: a slow process is named; a signal to one stops both at the same step."""
    processes = start_many("pretrain", data, workdir, *LONG, processes=2, IVT_FAULT="slow@step::1")
    said = wait_for(processes[0], "process 1 is slow")
    steps = [line.split("/")[0] for line in said.splitlines() if line.startswith("step ")]
    assert len(steps) <= 20, said
    processes[1].send_signal(signal.SIGTERM)
    said = outputs(processes)
    assert codes(processes) == [143, 143], said
    last = saved_steps(workdir)[-1]
    assert all(f"stopped by SIGTERM; step {last} of {STEPS} is saved" in text for text in said)
    assert read_metrics(workdir)[-1]["step"] == last


def killed_while_saving(data, workdir, number) -> None:
    """Row 8: a process dies in the middle of a save; the others leave, the save is none."""
    before = saved_steps(workdir)
    step = (before[-1] // 4 + 1) * 4
    fault = f"slow@step,kill@save.mid:{step}:{number}"
    run = ("pretrain", data, workdir, *LONG)
    processes = start_many(*run, processes=2, heartbeat=HEARTBEAT, IVT_FAULT=fault)
    processes[number].wait(PATIENCE)
    began = time.monotonic()
    said = outputs(processes)
    assert time.monotonic() - began < HEARTBEAT + 5 + SLACK
    left = codes(processes)
    assert left[number] == -signal.SIGKILL and left[1 - number] in (75, -signal.SIGABRT), said
    assert f"step {step + 4}/" not in said[0]
    assert set(saved_steps(workdir)) <= {*before, step}


def ends_as_if_nothing_had_happened(data, undisturbed, workdir) -> None:
    said = finish_many("pretrain", data, workdir, *LONG, processes=2)
    assert f"step {STEPS} of {STEPS} is saved" in said[0]
    lines, references = read_metrics(workdir), read_metrics(undisturbed)
    assert [line["step"] for line in lines] == [line["step"] for line in references]
    for line, reference in zip(lines, references, strict=True):
        assert line["loss"] == pytest.approx(reference["loss"], rel=1e-5), line["step"]


def test_whatever_happens_to_two_processes_the_run_ends_the_same(data, undisturbed, tmp_path):
    stalled(data, tmp_path)
    slow_then_terminated(data, tmp_path)
    killed_while_saving(data, tmp_path, 1)
    killed_while_saving(data, tmp_path, 0)
    ends_as_if_nothing_had_happened(data, undisturbed, tmp_path)


@pytest.mark.chaos
def test_after_a_process_was_suspended_the_run_ends_the_same(data, undisturbed, tmp_path):
    stopped(data, tmp_path)
    ends_as_if_nothing_had_happened(data, undisturbed, tmp_path)


@pytest.mark.chaos
def test_a_signal_to_one_of_four_stops_all_at_the_same_step(data, tmp_path):
    processes = start_many("pretrain", data, tmp_path, *LONG, processes=4, IVT_FAULT="slow@step")
    wait_for_step(tmp_path, 4, processes[0])
    processes[3].send_signal(signal.SIGTERM)
    said = outputs(processes)
    assert codes(processes) == [143] * 4, said
    last = saved_steps(tmp_path)[-1]
    assert all(f"step {last} of {STEPS} is saved" in text for text in said)
