"""Saved by some processes and devices, resumed by others; killed in the middle of a save."""

import signal

import numpy as np
import pytest
from runs import (
    LONG,
    arrays,
    compared_metrics,
    finish,
    finish_many,
    outputs,
    start_many,
)

from ivt_jax.training.checkpoint import saved_steps
from ivt_jax.training.integrity import read_record
from ivt_jax.training.telemetry import read_metrics
from ivt_jax.verify_run import verify_run

SHAPES = [(2, 2, 2), (1, 2, 1), (4, 1, 4), (1, 1, 1)]  # processes, devices of each, mesh.fsdp


def test_it_goes_on_on_any_number_of_processes_and_devices(data, undisturbed, tmp_path):
    for number, (processes, devices, fsdp) in enumerate(SHAPES):
        options = (*LONG, "--config.training.stop_after=5", f"--config.mesh.fsdp={fsdp}")
        told = finish_many(
            "pretrain", data, tmp_path, *options, processes=processes, devices=devices
        )
        # A restore compares the fingerprints of the state as it lies on the new mesh.
        if number:
            assert f"resumed at step {5 * number}" in told[0]
        assert f"on {processes * devices} cpu device" in told[0] and "damaged" not in told[0]
    assert {row.verdict for row in verify_run(tmp_path)} == {"whole"}
    expected = {line["step"]: line["loss"] for line in read_metrics(undisturbed)}
    found = {line["step"]: line["loss"] for line in read_metrics(tmp_path)}
    assert sorted(found) == list(range(1, 21))
    np.testing.assert_allclose(list(found.values()), [expected[step] for step in found], rtol=1e-6)


@pytest.mark.chaos
@pytest.mark.parametrize("fault", ["kill@save.pre_commit:8:0", "kill@save.mid:8:1"])
def test_killed_while_two_processes_save_the_restart_is_exact(data, tmp_path, fault):
    reference, run = tmp_path / "reference", tmp_path / "run"
    options = (*LONG, "--config.training.stop_after=12")
    finish_many("pretrain", data, reference, *options, processes=2)
    started = start_many("pretrain", data, run, *options, processes=2, IVT_FAULT=fault)
    outputs(started)
    assert started[int(fault[-1])].returncode == -signal.SIGKILL
    assert all(process.returncode for process in started), "the other does not stay alone"
    newest = saved_steps(run)[-1]
    assert newest in (4, 8)
    rest = f"--config.training.stop_after={12 - newest}"
    told = finish_many("pretrain", data, run, *LONG, rest, processes=2)
    assert f"resumed at step {newest}" in told[0]
    assert compared_metrics(run) == compared_metrics(reference)
    ours, theirs = arrays(run, 12), arrays(reference, 12)
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


@pytest.mark.chaos
def test_a_disk_full_for_one_process_fails_the_save_for_all_and_the_run_goes_on(data, tmp_path):
    fault = "spoil@save.full:8:1"  # as on a host whose quota is spent
    options = (*LONG, "--config.training.stop_after=16")
    told = finish_many("pretrain", data, tmp_path, *options, processes=2, IVT_FAULT=fault)
    assert "CHECKPOINT 8 COULD NOT BE WRITTEN" in told[0]
    assert saved_steps(tmp_path) == [12, 16]
    record = read_record(tmp_path / "checkpoints" / "16")
    assert record and record["step"] == 16


@pytest.mark.chaos
@pytest.mark.parametrize("devices", [2, 4])
def test_one_process_goes_on_on_other_devices(data, undisturbed, tmp_path, devices):
    options = (*LONG, "--config.training.stop_after=5", f"--config.mesh.fsdp={devices // 2}")
    finish("pretrain", data, tmp_path, *options, devices=devices)
    assert "resumed at step 5" in finish("pretrain", data, tmp_path, *options[:-1])
    expected = [line["loss"] for line in read_metrics(undisturbed)][:10]
    found = [line["loss"] for line in read_metrics(tmp_path)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
