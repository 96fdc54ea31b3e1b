"""CMPM row by row without a (B, B) matrix: the columns pass by in chunks, twice.

The value needs one pass with a running maximum, as an online softmax does; the gradients need
another that recomputes the logits. Rows may be one device's share, with all columns gathered.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ivt_jax.losses.cmpm import checked, inverse_norm, row_norm

_NOWHERE = -1e30  # a logit whose probability is exactly zero, and finite in every product


def cmpm_rows(
    image_features: ArrayLike,
    text_features: ArrayLike,
    identities: ArrayLike,
    *,
    chunk: int,
    logits: str = "projection",
    target_norm: str = "l2",
    epsilon: float = 1e-8,
    gather: Callable[[jax.Array], jax.Array] = lambda rows: rows,
) -> jax.Array:
    """The loss of every row, both directions; their mean is `cmpm`, to float32 rounding.

    The largest arrays are (R, chunk) and (C, D), C being all the rows that `gather` brings
    together, in the value and in its (reverse-mode) gradients, which are exact.

    Args:
      image_features, text_features: (R, D); with `identities` (R,), as `cmpm` takes them.
      chunk: columns compared at once, at least 1; C need not be a multiple of it.
      logits, target_norm, epsilon: as `cmpm` takes them.
      gather: (R, ...) -> (C, ...), everything that these rows are compared with; on several
        devices, the rows of all of them.

    Returns:
      (R,) float32.

    Raises:
      ValueError: a chunk below 1, and whatever `cmpm` raises it for.
    """
    images, texts, identities = checked(image_features, text_features, identities, logits)
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1 column, not {chunk}")
    columns = [images, texts]
    if logits == "projection":
        columns = [x * inverse_norm(x)[:, None] for x in columns]
    all_images, all_texts, all_identities = (gather(x) for x in (*columns, identities))
    ordered = jnp.sort(all_identities)
    after, before = (jnp.searchsorted(ordered, identities, side=s) for s in ("right", "left"))
    norm = row_norm((after - before).astype(jnp.float32), target_norm)  # (R,)
    positive, negative = jnp.log(1 / norm + epsilon), jnp.log(jnp.float32(epsilon))

    def direction(rows, columns):
        parts = _chunks(columns, all_identities, chunk)
        return _divergence(rows, parts, identities, positive, negative)

    return direction(images, all_texts) + direction(texts, all_images)


def _chunks(columns, identities, chunk: int):
    """(C, D), (C,) -> (K, chunk, D), (K, chunk), and which of them are real: bool (K, chunk)."""
    count = len(columns)
    chunk = min(chunk, count)
    real = jnp.arange(count + -count % chunk) < count

    def split(x):
        x = jnp.pad(x, [(0, len(real) - len(x)), *[(0, 0)] * (x.ndim - 1)])
        return x.reshape(-1, chunk, *x.shape[1:])

    return split(columns), split(identities), split(real)


@jax.custom_vjp
def _divergence(rows, parts, identities, positive, negative):
    """Sum over j of p_ij (log p_ij - target_ij) for rows (R, D), p their softmax over columns."""
    return _forward(rows, parts, identities, positive, negative)[0]


def _forward(rows, parts, identities, positive, negative):
    block = functools.partial(_block, rows, identities, positive, negative)

    def add(carry, part):
        top, mass, total = carry  # (R,) each; mass and total are relative to the maximum so far
        scores, target = block(part)  # (R, chunk) each
        higher = jnp.maximum(top, jnp.max(scores, axis=1))
        scores = scores - higher[:, None]
        weights = jnp.exp(scores)
        shrink = jnp.exp(top - higher)
        total = shrink * (total + mass * (top - higher)) + jnp.sum(
            weights * (scores - target), axis=1
        )
        return (higher, shrink * mass + jnp.sum(weights, axis=1), total), None

    zeros = jnp.zeros_like(rows[:, 0])
    (top, mass, total), _ = jax.lax.scan(add, (zeros + _NOWHERE, zeros, zeros), parts)
    mean = total / mass  # of scores - top - target, under p
    saved = rows, parts, identities, positive, negative, top, mass, mean
    return mean - jnp.log(mass), saved


def _backward(saved, cotangent):
    rows, parts, identities, positive, negative, top, mass, mean = saved
    block = functools.partial(_block, rows, identities, positive, negative)
    scale = (cotangent / mass)[:, None]

    def pull(total, part):
        scores, target = block(part)
        scores = scores - top[:, None]
        slope = scale * jnp.exp(scores) * (scores - target - mean[:, None])  # (R, chunk)
        return total + _product(slope, part[0]), _product(slope.T, rows)

    to_rows, to_columns = jax.lax.scan(pull, jnp.zeros_like(rows), parts)
    return to_rows, (to_columns, None, None), None, None, None


_divergence.defvjp(_forward, _backward)


def _block(rows, identities, positive, negative, part):
    """Logits and log targets (R, chunk) of all rows and one chunk of columns."""
    columns, column_identities, real = part
    scores = jnp.where(real, _product(rows, columns.T), _NOWHERE)
    match = identities[:, None] == column_identities[None, :]
    return scores, jnp.where(match, positive[:, None], negative)


def _product(left, right):
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
