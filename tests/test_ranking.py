"""Ranks counted on device against a stable sort of the same scores."""

import jax.numpy as jnp
import numpy as np
import pytest
from golden import golden

from ivt_jax.retrieval import ranking
from ivt_jax.retrieval.metrics import metrics_from_ranks, retrieval_metrics
from ivt_jax.retrieval.ranking import ranks_of_positives, top_k


def quarters(rng, count):
    """Unit vectors of +-1/4: dot products are exact in any order of summation, and often tie."""
    return np.float32(0.25) * rng.choice([-1, 1], (count, 16)).astype(np.float32)


def random_unit(rng, count, width=64):
    features = rng.standard_normal((count, width)).astype(np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(4))
def test_equals_a_stable_sort_with_ties(seed):
    rng = np.random.default_rng(seed)
    queries, gallery = quarters(rng, 70), quarters(rng, 90)
    query_identities, gallery_identities = rng.integers(0, 12, 70), rng.integers(0, 10, 90)
    ranks, valid = ranks_of_positives(
        queries, gallery, query_identities, gallery_identities, block_size=32
    )
    assert ranks.dtype == np.int32 and valid.dtype == bool and ranks.shape == valid.shape
    order = np.argsort(-(queries.astype(np.float64) @ gallery.T), axis=1, kind="stable")
    assert len(np.unique(queries @ gallery.T)) <= 17
    for query, identity in enumerate(query_identities):
        expected = np.flatnonzero(gallery_identities[order[query]] == identity)
        np.testing.assert_array_equal(ranks[query][valid[query]], expected)
        assert (ranks[query][~valid[query]] == 90).all()
        assert valid[query].sum() == len(expected)


@pytest.mark.parametrize("block_size", [1, 7, 70, 500])
def test_block_size_changes_nothing(block_size):
    rng = np.random.default_rng(9)
    queries, gallery = quarters(rng, 70), quarters(rng, 40)
    identities = rng.integers(0, 5, 70), np.arange(40) % 5
    expected = ranks_of_positives(queries, gallery, *identities)
    found = ranks_of_positives(queries, gallery, *identities, block_size=block_size)
    np.testing.assert_array_equal(found, expected)
    best = top_k(queries, gallery, k=6, block_size=block_size)
    np.testing.assert_array_equal(best, top_k(queries, gallery, k=6))


def test_official_features_through_the_device():
    data = golden("eval.npz")
    ids = data["feat_cuhk/ids"]
    images, texts = data["feat_cuhk/img_feats"], data["feat_cuhk/txt_feats"]
    images = images / np.linalg.norm(images, axis=1, keepdims=True)
    texts = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    scores = metrics_from_ranks(*ranks_of_positives(texts, images[::2], ids, ids[::2]))
    recalls = [scores["R1"], scores["R5"], scores["R10"]]
    np.testing.assert_allclose(recalls, 100 * data["feat_cuhk/official_R1_R5_R10"], atol=1e-5)
    np.testing.assert_allclose(
        scores["mAP_trapezoid"], 100 * data["feat_cuhk/official_mAP"], atol=1e-9
    )
    whole = metrics_from_ranks(*ranks_of_positives(texts, images, ids, ids))
    assert whole == pytest.approx(retrieval_metrics(texts @ images.T, ids, ids), abs=1e-2)


def test_close_scores_are_told_apart():
    """Full float32 products: with bfloat16 or TF32 products these photos would tie."""
    query = np.zeros((1, 8), np.float32)
    query[0, 0] = 1
    gallery = np.zeros((50, 8), np.float32)
    gallery[:, 0] = 0.9 + 1e-6 * np.arange(50)
    ranks, _ = ranks_of_positives(query, gallery, np.array([3]), np.arange(50))
    assert ranks[0, 0] == 46


def test_no_positive_at_all():
    embeddings = np.eye(3, dtype=np.float32)
    ranks, valid = ranks_of_positives(embeddings, embeddings, np.arange(3), np.arange(5, 8))
    assert not valid.any()
    assert metrics_from_ranks(ranks, valid, unmatched="count")["R1"] == 0


@pytest.mark.parametrize("k", [1, 10, 60])
def test_top_k_breaks_ties_by_index(k):
    rng = np.random.default_rng(2)
    queries, gallery = quarters(rng, 50), quarters(rng, 60)
    scores, indices = top_k(queries, gallery, k=k, block_size=16)
    similarity = queries @ gallery.T
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_array_equal(scores, np.take_along_axis(similarity, order, axis=1))
    assert scores.dtype == np.float32 and indices.dtype == np.int32


def test_top_k_negative_zero_ties_with_zero(monkeypatch):
    """Some backends may produce negative zeros, which `jax.lax.top_k` puts after zeros."""
    scores = np.array([[-0.0, 0.0, -0.0, 1.0, -1.0]], np.float32)
    monkeypatch.setattr(ranking, "_scores", lambda queries, gallery: jnp.asarray(scores))
    _, indices = top_k(np.zeros((1, 7), np.float32), np.zeros((5, 7), np.float32), k=5)
    np.testing.assert_array_equal(indices, [[3, 0, 1, 2, 4]])


EYE = np.eye(3, dtype=np.float32)
BROKEN = np.full((3, 3), np.nan, np.float32)


@pytest.mark.parametrize(
    ("queries", "gallery", "message"),
    [
        (EYE.astype(np.float64), EYE, "query embeddings must be float32"),
        (EYE, EYE[0], "gallery embeddings must be float32"),
        (EYE[:0], EYE, "no query embeddings"),
        (EYE, EYE[:0], "no gallery embeddings"),
        (EYE, BROKEN, "gallery embeddings contain NaN"),
        (EYE, EYE[:, :2], "same model"),
    ],
)
def test_bad_embeddings_are_a_sentence(queries, gallery, message):
    with pytest.raises(ValueError, match=message):
        ranks_of_positives(queries, gallery, np.arange(3), np.arange(3))
    with pytest.raises(ValueError, match=message):
        top_k(queries, gallery, k=1)


def test_bad_numbers_are_a_sentence():
    with pytest.raises(ValueError, match="each embedding needs one"):
        ranks_of_positives(EYE, EYE, np.arange(3), np.arange(2))
    with pytest.raises(ValueError, match="k must be from 1 to the gallery's 3 photos, got 4"):
        top_k(EYE, EYE, k=4)
    with pytest.raises(ValueError, match="block_size"):
        top_k(EYE, EYE, k=1, block_size=0)
