"""The gradients of one step: of the batch at once, or of micro-batches one after the other."""

import functools
from collections.abc import Callable

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from ivt_jax.training.sharding import batch_sharded


def make_gradients(
    objective: Callable, graphdef, *, accumulate: int = 1, negatives: str = "micro"
) -> Callable:
    """The function (params, batch, key) -> (gradients, metrics).

    Args:
      objective: (model, batch, key) -> (scalar loss, dict of float32 scalars); for "all" an
        `Objective`, whose features and loss are used apart.
      accumulate: micro-batches, each with its own key; 1 = the batch at once.
      negatives: "micro" averages over contiguous micro-batches that see only their own rows.
        "all" is the big batch: it encodes every micro-batch and keeps nothing but features,
        compares them all, then encodes each again with the same key to pull its gradients back.

    Raises:
      ValueError: unknown `negatives`.
    """
    if negatives not in ("micro", "all"):
        raise ValueError(f'negatives must be "micro" or "all", not {negatives!r}')
    if accumulate == 1:
        return functools.partial(_at_once, objective, graphdef)
    accumulated = _of_micro_batches if negatives == "micro" else _of_the_big_batch
    return functools.partial(accumulated, objective, graphdef, accumulate)


def _at_once(objective, graphdef, params, batch: dict, key):
    def loss_of(params):
        return objective(nnx.merge(graphdef, params), batch, key)

    (_, metrics), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
    return gradients, metrics


def _of_micro_batches(objective, graphdef, accumulate: int, params, batch: dict, key):
    """Means of gradients and metrics over contiguous parts, which keep the sampler's groups."""

    def gradients(part, key):
        return _at_once(objective, graphdef, params, batch_sharded(part), key)

    def add(total, scanned):
        return jax.tree.map(jnp.add, total, gradients(*scanned)), None

    parts = _rearranged(batch, "(a b) ... -> a b ...", a=accumulate)
    keys = jax.random.split(key, accumulate)
    shapes = jax.eval_shape(gradients, jax.tree.map(lambda x: x[0], parts), keys[0])
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, (parts, keys))
    return jax.tree.map(lambda x: x / accumulate, total)


def _of_the_big_batch(objective, graphdef, accumulate: int, params, batch: dict, key):
    """Micro-batch k has rows k, k + accumulate, ...: every device's own rows, so that none move.

    Which rows share a key does not depend on the number of devices, either.
    """

    def features(params, part, key):
        return objective.features(nnx.merge(graphdef, params), batch_sharded(part), key)

    def encode(_, scanned):
        return None, features(params, *scanned)

    def add(total, scanned):
        part, key, slopes = scanned
        _, pull_back = jax.vjp(lambda params: features(params, part, key), params)
        return jax.tree.map(jnp.add, total, *pull_back(slopes)), None

    parts = _rearranged(batch, "(b a) ... -> a b ...", a=accumulate)
    keys = jax.random.split(key, accumulate)
    _, encoded = jax.lax.scan(encode, None, (parts, keys))
    encoded = batch_sharded(_rearranged(encoded, "a b ... -> (b a) ..."))
    loss = jax.value_and_grad(objective.loss, has_aux=True)
    (_, metrics), slopes = loss(encoded, batch["identities"])
    slopes = _rearranged(slopes, "(b a) ... -> a b ...", a=accumulate)
    zeros = jax.tree.map(jnp.zeros_like, params)
    gradients, _ = jax.lax.scan(add, zeros, (parts, keys, slopes))
    return gradients, metrics


def _rearranged(tree, pattern: str, **sizes: int):
    return jax.tree.map(lambda x: einops.rearrange(x, pattern, **sizes), tree)
