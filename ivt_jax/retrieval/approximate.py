"""Approximate search with FAISS (the extra `faiss`): for galleries of a million photos and more.

An inverted file of 8-bit codes proposes candidates; they are scored exactly and ranked as
`nearest` ranks, so an answer differs from the exact one only where a photo was not proposed.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from ivt_jax.errors import UserError
from ivt_jax.retrieval.nearest import best_rows, nearest

FEWEST = 1_000_000  # photos from which engine="auto" takes FAISS
RECALL = 0.95  # of the ten nearest, wanted on average
_RECALL_K = 10
_QUERIES = 64  # photos that stand for queries when recall is measured
_TRAINING_ROWS = 40  # a list of the inverted file; FAISS warns below 39
_PROPOSED = 4  # candidates for each photo wanted


def installed() -> bool:
    """Whether FAISS can be imported."""
    return importlib.util.find_spec("faiss") is not None


def build(embeddings: np.ndarray, file: Path) -> tuple[float, int]:
    """Writes an index of float32 (G, D) embeddings whole or not at all.

    The number of lists searched doubles until recall is RECALL, or all are searched.

    Returns:
      Recall of the ten nearest against exact search, in 0 to 1, on photos of the gallery as
      queries (sentences lie elsewhere and may do worse); and the lists searched.

    Raises:
      UserError: FAISS is not installed.
    """
    faiss = _faiss()
    count, width = embeddings.shape
    lists = 1 << max(0, round(np.log2(count**0.5)))
    rng = np.random.default_rng(0)
    rows = np.sort(rng.choice(count, min(count, _TRAINING_ROWS * lists), replace=False))
    lists = max(1, min(lists, len(rows) // _TRAINING_ROWS))
    coarse = faiss.IndexFlatIP(width)
    metric, code = faiss.METRIC_INNER_PRODUCT, faiss.ScalarQuantizer.QT_8bit
    index = faiss.IndexIVFScalarQuantizer(coarse, width, lists, code, metric)
    index.train(np.ascontiguousarray(embeddings[rows]))
    for start in range(0, count, 65536):
        index.add(np.ascontiguousarray(embeddings[start : start + 65536]))
    queries = embeddings[np.sort(rng.choice(count, min(count, _QUERIES), replace=False))]
    right = [nearest(embeddings, query, k=_RECALL_K)[0] for query in queries]
    index.nprobe = min(8, lists)
    while (recall := _recall(index, embeddings, queries, right)) < RECALL and index.nprobe < lists:
        index.nprobe = min(2 * index.nprobe, lists)
    unfinished = file.with_name(file.name + ".new")
    faiss.write_index(index, str(unfinished))
    unfinished.replace(file)
    return recall, index.nprobe


def open_index(file: Path) -> Any:
    """The index of a file, memory-mapped; UserError if FAISS is not installed."""
    faiss = _faiss()
    return faiss.read_index(str(file), faiss.IO_FLAG_MMAP)


def search(
    index: Any, embeddings: np.ndarray, query: np.ndarray, *, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest`, among the photos that the index proposes; may find fewer than k."""
    proposed = min(_PROPOSED * max(k, _RECALL_K), len(embeddings))
    _, found = index.search(np.ascontiguousarray(query, np.float32)[None], proposed)
    rows = np.sort(found[0][found[0] >= 0])  # in the order of the gallery, for ties
    scores = embeddings[rows] @ query
    best = best_rows(scores, k=k)
    return rows[best], scores[best]


def _recall(index, embeddings: np.ndarray, queries: np.ndarray, right: list[np.ndarray]) -> float:
    found = [search(index, embeddings, query, k=_RECALL_K)[0] for query in queries]
    shares = [len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, right, strict=True)]
    return float(np.mean(shares))


def _faiss() -> Any:
    if not installed():
        raise UserError(
            "FAISS is not installed: pip install faiss-cpu (or the extra `faiss`), or take "
            "--engine=exact"
        )
    import faiss

    return faiss
