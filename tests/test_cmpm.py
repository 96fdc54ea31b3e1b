"""CMPM against the official code's outputs and a float64 numpy version of the paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import golden

from ivt_jax.losses.cmpm import cmpm

FORMS = {
    "official": {},
    "paper": {"logits": "dot", "target_norm": "sum"},
    "projl1": {"target_norm": "sum"},
}


@pytest.mark.parametrize("case", ["b16_ln", "b16_small"])
@pytest.mark.parametrize("form", FORMS)
def test_value_and_gradients_match_the_official_code(case, form):
    data = golden("cmpm_b16.npz")
    image, text, labels = (data[f"{case}/{name}"] for name in ("img", "txt", "labels"))

    def loss(image, text):
        return cmpm(image, text, labels, **FORMS[form])

    value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(image, text)
    np.testing.assert_allclose(value, data[f"{case}/{form}_loss"], rtol=1e-5)
    if (case, form) != ("b16_ln", "paper"):  # saturated: the reference compares values only
        for gradient, side in zip(gradients, ("img", "txt"), strict=True):
            np.testing.assert_allclose(gradient, data[f"{case}/{form}_grad_{side}"], atol=1e-6)


def _float64_cmpm(image, text, identities, *, logits, target_norm, epsilon=1e-8):
    image, text = image.astype(np.float64), text.astype(np.float64)
    total = 0.0
    for ours, theirs in ((image, text), (text, image)):
        rows = []
        for i in range(len(ours)):
            other = theirs
            if logits == "projection":
                other = theirs / np.linalg.norm(theirs, axis=1, keepdims=True)
            scores = other @ ours[i]
            p = np.exp(scores - scores.max())
            p /= p.sum()
            y = np.float64(identities == identities[i])
            q = y / (np.sqrt((y**2).sum()) if target_norm == "l2" else y.sum())
            rows.append((p * (np.log(np.maximum(p, 1e-300)) - np.log(q + epsilon))).sum())
        total += np.mean(rows)
    return total


@pytest.mark.parametrize("logits", ["projection", "dot"])
@pytest.mark.parametrize("target_norm", ["l2", "sum"])
def test_equals_a_float64_version(logits, target_norm):
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, 37, 24)).astype(np.float32)
    identities = rng.integers(0, 9, 37)
    form = {"logits": logits, "target_norm": target_norm}
    expected = _float64_cmpm(image, text, identities, **form)
    np.testing.assert_allclose(cmpm(image, text, identities, **form), expected, rtol=2e-6)


def test_permuting_the_batch_changes_nothing():
    rng = np.random.default_rng(1)
    image, text = rng.normal(size=(2, 64, 32)).astype(np.float32)
    identities = rng.integers(0, 16, 64)
    order = rng.permutation(64)
    np.testing.assert_allclose(
        cmpm(image[order], text[order], identities[order]),
        cmpm(image, text, identities),
        rtol=1e-6,
    )


def test_perfect_matches_reach_the_known_minimum():
    identities = jnp.repeat(jnp.arange(8), 4)
    features = 200.0 * jax.nn.one_hot(identities, 16)
    # KL to a target of norm 1 (l2) has its minimum at -log(n) / 2 a direction, n positives.
    np.testing.assert_allclose(cmpm(features, features, identities), -np.log(4), rtol=1e-5)
    proper = cmpm(features, features, identities, target_norm="sum")
    np.testing.assert_allclose(proper, 0.0, atol=1e-5)


def test_large_batch_in_bfloat16_is_finite_and_float32():
    rng = np.random.default_rng(2)
    image, text = rng.normal(size=(2, 4096, 16)).astype(np.float32)
    identities = jnp.asarray(rng.integers(0, 1024, 4096))
    half = [jnp.asarray(x, jnp.bfloat16) for x in (image, text)]
    value, gradients = jax.jit(
        jax.value_and_grad(lambda i, t: cmpm(i, t, identities), argnums=(0, 1))
    )(*half)
    assert value.dtype == jnp.float32 and np.isfinite(value)
    assert all(np.isfinite(np.float32(g)).all() and np.any(np.float32(g)) for g in gradients)


def test_zero_features_have_finite_gradients():
    zeros = jnp.zeros((4, 8))
    gradient = jax.grad(lambda x: cmpm(x, x, jnp.arange(4)))(zeros)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"logits": "cosine"}, "logits"),
        ({"target_norm": "max"}, "target_norm"),
        ({"identities": jnp.arange(3)}, "identities"),
        ({"text_features": jnp.zeros((4, 9))}, "shape"),
    ],
)
def test_wrong_arguments_are_named(change, word):
    arguments = {
        "image_features": jnp.ones((4, 8)),
        "text_features": jnp.ones((4, 8)),
        "identities": jnp.arange(4),
    }
    with pytest.raises(ValueError, match=word):
        cmpm(**(arguments | change))
