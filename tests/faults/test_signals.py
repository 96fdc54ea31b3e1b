"""Signals and the lock of the work directory, in one process: rows 5, 6, 7 and 21 of the faults."""

import os
import signal
import time

import pytest
from runs import LONG, compared_metrics, finish, start, wait_for_step, wait_for_text

from ivt_jax.training.checkpoint import saved_metrics, saved_steps
from ivt_jax.training.lock import FILE


def test_a_second_job_is_refused_a_second_signal_leaves_at_once_and_the_lock_is_taken_over(
    data, tmp_path
):
    first = start("pretrain", data, tmp_path, *LONG, IVT_FAULT="sleep@step:8")
    wait_for_text(first, "sleeps at step")

    refusal = finish("pretrain", data, tmp_path, *LONG, code=2)
    assert f"in use by process {first.pid} on {os.uname().nodename}" in refusal
    assert "Traceback" not in refusal

    first.send_signal(signal.SIGTERM)  # noted, but a thread that sleeps does not come to save
    time.sleep(1)
    assert first.poll() is None
    began = time.monotonic()
    first.send_signal(signal.SIGTERM)
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 143, output
    assert time.monotonic() - began < 10  # 2 on an idle machine
    assert (tmp_path / FILE).exists()

    output = finish("pretrain", data, tmp_path, *LONG, "--config.training.stop_after=1")
    assert f"took over a lock left behind by process {first.pid}" in output
    assert "resumed at step 4" in output, output
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize(
    ("point", "number", "code"),
    [
        ("startup.restore", signal.SIGTERM, 143),
        ("startup.compile", signal.SIGINT, 130),
        ("data.wait::", signal.SIGTERM, 143),
    ],
)
@pytest.mark.chaos
def test_before_the_first_step_a_signal_leaves_at_once(data, tmp_path, point, number, code):
    process = start("pretrain", data, tmp_path, *LONG, IVT_FAULT=f"sleep@{point}")
    wait_for_text(process, "IVT_FAULT sleeps")
    began = time.monotonic()
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert time.monotonic() - began < 5
    assert "before there was anything new to save" in output and "Traceback" not in output
    assert not (tmp_path / FILE).exists()
    finish("pretrain", data, tmp_path, "--config.training.steps=3")


def test_a_signal_while_data_is_awaited_saves_the_last_step(data, tmp_path):
    process = start("pretrain", data, tmp_path, *LONG, IVT_FAULT="sleep@data.wait:6")
    wait_for_text(process, "sleeps at data.wait")
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 143, output
    assert "step 5 of 60 is saved" in output
    assert saved_steps(tmp_path) == [4, 5]
    assert time.monotonic() - began < 60


@pytest.mark.chaos
def test_a_signal_while_evaluating_saves_and_the_evaluation_is_made_up_for(data, tmp_path):
    options = ("--config.training.steps=6", "--config.training.eval_epochs=0.2")
    options += ("--config.training.save_epochs=0", "--config.evaluation.report=test")
    process = start("finetune", data, tmp_path, *options, IVT_FAULT="slow@evaluate")
    wait_for_text(process, "step 4/6  loss")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 143, output
    done = saved_steps(tmp_path)[-1]
    assert done == 4 and saved_metrics(tmp_path, done)["score"] < 0
    finish("finetune", data, tmp_path, *options)
    finish("finetune", data, tmp_path / "undisturbed", *options)
    assert compared_metrics(tmp_path) == compared_metrics(tmp_path / "undisturbed")
    assert saved_metrics(tmp_path, done)["score"] > 0


@pytest.mark.chaos
@pytest.mark.parametrize("grace", [1, 5, 30])
def test_a_kill_after_the_grace_keeps_what_was_saved(data, tmp_path, grace):
    process = start("pretrain", data, tmp_path, *LONG)
    wait_for_step(tmp_path, 8, process)
    before = saved_steps(tmp_path)
    process.send_signal(signal.SIGTERM)
    time.sleep(grace)
    process.kill()
    process.communicate()
    after = saved_steps(tmp_path)
    assert set(before) <= set(after) and after
    output = finish("pretrain", data, tmp_path, *LONG, "--config.training.stop_after=1")
    assert f"resumed at step {after[-1]}" in output
