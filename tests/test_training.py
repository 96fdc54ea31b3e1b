"""The main job in real processes: pretrain, kill, resume, fine-tune, evaluate, refuse."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from runs import (
    LONG,
    ROOT,
    SIZES,
    assert_same_run,
    compared_metrics,
    environment,
    finish,
    start,
    wait_for_step,
)

import ivt_jax
from ivt_jax.data import synthetic
from ivt_jax.training.checkpoint import saved_steps
from ivt_jax.training.goodput import read_goodput, totals
from ivt_jax.training.telemetry import read_metrics


def test_killed_and_resumed_equals_undisturbed_bit_for_bit(data, undisturbed, tmp_path):
    began = time.time()
    process = start("pretrain", data, tmp_path, *LONG)
    wait_for_step(tmp_path, 15, process)
    process.kill()
    process.communicate()
    done = saved_steps(tmp_path)
    assert done and done[-1] < 60
    assert f"resumed at step {done[-1]}" in finish("pretrain", data, tmp_path, *LONG)
    assert_same_run(tmp_path, undisturbed)
    lines = read_goodput(tmp_path)
    assert 0 < lines[0].began - began + 0.1 < 5 and lines[-1].process == 2
    spent, wall = totals(lines), lines[-1].ended - lines[0].began
    assert sum(spent.values()) == pytest.approx(wall, rel=0.01) and wall < time.time() - began
    assert min(spent["start"], spent["compile"], spent["restore"], spent["gap"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_same_command_goes_on(data, undisturbed, tmp_path, number, code):
    process = start("pretrain", data, tmp_path, *LONG)
    wait_for_step(tmp_path, 5, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == code, output
    assert saved_steps(tmp_path), output
    step = saved_steps(tmp_path)[-1]
    assert f"step {step} of 60 is saved" in output and "goes on" in output
    # No step was lost: the last line of metrics is the saved step.
    assert compared_metrics(tmp_path)[-1]["step"] == step
    finish("pretrain", data, tmp_path, *LONG)
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.slow
def test_stop_after_ends_early_and_is_no_other_run(data, undisturbed, tmp_path):
    finish("pretrain", data, tmp_path, *LONG, "--config.training.stop_after=7")
    assert saved_steps(tmp_path)[-1] == 7
    finish("pretrain", data, tmp_path, *LONG)
    assert_same_run(tmp_path, undisturbed)


def test_another_configuration_is_refused_by_field(data, undisturbed):
    output = finish(
        "pretrain", data, undisturbed, *LONG, "--config.optimizer.learning_rate=0.5", code=2
    )
    assert "optimizer.learning_rate: 0.001 -> 0.5" in output
    assert "Traceback" not in output


def test_a_diverged_run_stops_with_a_sentence_and_saves_nothing_more(data, tmp_path):
    options = (*LONG, "--config.optimizer.learning_rate=1e38", "--config.optimizer.clip_norm=0.0")
    output = finish("pretrain", data, tmp_path, *options, code=3)
    assert "diverged" in output and "Traceback" not in output


@pytest.fixture(scope="module")
def tuned(data, undisturbed, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("tuned")
    options = ("--config.training.steps=12", "--config.training.eval_epochs=0.4")
    options += ("--config.evaluation.report=test", f"--config.init.run={undisturbed}")
    output = finish("finetune", data, workdir, *options)
    assert f"parameters from {undisturbed}, step 60" in output
    return workdir


def test_fine_tuning_evaluates_val_and_test_and_keeps_both_scores(tuned):
    kinds = [line["kind"] for line in read_metrics(tuned)]
    assert kinds.count("val") == kinds.count("test") >= 2
    best = ivt_jax.load(tuned)
    scores = {
        line["step"]: (line["R1"] + line["mAP"]) / 2
        for line in read_metrics(tuned)
        if line["kind"] == "val"
    }
    assert scores[best.step] == max(scores.values())


def test_loaded_models_encode_photos_and_sentences(tuned):
    model = ivt_jax.load(tuned)
    record = synthetic.people_records("test", identities=10)[0]
    photos = np.zeros((3, 100, 60, 3), np.uint8)
    embeddings = model.encode_image(photos)
    assert embeddings.shape == (3, 32) and embeddings.dtype == np.float32
    texts = model.encode_text(record["captions"])
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1.0, rtol=1e-5)


def test_the_evaluate_command_writes_what_it_says(data, tuned, tmp_path):
    step = ivt_jax.load(tuned).step
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "ivt_jax", "evaluate", f"--run={tuned}"),
            *("--split=test", f"--out={tmp_path}", "--rows=2"),
        ],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    stem = tmp_path / f"synthetic_people-test-step{step}"
    facts = json.loads(stem.with_suffix(".json").read_text())
    logged = [
        line for line in read_metrics(tuned) if line["kind"] == "test" and line["step"] == step
    ]
    for metric, value in facts["metrics"].items():
        assert value == pytest.approx(logged[-1][metric], abs=1e-6)
        assert f"{value:.2f}" in finished.stdout
    assert facts["identities"] == SIZES["test"]
    assert stem.with_suffix(".png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_base_model_takes_three_steps(data, tmp_path):
    options = ["--config=configs/cc4m.py:smoke", f"--workdir={tmp_path}"]
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "pretrain.main", *options),
            f"--config.data.directory={data}",
        ],
        cwd=ROOT,
        env=environment(XLA_FLAGS=""),
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert "166,450,176 parameters" in finished.stdout
    losses = [line["loss"] for line in read_metrics(tmp_path)]
    assert len(losses) == 3 and np.isfinite(losses).all()
