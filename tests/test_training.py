"""The main job in real processes: pretrain, kill, resume, fine-tune, evaluate, refuse."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

import ivt_jax
from ivt_jax.data import synthetic
from ivt_jax.data.builders.dataset import write_dataset
from ivt_jax.data.builders.ingest import Split
from ivt_jax.training.checkpoint import FOLDER, saved_steps
from ivt_jax.training.telemetry import read_metrics

ROOT = Path(__file__).parent.parent
SIZES = {"train": 24, "val": 8, "test": 10}
SMALL = [
    "--config.model.width=32",
    "--config.model.depth=2",
    "--config.model.heads=2",
    "--config.model.patch_size=16",
    "--config.model.patch_stride=16",
    "--config.training.batch_size=8",
    "--config.training.log_steps=1",
    "--config.evaluation.batch_size=32",
    "--config.schedule.warmup_epochs=0.1",
    "--config.optimizer.learning_rate=0.001",
]
COMPARED = ("step", "kind", "loss", "learning_rate", "gradient_norm", "R1", "mAP")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    people = {s: synthetic.people_records(s, identities=n) for s, n in SIZES.items()}
    scenes = {"train": synthetic.scene_records("train", scenes=60)}
    for name, splits in (("synthetic_people", people), ("synthetic_scenes", scenes)):
        write_dataset(
            name,
            {s: Split(range(len(r)), r.__getitem__) for s, r in splits.items()},
            out=folder,
            vocabulary=synthetic.vocabulary(),
        )
    return folder


def command(stage, data, workdir, *options):
    variant = {"pretrain": "pretrain", "finetune": "finetune"}[stage]
    return [
        *(sys.executable, "-m", f"{stage}.main", f"--config=configs/demo.py:{variant}"),
        *(f"--workdir={workdir}", f"--config.data.directory={data}", *SMALL, *options),
    ]


def environment():
    # One device: what a user's own process has.
    return os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}


def start(*arguments):
    return subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*arguments, code=0):
    process = start(*arguments)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == code, output
    return output


def wait_for_step(workdir, step, process):
    file = workdir / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if file.exists() and len(file.read_text().splitlines()) >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was not reached: {process.communicate()[0]}")


def compared_metrics(workdir):
    return [{k: line[k] for k in COMPARED if k in line} for line in read_metrics(workdir)]


def arrays(workdir, step):
    import orbax.checkpoint as ocp

    folder = (workdir / FOLDER / str(step)).absolute()
    with warnings.catch_warnings(), ocp.PyTreeCheckpointer() as reader:
        warnings.simplefilter("ignore")  # on this one device, the saved placement is the right one
        items = {name: reader.restore(folder / name) for name in ("params", "optimizer")}
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(items)
    }


LONG = ("--config.training.steps=60", "--config.training.save_epochs=0.4")


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    output = finish("pretrain", data, workdir, *LONG)
    assert "step 60 of 60 is saved" in output
    return workdir


def assert_same_run(workdir, reference):
    assert compared_metrics(workdir) == compared_metrics(reference)
    ours, theirs = arrays(workdir, 60), arrays(reference, 60)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_killed_and_resumed_equals_undisturbed_bit_for_bit(data, undisturbed, tmp_path):
    process = start("pretrain", data, tmp_path, *LONG)
    wait_for_step(tmp_path, 15, process)
    process.kill()
    process.communicate()
    done = saved_steps(tmp_path)
    assert done and done[-1] < 60
    assert f"resumed at step {done[-1]}" in finish("pretrain", data, tmp_path, *LONG)
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_same_command_goes_on(data, undisturbed, tmp_path, number, code):
    process = start("pretrain", data, tmp_path, *LONG)
    wait_for_step(tmp_path, 5, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == code, output
    step = saved_steps(tmp_path)[-1]
    assert f"step {step} of 60 is saved" in output and "goes on" in output
    # No step was lost: the last line of metrics is the saved step.
    assert compared_metrics(tmp_path)[-1]["step"] == step
    finish("pretrain", data, tmp_path, *LONG)
    assert_same_run(tmp_path, undisturbed)


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
        env=environment() | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert "166,450,176 parameters" in finished.stdout
    losses = [line["loss"] for line in read_metrics(tmp_path)]
    assert len(losses) == 3 and np.isfinite(losses).all()
