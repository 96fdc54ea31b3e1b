"""Killed at every point of a save, on a full disk, on a disk that fails: no step is lost."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import LONG, PATIENCE, ROOT, assert_same_run, command, environment, finish, start
from test_checkpoint import assert_bit_equal, fresh_state, restore

from ivt_jax.training.checkpoint import Checkpoints, saved_steps


def save_in_a_process(workdir: Path, steps: str, fault: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("saver.py")), str(workdir), *steps],
        env=os.environ | {"IVT_FAULT": fault},
    )


# Point -> the newest step afterwards.
POINTS = {
    "save.begin": 2,
    "save.mid": None,  # by chance
    "save.pre_commit": 2,
    "save.post_commit": 3,
    "save.pre_manifest": 3,
    "save.gc": 3,
}


@pytest.mark.parametrize(("point", "newest"), POINTS.items())
def test_killed_at_any_point_the_newest_is_whole(tmp_path, point, newest):
    process = save_in_a_process(tmp_path, "123", f"kill@{point}:3")
    assert process.wait(PATIENCE) == -signal.SIGKILL
    # keep = 1, and yet step 2 is there until step 3 has its manifest.
    assert saved_steps(tmp_path)[0] == 2
    found, _ = restore(tmp_path, fresh_state())
    assert found is not None and int(found.step) in ([2, 3] if newest is None else [newest])
    assert_bit_equal(found, fresh_state(int(found.step)))
    assert not list(tmp_path.glob("checkpoints/*tmp*"))
    assert (tmp_path / "integrity" / f"{int(found.step)}.json").exists()


@pytest.mark.parametrize(("point", "newest"), [("save.pre_commit", 2), ("save.pre_manifest", 3)])
def test_killed_when_the_grace_after_sigterm_is_over(tmp_path, point, newest):
    """The save hangs, as on a slow disk, and whoever sent SIGTERM loses patience."""
    process = save_in_a_process(tmp_path, "123", f"sleep@{point}:3")
    deadline = time.monotonic() + PATIENCE
    while not list(tmp_path.glob("checkpoints/3*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)
    process.kill()
    process.wait(PATIENCE)
    found, _ = restore(tmp_path, fresh_state())
    assert found is not None and int(found.step) == newest


def test_killed_while_it_saves_and_restarted_equals_undisturbed(data, undisturbed, tmp_path):
    finish("pretrain", data, tmp_path, *LONG, code=-9, IVT_FAULT="kill@save.pre_commit:12")
    assert saved_steps(tmp_path)[-1] == 8
    assert "resumed at step 8" in finish("pretrain", data, tmp_path, *LONG)
    assert_same_run(tmp_path, undisturbed)


def test_a_disk_that_is_full_for_a_while_costs_nothing(data, undisturbed, tmp_path):
    fault = "spoil@save.full:8,spoil@save.full:12,spoil@save.full:20"
    output = finish("pretrain", data, tmp_path, *LONG, IVT_FAULT=fault)
    for step in (8, 12, 20):
        assert f"CHECKPOINT {step} COULD NOT BE WRITTEN" in output
    assert "whole checkpoints: [4]" in output
    assert not list(tmp_path.glob("checkpoints/*tmp*"))
    assert_same_run(tmp_path, undisturbed)


def test_a_disk_that_stays_full_ends_the_run_and_keeps_what_there_is(data, undisturbed, tmp_path):
    fault = ",".join(f"spoil@save.full:{step}" for step in (12, 16, 20))
    output = finish("pretrain", data, tmp_path, *LONG, code=73, IVT_FAULT=fault)
    assert "error: checkpoint 20 could not be written" in output
    assert "3 times in a row" in output
    assert saved_steps(tmp_path) == [4, 8]
    # So does the save that a stop asks for, if it is the first that fails.
    options = (*LONG, "--config.training.stop_after=2")
    output = finish("pretrain", data, tmp_path, *options, code=73, IVT_FAULT="spoil@save.full:10")
    assert "error: checkpoint 10 could not be written" in output
    finish("pretrain", data, tmp_path, *LONG)
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.chaos
@pytest.mark.skipif(not shutil.which("strace"), reason="strace makes fsync fail")
def test_a_disk_whose_fsync_fails_is_one_that_cannot_be_written(data, tmp_path):
    strace = ["strace", "-f", "-qq", "-o", str(tmp_path / "strace"), "-e", "trace=fsync"]
    strace += ["-e", "inject=fsync:error=EIO:when=1+"]

    def run_on_it(workdir):
        finished = subprocess.run(
            [*strace, *command("pretrain", data, workdir, *LONG)],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )
        assert finished.returncode == 73, finished.stderr
        return finished.stderr

    fresh, begun = tmp_path / "fresh", tmp_path / "begun"
    told = run_on_it(fresh)
    assert "Traceback" not in told
    assert "cannot read or write" in told and f"{fresh}/vocab.txt" in told
    assert saved_steps(fresh) == []
    finish("pretrain", data, begun, *LONG, "--config.training.stop_after=2")
    assert "CHECKPOINT 4 COULD NOT BE WRITTEN" in run_on_it(begun)
    assert saved_steps(begun) == [2]


@pytest.mark.chaos
def test_ten_random_kills_change_nothing(data, undisturbed, tmp_path):
    rng = np.random.default_rng(0)
    kills, newest = 0, 0
    while kills < 10:
        process = start("pretrain", data, tmp_path, *LONG, "--config.training.stop_after=12")
        began = time.monotonic()
        while process.poll() is None and not (tmp_path / "checkpoints").exists():
            time.sleep(0.05)
        time.sleep((time.monotonic() - began) * rng.uniform(0.1, 1.0))
        process.kill()
        output, _ = process.communicate()
        kills += process.returncode == -signal.SIGKILL
        found = saved_steps(tmp_path)
        assert (found[-1] if found else 0) >= newest, output
        newest = found[-1] if found else 0
        assert len(list(tmp_path.glob("checkpoints/*tmp*"))) <= 1
        if newest == 60:
            shutil.rmtree(tmp_path)  # too quick: once more from the start
            newest = 0
    finish("pretrain", data, tmp_path, *LONG)
    assert_same_run(tmp_path, undisturbed)


def usage() -> tuple[int, int, int]:
    """Bytes in memory, threads and open files of this process."""
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    opened = len(os.listdir("/proc/self/fd"))
    return 1024 * int(status["VmRSS"].split()[0]), int(status["Threads"]), opened


@pytest.mark.chaos
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_fifty_saves_leave_nothing_behind(tmp_path):
    state = fresh_state(0, {"blocks": {"mlp_text": {"up": {"kernel": (4, 1024, 1024)}}}})
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    memory = threads = files = 0
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in range(70):
            if step == 20:  # until then TensorStore's pool of 100 MB fills
                memory, threads, files = usage()
            checkpoints.save(dataclasses.replace(state, step=jnp.int32(step)), metrics={})
            checkpoints.wait()
        later = usage()
    assert later[0] - memory <= size
    assert later[1] <= threads + 2 and later[2] <= files + 2
    assert saved_steps(tmp_path) == [68, 69]
