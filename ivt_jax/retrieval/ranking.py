"""Ranking on device, block by block, without ever sorting a gallery or holding (Q, G) scores."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ivt_jax.retrieval.metrics import positives, sort_ranks


def ranks_of_positives(
    query_embeddings: ArrayLike,
    gallery_embeddings: ArrayLike,
    query_identities: np.ndarray,
    gallery_identities: np.ndarray,
    *,
    block_size: int = 256,
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks every right photo of every query by counting the photos ahead of it.

    A photo is ahead if it scores higher, or the same with a smaller index, so on the same scores
    this equals a stable sort exactly. Scores are float32 dot products at full precision.

    Args:
        query_embeddings: float32 (Q, D), L2-normalised.
        gallery_embeddings: float32 (G, D), L2-normalised.
        query_identities: (Q,).
        gallery_identities: (G,).
        block_size: queries scored at once; memory is about 2 * block_size * G floats.

    Returns:
        Ranks int32 (Q, P) from 0, rising, G in the padding, and valid bool (Q, P): what
        `metrics_from_ranks` takes.

    Raises:
        ValueError: shapes disagree, something is empty, or an embedding is not finite.
    """
    queries, gallery = _check(query_embeddings, gallery_embeddings, block_size)
    indices, valid = positives(query_identities, gallery_identities)
    if len(valid) != len(queries) or np.size(gallery_identities) != len(gallery):
        raise ValueError(
            f"{len(queries)} query and {len(gallery)} gallery embeddings came with {len(valid)} "
            f"and {np.size(gallery_identities)} identities; each embedding needs one"
        )
    blocks = zip(
        _blocks(queries, block_size), _blocks(indices.astype(np.int32), block_size), strict=True
    )
    counts = [_count_ahead(block, gallery, right) for block, right in blocks]
    ranks = np.concatenate(jax.device_get(counts))[: len(queries)]  # (Q, P)
    return sort_ranks(ranks, valid, padding=len(gallery))


def top_k(
    query_embeddings: ArrayLike, gallery_embeddings: ArrayLike, *, k: int, block_size: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k best photos of each query.

    Equal scores come in the order of the gallery: `jax.lax.top_k` puts the smaller index first,
    and negative zero, which it would place below zero, is made zero before.

    Args:
        query_embeddings: float32 (Q, D), L2-normalised.
        gallery_embeddings: float32 (G, D), L2-normalised.
        k: photos a query, 1 to G.
        block_size: queries scored at once.

    Returns:
        Scores float32 (Q, k), falling, and gallery indices int32 (Q, k).

    Raises:
        ValueError: shapes disagree, something is empty, k is out of range, or an embedding is not
            finite.
    """
    queries, gallery = _check(query_embeddings, gallery_embeddings, block_size)
    if not 1 <= k <= len(gallery):
        raise ValueError(f"k must be from 1 to the gallery's {len(gallery)} photos, got {k}")
    found = [_best(block, gallery, k=k) for block in _blocks(queries, block_size)]
    scores, indices = zip(*jax.device_get(found), strict=True)
    return np.concatenate(scores)[: len(queries)], np.concatenate(indices)[: len(queries)]


@jax.jit
def _count_ahead(queries: jax.Array, gallery: jax.Array, indices: jax.Array) -> jax.Array:
    scores = _scores(queries, gallery)  # (R, G)
    columns = jnp.arange(scores.shape[1], dtype=jnp.int32)  # (G,)

    def ahead(index: jax.Array) -> jax.Array:
        own = jnp.take_along_axis(scores, index[:, None], axis=1)  # (R, 1)
        tied = (scores == own) & (columns < index[:, None])
        return jnp.sum((scores > own) | tied, axis=1, dtype=jnp.int32)  # (R,)

    # One right photo at a time, so that nothing is ever (R, G, P).
    return jax.lax.map(ahead, indices.T).T  # (R, P)


@partial(jax.jit, static_argnames="k")
def _best(queries: jax.Array, gallery: jax.Array, *, k: int) -> tuple[jax.Array, jax.Array]:
    scores = _scores(queries, gallery)  # (R, G)
    return jax.lax.top_k(jnp.where(scores == 0, 0.0, scores), k)  # (R, k) each


def _scores(queries: jax.Array, gallery: jax.Array) -> jax.Array:
    scores = jnp.einsum("qd,gd->qg", queries, gallery, precision=jax.lax.Precision.HIGHEST)
    # A photo must meet its own score again bit for bit, so the product is made only once.
    return jax.lax.optimization_barrier(scores)  # (R, G)


def _blocks(array: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(array), size):
        block = array[start : start + size]
        yield np.pad(block, ((0, size - len(block)), (0, 0)))  # one shape, hence one compilation


def _check(queries: ArrayLike, gallery: ArrayLike, block_size: int) -> tuple[np.ndarray, jax.Array]:
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}")
    arrays = {"query": np.asarray(queries), "gallery": np.asarray(gallery)}
    for name, array in arrays.items():
        if array.ndim != 2 or array.dtype != np.float32:
            raise ValueError(
                f"{name} embeddings must be float32 (n, D), got {array.dtype} {array.shape}"
            )
        if not len(array):
            raise ValueError(f"there are no {name} embeddings, so there is nothing to rank")
        broken = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if len(broken):
            raise ValueError(
                f"{len(broken)} {name} embeddings contain NaN or infinity, the first is {broken[0]}"
            )
    if arrays["query"].shape[1] != arrays["gallery"].shape[1]:
        raise ValueError(
            f"query embeddings have {arrays['query'].shape[1]} entries and gallery embeddings "
            f"{arrays['gallery'].shape[1]}; both must come from the same model"
        )
    return arrays["query"], jnp.asarray(arrays["gallery"])
