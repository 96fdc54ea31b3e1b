"""Exact search in float32 on the CPU: the photos nearest to an embedding, ties in their order."""

from __future__ import annotations

import numpy as np

_BLOCK_ROWS = 65536  # scored at once: 200 MB of a memory map at a width of 768


def nearest(
    embeddings: np.ndarray, query: np.ndarray, *, k: int, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k rows with the largest dot products.

    Args:
      embeddings: float32 (G, D), possibly memory-mapped; read once, block by block.
      query: float32 (D,).
      k: rows wanted; all rows if there are fewer.
      rows: int64 (n,), rising: only these are compared; None = all.

    Returns:
      Indices int64 (k,) and scores float32 (k,), falling; equal scores by rising index.

    Raises:
      ValueError: k below 1, a query of another width or one that is not finite.
    """
    query = np.ascontiguousarray(query, np.float32)
    if query.shape != embeddings.shape[1:]:
        raise ValueError(f"the query has shape {query.shape}, not {embeddings.shape[1:]}")
    if k < 1 or not np.isfinite(query).all():
        raise ValueError(f"k is {k} and must be at least 1, and the query must be finite")
    indices, scores = [], []
    for start in range(0, len(embeddings if rows is None else rows), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        found = embeddings[block if rows is None else rows[block]] @ query  # (R,)
        best = best_rows(found, k=k)
        indices.append(best + start)
        scores.append(found[best])
    joined, values = np.concatenate(indices), np.concatenate(scores)
    # Blocks are in order and so are ties within each: a stable order keeps both.
    order = np.argsort(-values, kind="stable")[:k]
    return joined[order] if rows is None else rows[joined[order]], values[order]


def best_rows(scores: np.ndarray, *, k: int) -> np.ndarray:
    """Indices int64 (k,) of the k largest of (G,) scores, falling; ties by rising index."""
    if k < len(scores):
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        rows = np.flatnonzero(scores >= least)
    else:
        rows = np.arange(len(scores))
    return rows[np.argsort(-scores[rows], kind="stable")][:k]
