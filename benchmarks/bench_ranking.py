"""Ranking a test set: ours, the official loop over queries, and a plain PyTorch version."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.bench_case import CAPTIONS, IMAGES, cuhk_sized


def functions(*, share: float = 1.0) -> dict[str, Callable[[], dict[str, float]]]:
    """The three on the same embeddings; `share` of a CUHK-PEDES-sized test set."""
    given = cuhk_sized(images=int(IMAGES * share), captions=int(CAPTIONS * share))
    return {
        "ranking": lambda: ours(*given),
        "official": lambda: official(*given),
        "plain": lambda: plain(*given),
    }


def ours(queries, gallery, query_identities, gallery_identities) -> dict[str, float]:
    """R1, R5, R10, mAP, mAP_trapezoid and mINP in percent, as `ivt_jax evaluate` scores."""
    from ivt_jax.retrieval.metrics import metrics_from_ranks
    from ivt_jax.retrieval.ranking import ranks_of_positives

    ranks = ranks_of_positives(queries, gallery, query_identities, gallery_identities)
    return metrics_from_ranks(*ranks)


def official(queries, gallery, query_identities, gallery_identities) -> dict[str, float]:
    """One query after the other, as the official evaluator: a product, a sort, a whole CMC curve.

    Its mAP is the trapezoidal one; it knows neither the plain mAP nor mINP.
    """
    import torch

    texts, images = torch.from_numpy(queries), torch.from_numpy(gallery)
    curve = torch.zeros(len(images), dtype=torch.int32)
    total = 0.0
    for text, identity in zip(texts, query_identities, strict=True):
        scores = torch.mm(images, text[:, None])[:, 0].numpy()
        order = np.argsort(scores)[::-1]
        right = np.argwhere(gallery_identities == identity)
        hits = np.flatnonzero(np.isin(order, right))
        own = torch.zeros(len(images), dtype=torch.int32)
        own[hits[0] :] = 1
        curve = curve + own
        for number, rank in enumerate(hits):
            before = number / rank if rank else 1.0
            total += ((number + 1) / (rank + 1) + before) / 2 / len(right)
    found = 100 * curve.numpy() / len(texts)
    scores = {f"R{k}": float(found[k - 1]) for k in (1, 5, 10)}
    return {**scores, "mAP_trapezoid": 100 * float(total) / len(texts)}


def plain(queries, gallery, query_identities, gallery_identities) -> dict[str, float]:
    """The whole matrix of similarities sorted by PyTorch, all metrics from the sorted hits."""
    import torch

    similarity = torch.from_numpy(queries) @ torch.from_numpy(gallery).T  # (Q, G)
    order = torch.argsort(similarity, dim=1, descending=True)
    identities = torch.from_numpy(gallery_identities)
    hits = identities[order] == torch.from_numpy(query_identities)[:, None]
    count = hits.cumsum(1)
    rank = torch.arange(1, hits.shape[1] + 1)
    precision = torch.where(hits, count / rank, 0.0).double()
    before = torch.where(rank > 1, (count - 1) / (rank - 1).clamp(min=1), 1.0)
    trapezoid = torch.where(hits, (precision + before) / 2, 0.0)
    positives = count[:, -1]
    last = (hits * rank).amax(1)
    scores = {f"R{k}": hits[:, :k].any(1).double() for k in (1, 5, 10)}
    scores["mAP"] = precision.sum(1) / positives
    scores["mAP_trapezoid"] = trapezoid.sum(1) / positives
    scores["mINP"] = positives / last
    return {name: 100 * float(score.double().mean()) for name, score in scores.items()}
