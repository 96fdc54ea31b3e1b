"""Numbers gone wrong in real runs; rows 26 to 29 of the faults."""

import json

import jax
import numpy as np
import pytest
from runs import STEPS, arrays, finish, start, wait_for_step

from ivt_jax.training.checkpoint import saved_steps
from ivt_jax.training.telemetry import read_metrics

EACH = "--config.training.save_epochs=0.01"  # a checkpoint after every step


def health(found, name):
    (value,) = (x for path, x in found.items() if "'health'" in path and f"'{name}'" in path)
    return value


def nan(*batches):
    return ",".join(f"spoil@batch:{number}" for number in batches)


def assert_finite(workdir):
    for step in saved_steps(workdir):
        for path, value in arrays(workdir, step).items():
            assert np.isfinite(value).all(), (step, path)


def test_a_bad_batch_and_a_spike_are_skipped_on_every_device(data, tmp_path):
    options = ("--config.training.steps=14", EACH, "--config.training.keep=9")
    options += ("--config.training.skip_spikes=6", "--config.training.spike_window=8")
    faults = f"{nan(3, 14)},spoil@spike:12"
    output = finish("pretrain", data, tmp_path, *options, devices=2, IVT_FAULT=faults)
    assert "step 3 is not saved: it was skipped" in output
    assert "skipped steps up to step 12: 1 more, 2 in all, 1 of them as spikes" in output
    before, after = arrays(tmp_path, 13), arrays(tmp_path, 14)
    assert health(after, "skipped") == 3 and health(after, "spikes") == 1
    assert health(after, "in_row") == 1 and health(before, "in_row") == 0
    # The last step is saved, as good as the one before it; only counts move on.
    moved = {path for path in after if not np.array_equal(before[path], after[path])}
    assert moved and all("health" in path or "count" in path for path in moved), moved
    assert saved_steps(tmp_path) == [5, 6, 7, 8, 9, 10, 11, 13, 14]
    lines = read_metrics(tmp_path)
    assert [line["loss"] is None for line in lines] == [n in (3, 14) for n in range(1, 15)]
    assert lines[-1]["learning_rate"] < lines[-2]["learning_rate"], "the schedule goes on"


ROW = ("--config.training.skip_limit=3", "--config.training.steps=12", EACH)


def test_a_row_of_bad_batches_is_left_behind(data, tmp_path):
    output = finish("pretrain", data, tmp_path, *ROW, IVT_FAULT=nan(5, 6, 7))
    assert "steps 5 to 7 were skipped; back to step 4" in output
    final = arrays(tmp_path, 12)
    assert health(final, "skipped") == 3 and health(final, "offset") == 3
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 13)), "no step stands there twice"
    assert all(line["loss"] for line in lines)
    report = json.loads((tmp_path / "skipped-7.json").read_text())
    assert [(line["step"], line["loss"]) for line in report["steps"]] == [
        (step, "nan") for step in (5, 6, 7)
    ]
    first = report["steps"][0]
    assert len(first["samples"]) == 8
    assert {sample["dataset"] for sample in first["samples"]} == {"synthetic_scenes"}
    assert first["gradient_norms"].keys() == report["parameter_norms"].keys()
    assert "blocks/attention/qkv/kernel" in report["parameter_norms"]


def test_a_run_that_no_rollback_mends_stops(data, tmp_path):
    """Every batch from the fifth on is bad, so going back twice does not help."""
    output = finish("pretrain", data, tmp_path, *ROW, code=3, IVT_FAULT=nan(*range(5, 40)))
    assert output.count("skipped; back to step 4") == 2
    assert "the run has diverged" in output and "2 times did not help" in output
    assert "Traceback" not in output
    assert {file.name for file in tmp_path.glob("skipped-*.json")} == {
        f"skipped-{batch}.json" for batch in (7, 10, 13)
    }
    assert saved_steps(tmp_path) == [3, 4]
    assert_finite(tmp_path)


def test_a_flipped_bit_is_found_and_its_device_named(data, tmp_path):
    options = ("--config.training.steps=9", "--config.training.replica_steps=2")
    output = finish(
        "pretrain", data, tmp_path, *options, code=3, devices=4, IVT_FAULT="spoil@copy:3"
    )
    assert "step 3/9" in output and "step 5/9" not in output
    assert "at step 4 copies of the same values differ" in output
    assert "of process 0: params/" in output and "Traceback" not in output
    assert saved_steps(tmp_path) == []


@pytest.mark.chaos
def test_a_far_too_high_learning_rate_stops_without_a_bad_checkpoint(data, tmp_path):
    options = (f"--config.training.steps={STEPS}", "--config.training.save_epochs=0.4")
    options += ("--config.optimizer.learning_rate=1000.0", "--config.optimizer.clip_norm=0.0")
    output = finish("pretrain", data, tmp_path, *options, code=3)
    assert "diverged" in output and "Traceback" not in output
    assert_finite(tmp_path)


@pytest.mark.chaos
def test_a_run_killed_in_a_rollback_ends_as_if_it_had_not_been(data, tmp_path):
    options = (f"--config.training.steps={STEPS}", "--config.training.save_epochs=0.4")
    options += ("--config.training.skip_limit=6",)
    faults = nan(*range(20, 27), 40)
    finish("pretrain", data, tmp_path / "a", *options, IVT_FAULT=faults)
    for step in (22, 19, 42):  # in the row, after going back, after a single bad step
        process = start("pretrain", data, tmp_path / "b", *options, IVT_FAULT=faults)
        wait_for_step(tmp_path / "b", step, process)
        process.kill()
        process.communicate()
    finish("pretrain", data, tmp_path / "b", *options, IVT_FAULT=faults)
    ours, theirs = arrays(tmp_path / "b", STEPS), arrays(tmp_path / "a", STEPS)
    assert ours.keys() == theirs.keys() and health(theirs, "offset") > 0
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
