"""Retrieval scores against the official evaluator, a worked example and plain Python loops."""

import numpy as np
import pytest
from golden import golden

from ivt_jax.retrieval.metrics import metrics_from_ranks, retrieval_metrics

WORKED = np.array([[0.9, 0.8, 0.1, 0.7, 0.2, 0.3]] * 2 + [[0.1, 0.2, 0.3, 0.25, 0.5, 0.05]])
WORKED_QUERIES, WORKED_GALLERY = [1, 2, 3], [1, 2, 1, 3, 2, 3]


def by_loops(similarity, queries, gallery, *, unmatched="error"):
    """The definitions, one photo at a time; ties by index through Python's stable sort."""
    names = "R1", "R5", "R10", "mAP", "mAP_trapezoid", "mINP"
    totals: dict[str, float] = dict.fromkeys(names, 0.0)
    used = 0
    for row, identity in zip(similarity, queries, strict=True):
        order = sorted(range(len(gallery)), key=lambda i, row=row: -float(row[i]))
        places = [n for n, i in enumerate(order, start=1) if gallery[i] == identity]
        used += 1 if places or unmatched == "count" else 0
        if not places:
            continue
        for k in (1, 5, 10):
            totals[f"R{k}"] += any(place <= k for place in places)
        recall, old_recall, old_precision = 0.0, 0.0, 1.0
        for hits, place in enumerate(places, start=1):
            totals["mAP"] += hits / place / len(places)
            if place > 1:
                old_precision = (hits - 1) / (place - 1)
            recall = hits / len(places)
            area = (recall - old_recall) * (old_precision + hits / place) / 2
            totals["mAP_trapezoid"] += area
            old_recall, old_precision = recall, 1.0
        totals["mINP"] += len(places) / places[-1]
    return {name: 100 * total / used for name, total in totals.items()}


def unit(features):
    features = features.astype(np.float64)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def test_official_evaluator_one_photo_each():
    case = {k.split("/")[1]: v for k, v in golden("eval.npz").items() if k.startswith("one_per_id")}
    scores = retrieval_metrics(case["sim"], case["q_ids"], case["g_ids"])
    recalls = [scores["R1"], scores["R5"], scores["R10"]]
    np.testing.assert_allclose(recalls, 100 * case["official_R1_R5_R10"], atol=1e-5)
    np.testing.assert_allclose(recalls, 100 * case["cmc"][[0, 4, 9]], atol=1e-5)
    np.testing.assert_allclose(scores["mAP_trapezoid"], 100 * case["official_mAP"], atol=1e-9)
    np.testing.assert_allclose(scores["mAP"], 100 * case["plain_mAP"], atol=1e-9)


def test_official_evaluator_from_features():
    data = golden("eval.npz")
    ids = data["feat_cuhk/ids"]
    similarity = unit(data["feat_cuhk/txt_feats"]) @ unit(data["feat_cuhk/img_feats"])[::2].T
    scores = retrieval_metrics(similarity, ids, ids[::2])
    recalls = [scores["R1"], scores["R5"], scores["R10"]]
    np.testing.assert_allclose(recalls, 100 * data["feat_cuhk/official_R1_R5_R10"], atol=1e-5)
    np.testing.assert_allclose(
        scores["mAP_trapezoid"], 100 * data["feat_cuhk/official_mAP"], atol=1e-9
    )


def test_worked_example():
    scores = retrieval_metrics(WORKED, WORKED_QUERIES, WORKED_GALLERY)
    expected = {
        "R1": 100 / 3,
        "R5": 100.0,
        "R10": 100.0,
        "mAP": 100 * np.mean([2 / 3, 0.45, 1 / 3]),
        "mAP_trapezoid": 100 * np.mean([0.633333333, 0.2875, 0.216666667]),
        "mINP": 100 * np.mean([1 / 3, 0.4, 1 / 3]),
    }
    assert list(scores) == list(expected)
    assert scores == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("unmatched", ["skip", "count"])
def test_random_cases_with_ties(seed, unmatched):
    rng = np.random.default_rng(seed)
    queries, gallery = rng.integers(0, 9, 300), rng.integers(0, 7, rng.integers(1, 60))
    similarity = rng.integers(-3, 4, (300, len(gallery))) / 4  # most scores tie
    scores = retrieval_metrics(similarity.astype(np.float32), queries, gallery, unmatched=unmatched)
    assert scores == pytest.approx(by_loops(similarity, queries, gallery, unmatched=unmatched))


def test_tie_order_decides_and_is_by_index():
    assert retrieval_metrics([[0.5, 0.5]], [7], [7, 8])["R1"] == 100
    assert retrieval_metrics([[0.5, 0.5]], [7], [8, 7])["R1"] == 0
    constant = np.full((1, 4), -np.inf)  # as for photos left out of a second stage
    assert retrieval_metrics(constant, [1], [0, 0, 1, 0])["mAP"] == pytest.approx(100 / 3)


def test_order_of_queries_is_irrelevant():
    rng = np.random.default_rng(5)
    queries, gallery = rng.integers(0, 20, 300), np.arange(60) % 20
    similarity = rng.standard_normal((300, 60))
    order = rng.permutation(300)
    scores = retrieval_metrics(similarity, queries, gallery)
    assert retrieval_metrics(similarity[order], queries[order], gallery) == pytest.approx(scores)


def test_unmatched_modes():
    queries = [1, 99, 2, 98]
    similarity = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.1], [0.9, 0.1]])
    with pytest.raises(ValueError, match=r"2 of 4 queries .* indices 1, 3\)"):
        retrieval_metrics(similarity, queries, [1, 2])
    assert retrieval_metrics(similarity, queries, [1, 2], unmatched="skip")["R1"] == 50
    assert retrieval_metrics(similarity, queries, [1, 2], unmatched="count")["R1"] == 25
    nobody = retrieval_metrics(similarity, queries, [5, 6], unmatched="count")
    assert set(nobody.values()) == {0.0}
    with pytest.raises(ValueError, match="no query has"):
        retrieval_metrics(similarity, queries, [5, 6], unmatched="skip")
    with pytest.raises(ValueError, match="unmatched must be one of"):
        retrieval_metrics(similarity, queries, [1, 2], unmatched="ignore")


def test_many_unmatched_are_not_all_listed():
    with pytest.raises(ValueError, match=r"indices 0, 1, 2, 3, 4, \.\.\.\)"):
        retrieval_metrics(np.zeros((50, 1)), np.arange(1, 51), [0])


def test_nan_names_the_query():
    similarity = np.zeros((600, 3))
    similarity[400, 1] = np.nan
    with pytest.raises(ValueError, match="query 400 contains NaN"):
        retrieval_metrics(similarity, np.zeros(600), np.zeros(3))


@pytest.mark.parametrize(
    ("similarity", "queries", "gallery", "message"),
    [
        (np.zeros(3), [1], [1, 2, 3], "must be .queries, gallery."),
        (np.zeros((2, 3)), [1, 2, 3], [1, 2], "it must be .3, 2."),
        (np.zeros((2, 0)), [1, 2], [], "no gallery identities"),
        (np.zeros((0, 2)), [], [1, 2], "no query identities"),
        (np.zeros((1, 1)), [[1]], [1], "query identities must be"),
    ],
)
def test_bad_input_is_a_sentence(similarity, queries, gallery, message):
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(similarity, queries, gallery)


@pytest.mark.parametrize(
    ("ranks", "valid", "message"),
    [
        ([[0, 1]], [[True]], "must both be"),
        (np.zeros((0, 2), int), np.zeros((0, 2), bool), "no queries"),
        ([[0.0]], [[True]], "must be integers"),
        ([[2, 1]], [[True, True]], "rise along each row"),
        ([[1, 1]], [[True, True]], "rise along each row"),
        ([[0, 1]], [[False, True]], "valid ones come first"),
        ([[-1]], [[True]], "0 or more"),
    ],
)
def test_malformed_ranks(ranks, valid, message):
    with pytest.raises(ValueError, match=message):
        metrics_from_ranks(ranks, valid)


def test_padding_is_ignored():
    valid = [[True, True, False], [True, False, False]]
    one = metrics_from_ranks([[0, 4, 0], [2, 0, 0]], valid)
    other = metrics_from_ranks([[0, 4, 99], [2, 99, 99]], valid)
    assert one == other
    assert one["mINP"] == pytest.approx(100 * (2 / 5 + 1 / 3) / 2)
