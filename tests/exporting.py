"""A small dataset and a run on it that was never trained, for the tests of exports."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import network

from configs import demo
from ivt_jax.__main__ import main
from ivt_jax.config import resolved_json
from ivt_jax.data import synthetic
from ivt_jax.data.builders.dataset import write_dataset
from ivt_jax.data.builders.ingest import Split
from ivt_jax.model.ivt import IVTConfig
from ivt_jax.training.checkpoint import Checkpoints
from ivt_jax.training.state import TrainState

# Put on PYTHONPATH as sitecustomize.py: what a machine without JAX says.
WITHOUT_JAX = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent!r}:
            raise ModuleNotFoundError("absent here: " + name, name=name)

sys.meta_path.insert(0, Absent())
"""
NO_JAX = ("jax", "jaxlib", "flax", "ivt_jax")


def write_people(folder: Path, *, identities: int) -> Path:
    """synthetic_people with a test split alone, its last photo a copy of the first."""
    people = [*synthetic.people_records("test", identities=identities)]
    people.append(people[0] | {"key": "copy"})
    write_dataset(
        "synthetic_people",
        {"test": Split(range(len(people)), people.__getitem__)},
        out=folder,
        vocabulary=synthetic.vocabulary(),
    )
    return folder


def write_run(folder: Path, data: Path, **sizes) -> Path:
    """A run folder with one checkpoint, step 7, of random parameters."""
    config = demo.get_config("finetune")
    config.data.directory = str(data)
    config.data.text_length = 24
    config.evaluation.batch_size = 16
    config.model.update(width=32, heads=4, depth=2, patch_size=16, patch_stride=12, **sizes)
    params = nnx.to_pure_dict(nnx.state(network(IVTConfig(**config.model)), nnx.Param))
    folder.mkdir()
    (folder / "config.json").write_text(resolved_json(config))
    vocabulary = data / "synthetic_people" / "vocab.txt"
    (folder / "vocab.txt").write_bytes(vocabulary.read_bytes())
    with Checkpoints(folder, keep=1) as checkpoints:
        state = TrainState(jnp.int32(7), params, {"momentum": jnp.zeros(1)})
        checkpoints.save(state, metrics={"score": 1.0})
        checkpoints.wait()
    return folder


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Prepared data; this and the fixtures below are imported by the modules that use them."""
    return write_people(tmp_path_factory.mktemp("data"), identities=12)


@pytest.fixture(scope="module")
def run(people, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "run", people)


@pytest.fixture(scope="module")
def scored(run):
    """What `evaluate` records about the run."""
    assert main(["evaluate", f"--run={run}", "--rows=1"]) == 0
    return json.loads((run / "results" / "synthetic_people-test-step7.json").read_text())


@pytest.fixture(scope="module")
def folder(run, scored, tmp_path_factory):
    """The run exported for PyTorch, with its test split."""
    out = tmp_path_factory.mktemp("exported") / "model"
    assert main(["export", f"--run={run}", f"--out={out}", "--with_split=test"]) == 0
    return out


def python_without(tmp_path: Path, absent: tuple[str, ...], *argv: str):
    """Runs Python where importing any of `absent` fails; returns the finished process."""
    site = tmp_path / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(WITHOUT_JAX.format(absent=absent))
    return subprocess.run(
        [sys.executable, *argv],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def random_texts(vocabulary: int, *, rows: int, length: int, shortest: int = 2):
    """Token ids (rows, length) and mask of `shortest` to `length` real tokens."""
    rng = np.random.default_rng(rows)
    real = rng.integers(shortest, length + 1, (rows, 1))
    mask = np.arange(length) < real
    return np.where(mask, rng.integers(3, vocabulary, (rows, length)), 0), mask
