"""CMPM without its matrix against the plain form, the official code's outputs and float64 NumPy."""

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import golden

from ivt_jax.losses.cmpm import cmpm
from ivt_jax.losses.cmpm_rows import cmpm_rows
from ivt_jax.training.matching import match
from ivt_jax.training.sharding import make_mesh, to_global

WIDTH = 32
FORMS = {
    "official": {"logits": "projection", "target_norm": "l2", "epsilon": 1e-8},
    "paper": {"logits": "dot", "target_norm": "sum", "epsilon": 1e-8},
}


def features(rows, scale=1.0):
    """(B, D) images and texts that lean towards their identity's centre, about four a person."""
    rng = np.random.default_rng(rows)
    identities = rng.integers(0, rows // 4 + 1, rows)
    centres = rng.normal(size=(rows, WIDTH))[identities]
    images, texts = scale * (centres + rng.normal(size=(2, rows, WIDTH))).astype(np.float32)
    return images, texts, identities.astype(np.int32)


def with_gradients(function) -> Any:
    return jax.jit(jax.value_and_grad(function, argnums=(0, 1)))


def mean_of_rows(images, texts, identities, **options):
    return cmpm_rows(images, texts, identities, **options).mean()


def float64(images, texts, identities, *, logits, target_norm, epsilon, block=512):
    """Value and gradients by the definition, a block of rows at a time."""
    sides = [x.astype(np.float64) for x in (images, texts)]
    norms = [np.linalg.norm(x, axis=1, keepdims=True) for x in sides]
    unit = [x / n for x, n in zip(sides, norms, strict=True)] if logits == "projection" else sides
    to_rows, to_columns = ([np.zeros_like(x) for x in sides] for _ in range(2))
    total, count = 0.0, len(identities)
    for side in (0, 1):
        rows, columns = sides[side], unit[1 - side]
        for part in (slice(i, i + block) for i in range(0, count, block)):
            scores = rows[part] @ columns.T
            scores -= scores.max(axis=1, keepdims=True)
            log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
            y = (identities[part, None] == identities).astype(np.float64)
            positives = y.sum(axis=1, keepdims=True)
            q = y / (np.sqrt(positives) if target_norm == "l2" else positives)
            difference = log_p - np.log(q + epsilon)
            p = np.exp(log_p)
            losses = (p * difference).sum(axis=1, keepdims=True)
            slope = p * (difference - losses) / count
            total += losses.sum() / count
            to_rows[side][part] += slope @ columns
            to_columns[1 - side] += slope.T @ rows[part]
    if logits == "projection":
        to_columns = [
            (g - (g * u).sum(1, keepdims=True) * u) / n
            for g, u, n in zip(to_columns, unit, norms, strict=True)
        ]
    return total, [a + b for a, b in zip(to_rows, to_columns, strict=True)]


def assert_same(found, expected, rtol=1e-5):
    """Values to `rtol`, gradients to `rtol` of their largest entry."""
    np.testing.assert_allclose(found[0], expected[0], rtol=rtol)
    for ours, theirs in zip(found[1], expected[1], strict=True):
        assert np.abs(ours - theirs).max() <= rtol * np.abs(theirs).max()


def on_eight_devices(rows, *, chunk, form="official"):
    """The compiled loss with gradients over a mesh of eight, and its arguments there."""
    mesh = make_mesh(data=4, fsdp=2)
    images, texts, identities = features(rows)
    batch = to_global(mesh, {"i": images[:, None], "t": texts[:, None], "y": identities})
    loss = functools.partial(match, negatives="global", chunk=chunk, **FORMS[form])
    with jax.set_mesh(mesh):
        lowered = with_gradients(loss).lower(batch["i"], batch["t"], batch["y"])
        return lowered.compile(), (batch["i"], batch["t"], batch["y"])


SIZES = [64, 1000, 4096, pytest.param(8192, marks=pytest.mark.slow)]


@pytest.mark.parametrize("rows", SIZES)
def test_eight_devices_equal_the_plain_form_and_float64(rows):
    compiled, batch = on_eight_devices(rows, chunk=256)
    value, gradients = compiled(*batch)
    found = value, [g[:, 0] for g in gradients]
    assert_same(found, float64(*features(rows), **FORMS["official"]))
    plain = with_gradients(functools.partial(cmpm, **FORMS["official"]))
    assert_same(found, plain(*features(rows)))


@pytest.mark.parametrize("rows", SIZES[2:])
def test_no_device_holds_a_matrix(rows):
    """Bytes of temporaries: a few (B / 8, chunk) and (B, D), where the plain form has (B, B)."""
    chunk, devices, item = 256, 8, 4
    lean, _ = on_eight_devices(rows, chunk=chunk)
    plain, _ = on_eight_devices(rows, chunk=0)
    lean, plain = (cast(Any, x).memory_analysis().temp_size_in_bytes for x in (lean, plain))
    print(f"B={rows}: plain {plain / 1e6:.1f} MB, lean {lean / 1e6:.1f} MB")
    assert plain > rows * rows * item
    assert lean < item * (6 * rows // devices * chunk + 12 * rows * WIDTH)
    assert lean < rows * rows * item / 10


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunk", [1, 10, 37, 1000])
def test_any_chunk_gives_the_same_on_one_device(form, chunk):
    batch = features(37)
    loss = functools.partial(mean_of_rows, chunk=chunk, **FORMS[form])
    found = with_gradients(loss)(*batch)
    assert_same(found, float64(*batch, **FORMS[form]))


@pytest.mark.parametrize("case", ["b16_ln", "b16_small"])
@pytest.mark.parametrize("form", ["official", "paper"])
def test_value_and_gradients_match_the_official_code(case, form):
    data = golden("cmpm_b16.npz")
    image, text, labels = (data[f"{case}/{name}"] for name in ("img", "txt", "labels"))
    loss = functools.partial(mean_of_rows, chunk=5, **FORMS[form])
    value, gradients = with_gradients(loss)(image, text, labels)
    np.testing.assert_allclose(value, data[f"{case}/{form}_loss"], rtol=1e-5)
    if (case, form) != ("b16_ln", "paper"):  # saturated: the reference compares values only
        for gradient, side in zip(gradients, ("img", "txt"), strict=True):
            np.testing.assert_allclose(gradient, data[f"{case}/{form}_grad_{side}"], atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_saturated_rows_stay_finite_and_exact(form):
    """Logits up to some ten thousand, whose exponentials overflow without the running maximum."""
    batch = features(40, scale=30.0)
    loss = functools.partial(mean_of_rows, chunk=7, **FORMS[form])
    found = with_gradients(loss)(*batch)
    assert_same(found, float64(*batch, **FORMS[form]), rtol=2e-3 if form == "paper" else 1e-5)


def test_zero_features_have_finite_gradients():
    zeros = jnp.zeros((4, 8))
    _, gradients = with_gradients(functools.partial(mean_of_rows, chunk=3))(
        zeros, zeros, jnp.arange(4)
    )
    assert np.isfinite(gradients).all()


def test_a_feature_that_is_not_finite_shows_in_the_loss():
    """A chunk that looks away must not hide what the check for divergence needs to see."""
    images, texts, identities = features(16)
    loss = jax.jit(functools.partial(mean_of_rows, chunk=4))
    for side in (images, texts):
        for bad in (np.nan, np.inf):
            kept, side[13, 2] = side[13, 2], bad
            assert not np.isfinite(loss(images, texts, identities))
            side[13, 2] = kept


def test_bfloat16_features_are_compared_in_float32():
    images, texts, identities = features(24)
    half = [jnp.asarray(x, jnp.bfloat16) for x in (images, texts)]
    value, gradients = with_gradients(functools.partial(mean_of_rows, chunk=8))(*half, identities)
    assert value.dtype == jnp.float32
    assert all(g.dtype == jnp.bfloat16 for g in gradients)
    np.testing.assert_allclose(value, cmpm(half[0], half[1], identities), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"chunk": 0}, "chunk"),
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
        "chunk": 2,
    }
    with pytest.raises(ValueError, match=word):
        cmpm_rows(**(arguments | change))
