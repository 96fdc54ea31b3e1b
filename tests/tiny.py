"""A network and batches small enough for tests, in the shapes of the real ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ivt_jax.model.ivt import IVT, IVTConfig
from ivt_jax.training.sharding import path_name

CONFIG = IVTConfig(
    image_size=(64, 32),
    width=32,
    depth=2,
    heads=4,
    vocabulary_size=50,
    max_text_positions=16,
    layers="unroll",
)


@functools.cache
def network(config: IVTConfig = CONFIG) -> IVT:
    """A network with random parameters, biases and norms included."""
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: IVT(config, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        centre = 1.0 if "scale" in path_name(path) else 0.0
        return jnp.asarray(centre + 0.1 * rng.normal(size=leaf.shape), leaf.dtype)

    with jax.ensure_compile_time_eval():
        return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(draw, shapes))


def training_batch(*, rows: int, views: int, length: int = 10, seed: int = 0) -> dict:
    """Random images, texts of 2 to `length` tokens, identities in pairs."""
    rng = np.random.default_rng(seed)
    real = rng.integers(2, length + 1, (rows, views))
    token_mask = np.arange(length) < real[..., None]
    token_ids = rng.integers(3, CONFIG.vocabulary_size, (rows, views, length))
    return {
        "images": rng.integers(0, 256, (rows, views, *CONFIG.image_size, 3), np.uint8),
        "token_ids": np.where(token_mask, token_ids, 0).astype(np.int32),
        "token_mask": token_mask,
        "identities": (np.arange(rows) // 2).astype(np.int32),
    }
