"""The numbers of text-based person retrieval: R@k, both average precisions and mINP.

Everything follows from one thing, the 0-based rank of each right photo of each query. NumPy only.
"""

import numpy as np
from numpy.typing import ArrayLike

METRICS = ("R1", "R5", "R10", "mAP", "mAP_trapezoid", "mINP")  # in the order of tables
_ROWS = 256  # queries sorted at once, so that memory stays small beside the similarity itself
_UNMATCHED = ("error", "skip", "count")


def retrieval_metrics(
    similarity: ArrayLike,
    query_identities: ArrayLike,
    gallery_identities: ArrayLike,
    *,
    unmatched: str = "error",
) -> dict[str, float]:
    """Scores a whole similarity matrix; a right photo is any one of the query's identity.

    Photos are ranked by falling similarity, equal ones by rising gallery index, so the result is a
    function of the numbers alone (the usual evaluators leave the order of ties open).

    Args:
        similarity: (Q, G) real numbers, larger is nearer; infinities may stand for "not scored".
        query_identities: (Q,).
        gallery_identities: (G,).
        unmatched: as in `metrics_from_ranks`.

    Returns:
        As `metrics_from_ranks`.

    Raises:
        ValueError: shapes disagree, no query, no gallery, NaN, or as `metrics_from_ranks`.
    """
    similarity = np.asarray(similarity)
    if similarity.ndim != 2:
        raise ValueError(f"similarity must be (queries, gallery), got shape {similarity.shape}")
    indices, valid = positives(query_identities, gallery_identities)
    expected = (len(valid), np.size(gallery_identities))
    if similarity.shape != expected:
        raise ValueError(
            f"similarity has shape {similarity.shape}, but there are {expected[0]} query and "
            f"{expected[1]} gallery identities; it must be {expected}"
        )
    ranks = np.empty(indices.shape, np.int64)  # (Q, P)
    for start in range(0, len(ranks), _ROWS):
        rows = slice(start, start + _ROWS)
        ranks[rows] = _ranks_by_sort(similarity[rows], indices[rows], first_query=start)
    return metrics_from_ranks(*sort_ranks(ranks, valid, padding=expected[1]), unmatched=unmatched)


def metrics_from_ranks(
    ranks: ArrayLike, valid: ArrayLike, *, unmatched: str = "error"
) -> dict[str, float]:
    """Averages over queries, from the ranks of their right photos.

    Of a query with n right photos at ranks r_1 < ... < r_n, counted from 1:
    AP = 1/n sum_i i/r_i; trapezoid AP = 1/n sum_i (i/r_i + (i-1)/(r_i - 1))/2 with 0/0 := 1, which
    is what the official IVT code reports; INP = n/r_n.

    Args:
        ranks: (Q, P) integers from 0, rising along a row; where `valid` is false they mean nothing.
        valid: (Q, P) bool, the true entries of a row first.
        unmatched: queries without a right photo: "error", "skip" (left out of every mean) or
            "count" (score zero, as the official code does when it divides by all queries).

    Returns:
        "R1", "R5", "R10", "mAP", "mAP_trapezoid", "mINP", all in percent, averaged in float64.

    Raises:
        ValueError: malformed ranks, no query, an unknown `unmatched`, or an unmatched query under
            "error"; under "skip", if no query is left.
    """
    if unmatched not in _UNMATCHED:
        raise ValueError(f"unmatched must be one of {_UNMATCHED}, got {unmatched!r}")
    ranks, valid = _check_ranks(ranks, valid)
    counts = valid.sum(axis=1)  # (Q,)
    matched = counts > 0
    _check_matched(matched, unmatched)
    ranks, valid, counts = ranks[matched], valid[matched], counts[matched]
    hits = np.arange(ranks.shape[1], dtype=np.float64)  # (P,) right photos ahead of each one
    precision = (hits + 1) / (ranks + 1)  # (Q, P)
    before = np.where(ranks == 0, 1.0, hits / np.maximum(ranks, 1))  # (Q, P)
    first = ranks[:, 0]
    last = ranks[np.arange(len(ranks)), counts - 1]

    def average(precisions: np.ndarray) -> np.ndarray:
        return np.sum(precisions * valid, axis=1) / counts  # (Q,)

    scores = {f"R{k}": first < k for k in (1, 5, 10)}
    scores["mAP"] = average(precision)
    scores["mAP_trapezoid"] = average((precision + before) / 2)
    scores["mINP"] = counts / (last + 1)
    total = len(matched) if unmatched == "count" else len(ranks)
    return {name: float(100 * np.sum(score) / total) for name, score in scores.items()}


def positives(
    query_identities: ArrayLike, gallery_identities: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the right photos of each query.

    Args:
        query_identities: (Q,).
        gallery_identities: (G,).

    Returns:
        Gallery indices int64 (Q, P), rising, and valid bool (Q, P), the true entries first; P is
        the most that any query has, at least 1. Entries that are not valid hold some index.

    Raises:
        ValueError: an input is not one-dimensional or is empty.
    """
    queries, gallery = np.asarray(query_identities), np.asarray(gallery_identities)
    for name, identities in (("query", queries), ("gallery", gallery)):
        if identities.ndim != 1:
            raise ValueError(f"{name} identities must be (n,), got shape {identities.shape}")
        if not len(identities):
            raise ValueError(f"there are no {name} identities, so there is nothing to rank")
    order = np.argsort(gallery, kind="stable")  # (G,)
    start = np.searchsorted(gallery, queries, side="left", sorter=order)  # (Q,)
    end = np.searchsorted(gallery, queries, side="right", sorter=order)
    column = np.arange(max(1, np.max(end - start)))  # (P,)
    valid = column < (end - start)[:, None]  # (Q, P)
    return order[np.minimum(start[:, None] + column, len(order) - 1)], valid


def sort_ranks(
    ranks: np.ndarray, valid: np.ndarray, *, padding: int
) -> tuple[np.ndarray, np.ndarray]:
    """Orders each row of ranks (Q, P) with `padding`, above every rank, where not `valid`."""
    return np.sort(np.where(valid, ranks, padding), axis=1), valid


def _ranks_by_sort(similarity: np.ndarray, indices: np.ndarray, *, first_query: int) -> np.ndarray:
    scores = similarity.astype(np.float64)  # (R, G)
    nan = np.isnan(scores).any(axis=1)
    if nan.any():
        raise ValueError(
            f"the similarity of query {first_query + int(np.argmax(nan))} contains NaN; "
            "check the embeddings it was computed from"
        )
    order = np.argsort(-scores, axis=1, kind="stable")  # (R, G)
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(order.shape[1])[None], axis=1)
    return np.take_along_axis(ranks, indices, axis=1)


def _check_ranks(ranks: ArrayLike, valid: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    ranks, valid = np.asarray(ranks), np.asarray(valid)
    if ranks.ndim != 2 or ranks.shape != valid.shape or ranks.shape[1] == 0:
        raise ValueError(
            "ranks and valid must both be (queries, positives) with at least one column, "
            f"got {ranks.shape} and {valid.shape}"
        )
    if not len(ranks):
        raise ValueError("there are no queries, so there is nothing to average")
    if not np.issubdtype(ranks.dtype, np.integer) or valid.dtype != bool:
        raise ValueError(f"ranks must be integers and valid bool, not {ranks.dtype}, {valid.dtype}")
    gap = valid[:, 1:] & ~valid[:, :-1]
    falling = valid[:, 1:] & (ranks[:, 1:] <= ranks[:, :-1])
    if np.any(gap | falling) or np.any(valid & (ranks < 0)):
        raise ValueError("ranks must be 0 or more, rise along each row, and valid ones come first")
    return ranks, valid


def _check_matched(matched: np.ndarray, unmatched: str) -> None:
    missing = np.flatnonzero(~matched)
    if unmatched == "error" and len(missing):
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise ValueError(
            f"{len(missing)} of {len(matched)} queries have no photo of their identity in the "
            f"gallery (query indices {shown}); complete the gallery, or pass unmatched='skip' "
            "(--unmatched=skip) to leave them out or 'count' (--unmatched=count) to score them zero"
        )
    if unmatched == "skip" and not matched.any():
        raise ValueError("no query has a photo of its identity in the gallery, nothing to average")
