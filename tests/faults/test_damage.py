"""Files that change after they were written, and runs that are no longer what was saved."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from runs import LONG, ROOT, assert_same_run, environment, finish

from ivt_jax.training.checkpoint import saved_steps

LARGE = 10_000  # bytes; a flipped bit in such a file is in an array


@pytest.fixture(scope="module")
def begun(data, tmp_path_factory):
    """A run that stopped at step 7, with the steps 4 and 7."""
    workdir = tmp_path_factory.mktemp("begun")
    finish("pretrain", data, workdir, *LONG, "--config.training.stop_after=7")
    assert saved_steps(workdir) == [4, 7]
    return workdir


@pytest.fixture
def run(begun, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(begun, tmp_path / "run"))


def flip(folder: Path) -> None:
    """Flips a bit in every large file below."""
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size > LARGE:
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 16
            path.write_bytes(content)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def ivt(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "ivt_jax", *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_flipped_bit_costs_one_save_and_the_run_ends_the_same(data, undisturbed, run):
    flip(run / "checkpoints" / "7" / "params")
    told = ivt("verify", f"--run={run}")
    assert told.returncode == 4 and "1 of 2 can be used" in told.stdout
    assert "its SHA-256 is another" in told.stdout and "Traceback" not in told.stderr
    output = finish("pretrain", data, run, *LONG)
    assert "checkpoint 7 is damaged" in output and "resumed at step 4" in output
    assert (run / "checkpoints" / "7.corrupt").is_dir() and "Traceback" not in output
    assert_same_run(run, undisturbed)
    told = ivt("verify", f"--run={run}")
    assert told.returncode == 0 and "set aside" in told.stdout, told.stdout


def test_with_every_checkpoint_bad_nothing_starts_and_nothing_is_overwritten(data, run):
    flip(run / "checkpoints")
    before = contents(run / "checkpoints")
    for _ in range(2):
        output = finish("pretrain", data, run, *LONG, code=4)
        assert "holds no good checkpoint; damaged are 4.corrupt, 7.corrupt" in output
        assert "Traceback" not in output
    after = contents(run / "checkpoints")
    assert after == {name.replace("/", ".corrupt/", 1): text for name, text in before.items()}


@pytest.mark.parametrize("file", ["metrics/metrics", "fingerprint/metadata", "params/_METADATA"])
def test_readers_refuse_what_is_damaged_with_a_sentence(run, tmp_path, file):
    for step in (4, 7):
        path = run / "checkpoints" / str(step) / file
        path.write_bytes(path.read_bytes()[:-9])
    finished = ivt("export", f"--run={run}", "--to=official", f"--out={tmp_path / 'ivt.pth'}")
    assert finished.returncode == 4, finished.stderr
    assert "damaged" in finished.stderr and "Traceback" not in finished.stderr
    assert not (tmp_path / "ivt.pth").exists()


def test_another_model_is_refused_with_the_paths(data, run):
    before = (run / "config.json").read_text()
    options = ("--config.model.depth=1", "--config.training.changed_config=accept")
    output = finish("pretrain", data, run, *LONG, *options, code=2)
    assert "params/blocks/norm1/scale: float32 (2, 32) there, float32 (1, 32) here" in output
    assert "Traceback" not in output and (run / "config.json").read_text() == before


@pytest.mark.chaos
def test_a_changed_configuration_is_printed_and_goes_on_only_if_accepted(data, run):
    changed = ("--config.seed=5", "--config.data.sampler=shuffle", "--config.data.flip=0.25")
    output = finish("pretrain", data, run, *LONG, *changed, code=2)
    assert "seed: 1234 -> 5" in output and "data.flip: 0.5 -> 0.25" in output
    assert "--config.training.changed_config=accept" in output
    accept = ("--config.training.changed_config=accept", "--config.training.stop_after=1")
    output = finish("pretrain", data, run, *LONG, *changed, *accept)
    assert "resumed at step 7" in output and "changed: seed: 1234 -> 5" in output
    # It is now the run's own. What an older release did not know is no change.
    stored = json.loads((run / "config.json").read_text())
    del stored["model"]["remat"]
    (run / "config.json").write_text(json.dumps(stored))
    output = finish("pretrain", data, run, *LONG, *changed, "--config.training.stop_after=1")
    assert "resumed at step 8" in output and "changed: seed" not in output
