"""Starting from another run: tables fit another grid, and what cannot fit is an error."""

import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from tiny import CONFIG, network

from configs.base import get_config
from ivt_jax.config import resolved_json
from ivt_jax.convert.positions import resize_positions
from ivt_jax.errors import UserError
from ivt_jax.training.checkpoint import Checkpoints
from ivt_jax.training.state import TrainState
from ivt_jax.training.transfer import params_of_run

VOCABULARY = b"[PAD]\n[UNK]\n"
SHA256 = hashlib.sha256(VOCABULARY).hexdigest()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with the tiny network at step 3 and, better, at step 2."""
    folder = tmp_path_factory.mktemp("run")
    config = get_config()
    config.model.update(dataclasses.asdict(CONFIG))
    (folder / "config.json").write_text(resolved_json(config))
    (folder / "vocab.txt").write_bytes(VOCABULARY)
    transform = optax.sgd(0.1)
    with Checkpoints(folder, keep=2) as checkpoints:
        for step, score in ((2, 9.0), (3, 4.0)):
            params = jax.tree.map(lambda x, step=step: x * step, params_of_network())
            state = TrainState(jnp.int32(step), params, transform.init(params))
            checkpoints.save(state, metrics={"score": score})
        checkpoints.wait()
    return folder


def params_of_network():
    return nnx.to_pure_dict(nnx.state(network(), nnx.Param))


def test_the_same_network_comes_back_as_it_was(run):
    params, note = params_of_run(run, CONFIG, step=3, vocabulary_sha256=SHA256)
    expected = jax.tree.map(lambda x: x * 3, params_of_network())
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert "step 3" in note and "resized" not in note


def test_the_best_step_is_the_default(run):
    params, note = params_of_run(run, CONFIG, step=-1, vocabulary_sha256=SHA256)
    np.testing.assert_array_equal(params["norm"]["scale"], 2 * params_of_network()["norm"]["scale"])
    assert "step 2" in note


@pytest.mark.parametrize(
    ("changes", "grid"),
    [
        ({"patch_stride": 12}, (5, 2)),
        ({"image_size": (96, 64)}, (6, 4)),
        ({"drop_path": 0.3, "layers": "scan", "dtype": "bfloat16"}, (4, 2)),
    ],
)
def test_image_tables_fit_another_grid(run, changes, grid):
    config = dataclasses.replace(CONFIG, **changes)
    params, note = params_of_run(run, config, step=3, vocabulary_sha256=SHA256)
    for name, original in params_of_network().items():
        if name in ("image_positions", "image_types"):
            original = resize_positions(3 * original, source=(4, 2), target=grid)
            np.testing.assert_allclose(params[name], original, atol=1e-6)
            assert len(params[name]) == config.image_tokens
        elif name != "blocks":
            same = jax.tree.map(lambda a, b: np.array_equal(a, 3 * b), params[name], original)
            assert all(jax.tree.leaves(same)), name
    assert ("resized from (4, 2)" in note) == (grid != (4, 2))


def test_another_vocabulary_is_an_error(run):
    with pytest.raises(UserError, match="another vocabulary"):
        params_of_run(run, CONFIG, step=3, vocabulary_sha256="0" * 64)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"width": 64}, ["blocks/norm1/scale: (2, 32) there, (2, 64) here", "word_table"]),
        ({"depth": 3}, ["blocks/attention/qkv/kernel: (2, 32, 96) there, (3, 32, 96) here"]),
        ({"heads": 8}, ["heads: 4 there, 8 here"]),
    ],
)
def test_another_architecture_is_an_error_that_lists_all(run, changes, named):
    config = dataclasses.replace(CONFIG, **changes)
    with pytest.raises(UserError, match="another architecture") as caught:
        params_of_run(run, config, step=3, vocabulary_sha256=SHA256)
    assert all(part in str(caught.value) for part in named)


def test_a_folder_without_checkpoints_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoints"):
        params_of_run(tmp_path, CONFIG, step=-1, vocabulary_sha256=SHA256)
