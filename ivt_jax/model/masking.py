"""Bidirectional mask modelling (paper section 3.3): which tokens leave before the blocks.

Dropped tokens are removed, so the blocks get cheaper; hiding them as attention keys gives the
same class token and serves where their number is random. The class token always stays.
"""

import jax
import jax.numpy as jnp
import numpy as np


def mask_tokens(
    key,
    image_tokens,
    text_tokens,
    text_mask,
    *,
    strategy: str,
    image_ratio: float,
    text_ratio: float,
    draws: str,
):
    """Masks both modalities of a batch with independent draws.

    Args:
      key: randomness; None = no masking (evaluation).
      image_tokens: (B, N, D); text_tokens: (B, L, D); text_mask: (B, L) bool, real tokens.
      strategy: "drop" removes a fixed share, `drop_image_tokens` and `drop_text_tokens`;
        "official" hides a random number of them, `hidden_keys`; "none".
      image_ratio, text_ratio: the share, or for "official" the largest share, in [0, 1).
      draws: "sample" draws for every sample, "batch" once for the whole batch.

    Returns:
      image_tokens (B, N', D), image_mask (B, N') bool or None,
      text_tokens (B, L', D), text_mask (B, L') bool.

    Raises:
      ValueError: unknown strategy or draws.
    """
    if strategy not in ("drop", "official", "none"):
        raise ValueError(f'masking strategy must be "drop", "official" or "none", not {strategy!r}')
    if draws not in ("sample", "batch"):
        raise ValueError(f'masking draws must be "sample" or "batch", not {draws!r}')
    if key is None or strategy == "none":
        return image_tokens, None, text_tokens, text_mask
    image_key, text_key = jax.random.split(key)
    if strategy == "official":
        draw = {"rows": len(image_tokens), "draws": draws}
        image_kept = ~hidden_keys(image_key, image_tokens.shape[1], ratio=image_ratio, **draw)
        text_kept = ~hidden_keys(text_key, text_tokens.shape[1], ratio=text_ratio, **draw)
        return image_tokens, image_kept, text_tokens, text_mask & text_kept
    image_tokens = drop_image_tokens(image_key, image_tokens, ratio=image_ratio, draws=draws)
    text_tokens, text_mask = drop_text_tokens(
        text_key, text_tokens, text_mask, ratio=text_ratio, draws=draws
    )
    return image_tokens, None, text_tokens, text_mask


def drop_image_tokens(key, tokens, *, ratio: float, draws: str):
    """Removes floor(ratio * (N - 1)) patches of every image: (B, N, D) -> (B, N', D)."""
    rows, count, _ = tokens.shape
    dropped = int(ratio * (count - 1))
    order = jnp.argsort(_scores(key, rows, count - 1, draws), axis=1)  # (B or 1, N - 1)
    kept = jnp.sort(order[:, dropped:], axis=1) + 1
    kept = jnp.concatenate([jnp.zeros_like(kept[:, :1]), kept], axis=1)  # (B or 1, N')
    return _select(tokens, kept)


def drop_text_tokens(key, tokens, mask, *, ratio: float, draws: str):
    """Removes floor(ratio * n) of the n real tokens after [CLS] of every text.

    What is left moves to a static number of slots, in order; padding fills the rest. With
    draws="batch" all texts rank their tokens by one draw, and each drops its own share.

    Args:
      tokens: (B, L, D); mask: (B, L) bool, real tokens, [CLS] included.

    Returns:
      tokens (B, L', D), mask (B, L'), with L' = 1 + the most real tokens that can be left.
    """
    rows, length, _ = tokens.shape
    # A table from Python's own arithmetic, so that the slots and the drops cannot disagree.
    drops = np.array([int(ratio * real) for real in range(length)])
    slots = 1 + int(np.max(np.arange(length) - drops))
    real = mask.at[:, 0].set(False)
    scores = jnp.where(real, _scores(key, rows, length, draws), 2.0)  # real ones first
    rank = jnp.argsort(jnp.argsort(scores, axis=1), axis=1)
    dropped = real & (rank < jnp.asarray(drops)[jnp.sum(real, axis=1)][:, None])
    kept = (mask & ~dropped).at[:, 0].set(True)
    # Kept tokens first, then padding, then the dropped; a stable sort keeps their order.
    order = jnp.argsort(jnp.where(kept, 0, jnp.where(dropped, 2, 1)), axis=1, stable=True)
    order = order[:, :slots]  # (B, L')
    return _select(tokens, order), jnp.take_along_axis(kept, order, axis=1)


def hidden_keys(key, count: int, *, ratio: float, rows: int, draws: str):
    """Which of `count` tokens are hidden, as the official code draws them.

    Their number is uniform in 0 .. floor(ratio * count), where count includes the class token
    and, in a text, the padding; padding is drawn like any token. Returns (rows or 1, count) bool.
    """
    count_key, order_key = jax.random.split(key)
    drawn = rows if draws == "sample" else 1
    number = jax.random.randint(count_key, (drawn, 1), 0, int(ratio * count) + 1)
    rank = jnp.argsort(jnp.argsort(_scores(order_key, rows, count - 1, draws), axis=1), axis=1)
    hidden = rank < number
    return jnp.concatenate([jnp.zeros_like(hidden[:, :1]), hidden], axis=1)


def _scores(key, rows: int, count: int, draws: str):
    return jax.random.uniform(key, (rows if draws == "sample" else 1, count))


def _select(tokens, indices):
    """Rows of tokens by index: (B, T, D), (B or 1, K) -> (B, K, D).

    A product with one-hot rows: exact, and its gradient is a product too, where the gradient of
    a gather is a scatter, slow on every backend.
    """
    one_hot = jax.nn.one_hot(indices, tokens.shape[1], dtype=tokens.dtype)  # (B or 1, K, T)
    one_hot = jnp.broadcast_to(one_hot, (len(tokens), *one_hot.shape[1:]))
    return jnp.einsum("bkt,btd->bkd", one_hot, tokens, precision=jax.lax.Precision.HIGHEST)
