"""Bidirectional mask modelling (paper section 3.3): which tokens leave before the blocks.

Dropped tokens are removed, so the blocks get cheaper; hiding them as attention keys gives the
same class token and serves where their number is random. The class token always stays.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ivt_jax.model.products import dot

STRATEGIES = ("drop", "official", "none")
DRAWS = ("sample", "batch")


def image_slots(count: int, *, strategy: str, ratio: float) -> int:
    """How many of `count` image tokens, the class token among them, enter the blocks."""
    return count - int(ratio * (count - 1)) * (strategy == "drop")


def text_slots(length: int, *, strategy: str, ratio: float) -> int:
    """How many tokens of texts of up to `length` enter the blocks: the most that can be left."""
    if strategy != "drop":
        return length
    return 1 + int(np.max(np.arange(length) - _drops(length, ratio)))


def mask_images(key, tokens, *, strategy: str, ratio: float, draws: str):
    """Masks the patches of every image; the class token always stays.

    Args:
      key: randomness; None = no masking (evaluation).
      tokens: (B, N, D).
      strategy: "drop" removes floor(ratio * (N - 1)) patches; "official" hides a random number of
        them, `hidden_keys`, and moves them behind the others; "none".
      draws: "sample" draws for every sample, "batch" once for the whole batch.

    Returns:
      tokens (B, N', D), and how many come first that may be attended to: (B,) int32, or
      None for all.

    Raises:
      ValueError: unknown strategy or draws.
    """
    _check(strategy, draws)
    rows, count, _ = tokens.shape
    if key is None or strategy == "none":
        return tokens, None
    if strategy == "official":
        visible = ~hidden_keys(key, count, ratio=ratio, rows=rows, draws=draws)
        lengths = jnp.sum(visible, axis=1, dtype=jnp.int32)
        return _select(tokens, _first(visible, count)), jnp.broadcast_to(lengths, (rows,))
    dropped = count - image_slots(count, strategy=strategy, ratio=ratio)
    order = jnp.argsort(_scores(key, rows, count - 1, draws), axis=1)  # (B or 1, N - 1)
    kept = jnp.sort(order[:, dropped:], axis=1) + 1
    kept = jnp.concatenate([jnp.zeros_like(kept[:, :1]), kept], axis=1)  # (B or 1, N')
    return _select(tokens, kept), None


def visible_words(key, mask, *, strategy: str, ratio: float, draws: str):
    """Which tokens of texts stay: mask (B, L) bool of the real ones -> (B, L) bool.

    "drop" takes floor(ratio * n) of the n real tokens after [CLS] of every text; with
    draws="batch" all texts rank their tokens by one draw, and each loses its own share.
    "official" takes what `hidden_keys` says. Arguments and errors are those of `mask_images`.
    """
    _check(strategy, draws)
    rows, length = mask.shape
    if key is None or strategy == "none":
        return mask
    if strategy == "official":
        return mask & ~hidden_keys(key, length, ratio=ratio, rows=rows, draws=draws)
    drops = jnp.array(_drops(length, ratio))
    real = mask.at[:, 0].set(False)
    scores = jnp.where(real, _scores(key, rows, length, draws), 2.0)  # real ones first
    rank = jnp.argsort(jnp.argsort(scores, axis=1), axis=1)
    dropped = real & (rank < drops[jnp.sum(real, axis=1)][:, None])
    return (mask & ~dropped).at[:, 0].set(True)


def drop_words(tokens, visible, *, strategy: str, ratio: float):
    """Moves the visible tokens of texts to a static number of slots, in order.

    Args:
      tokens: (B, L, D); visible: (B, L) bool, from `visible_words` with the same options.

    Returns:
      tokens (B, L', D), real (B, L') bool, with L' of `text_slots`; all as it was for "none".
    """
    slots = text_slots(tokens.shape[1], strategy=strategy, ratio=ratio)
    if strategy == "none":
        return tokens, visible
    order = _first(visible, slots)  # (B, L')
    return _select(tokens, order), jnp.take_along_axis(visible, order, axis=1)


def _first(visible, slots: int):
    """Places of the first so many tokens, the visible ones before the others: (B or 1, slots)."""
    return jnp.argsort(~visible, axis=1, stable=True)[:, :slots]


def _drops(length: int, ratio: float) -> np.ndarray:
    """Tokens to drop of texts with 0 to length - 1 real ones."""
    # A table from Python's own arithmetic, so that the slots and the drops cannot disagree.
    return np.array([int(ratio * real) for real in range(length)])


def _check(strategy: str, draws: str) -> None:
    if strategy not in STRATEGIES:
        raise ValueError(f'masking strategy must be "drop", "official" or "none", not {strategy!r}')
    if draws not in DRAWS:
        raise ValueError(f'masking draws must be "sample" or "batch", not {draws!r}')


def hidden_keys(key, count: int, *, ratio: float, rows: int, draws: str):
    """Which of `count` tokens are hidden, as the official code draws them.

    Their number is uniform in 0 .. floor(ratio * count), where count includes the class token
    and, in a text, the padding; padding is drawn like any token. Returns (rows or 1, count) bool.
    """
    count_key, order_key = jax.random.split(key)
    drawn = rows if draws == "sample" else 1
    number = jax.random.randint(count_key, (drawn, 1), 0, int(ratio * count) + 1)
    scores = _scores(order_key, rows, count - 1, draws)
    hidden = jnp.argsort(jnp.argsort(scores, axis=1), axis=1) < number
    return jnp.concatenate([jnp.zeros_like(hidden[:, :1]), hidden], axis=1)


def _scores(key, rows: int, count: int, draws: str):
    return jax.random.uniform(key, (rows if draws == "sample" else 1, count))


@jax.custom_vjp
def _select(tokens, indices):
    """Rows of tokens by distinct indices: (B, T, D), (B or 1, K) -> (B, K, D).

    A product with one-hot rows: exact, and its gradient is a product too, where the gradient of
    a gather is a scatter, slow on every backend.
    """
    return _one_hot_product(tokens, indices, axis=-1, depth=tokens.shape[1])


def _select_forward(tokens, indices):
    return _select(tokens, indices), (indices, tokens[:0])


def _select_backward(saved, slope):
    indices, like = saved
    return _one_hot_product(slope, indices, axis=1, depth=like.shape[1]), None


_select.defvjp(_select_forward, _select_backward)


def _one_hot_product(tokens, indices, *, axis: int, depth: int):
    one_hot = jax.nn.one_hot(indices, depth, dtype=tokens.dtype, axis=axis)
    one_hot = jnp.broadcast_to(one_hot, (len(tokens), *one_hot.shape[1:]))
    picked = dot(one_hot, tokens, "bkt,btd->bkd", precision=jax.lax.Precision.HIGHEST)
    return picked.astype(tokens.dtype)
