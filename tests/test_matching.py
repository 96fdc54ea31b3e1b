"""Levels and negatives of the matching objective, on one device and on a mesh."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from tiny import CONFIG, network, training_batch

import finetune.objective
import pretrain.objective
from configs import base
from ivt_jax.data.texts import LEVELS
from ivt_jax.losses.cmpm import cmpm
from ivt_jax.training.matching import masked_features, match, matching_objective
from ivt_jax.training.sharding import make_mesh, to_global
from ivt_jax.training.state import TrainState, make_step

ROWS, VIEWS, WIDTH = 16, 3, 24
LOSS = {"logits": "projection", "target_norm": "l2", "epsilon": 1e-8}
NONE = {"strategy": "none", "image_ratio": 0.0, "text_ratio": 0.0, "draws": "sample"}
KEY = jax.random.key(0)


def features(rows=ROWS):
    """(B, V, D) images and texts, and identities, some of them equal."""
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(2, rows, VIEWS, WIDTH)).astype(np.float32)
    return images, texts, (np.arange(rows) % 5).astype(np.int32)


def stacked(x):
    """All rows of the first view, then of the second, as the official code concatenates."""
    return np.concatenate([x[:, v] for v in range(VIEWS)])


def test_all_views_meet_in_one_matrix_as_in_the_official_code():
    images, texts, identities = features()
    expected = cmpm(stacked(images), stacked(texts), np.tile(identities, VIEWS), **LOSS)
    for negatives in ("global", "local"):  # without a mesh both are the whole batch
        found = match(images, texts, identities, negatives=negatives, **LOSS)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def on_mesh(function, data, fsdp):
    mesh = make_mesh(data=data, fsdp=fsdp)
    images, texts, identities = features()
    batch = to_global(mesh, {"images": images, "texts": texts, "identities": identities})
    with jax.set_mesh(mesh):
        return jax.jit(function)(batch["images"], batch["texts"], batch["identities"])


@pytest.mark.parametrize("chunk", [0, 5])
@pytest.mark.parametrize("mesh", [(8, 1), (2, 4)])
def test_local_negatives_are_the_mean_over_devices(mesh, chunk):
    images, texts, identities = features()
    parts = [
        cmpm(stacked(i), stacked(t), np.tile(y, VIEWS), **LOSS)
        for i, t, y in zip(*(np.split(x, 8) for x in (images, texts, identities)), strict=True)
    ]
    found = on_mesh(functools.partial(match, negatives="local", chunk=chunk, **LOSS), *mesh)
    np.testing.assert_allclose(found, np.mean(parts), rtol=1e-6)
    assert abs(found - match(images, texts, identities, negatives="global", **LOSS)) > 0.1


@pytest.mark.parametrize("chunk", [0, 5, 1000])
@pytest.mark.parametrize("mesh", [(8, 1), (2, 4)])
def test_global_negatives_depend_on_neither_the_mesh_nor_the_chunk(mesh, chunk):
    def gradients(chunk):
        function = functools.partial(match, negatives="global", chunk=chunk, **LOSS)
        return jax.value_and_grad(function, argnums=(0, 1))

    found, expected = on_mesh(gradients(chunk), *mesh), jax.jit(gradients(0))(*features())
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("mesh", [(8, 1), (2, 4)])
@pytest.mark.parametrize(("negatives", "chunk"), [("global", 5), ("local", 0), ("local", 5)])
def test_one_image_view_on_a_mesh_is_that_image_for_every_text(negatives, chunk, mesh):
    options: dict[str, Any] = {"negatives": negatives, "chunk": chunk, **LOSS}
    objective = matching_objective(views=LEVELS, erase=0.0, masking=NONE, levels="joint", **options)

    def few(images, texts, identities):
        return objective.loss((images[:, :1], texts), identities)[0]

    def many(images, texts, identities):
        images = jnp.repeat(images[:, :1], VIEWS, axis=1)
        return match(images, texts, identities, **options)

    found, expected = (
        on_mesh(jax.value_and_grad(loss, argnums=(0, 1)), *mesh) for loss in (few, many)
    )
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.fixture(scope="module")
def evaluate():
    """(objective options) -> loss and metrics of the tiny network on one batch."""
    batch = jax.tree.map(jnp.asarray, training_batch(rows=6, views=3))

    def run(**options):
        objective = finetune.objective.make_objective(
            views=LEVELS,
            erase=0.0,
            masking=NONE,
            negatives="global",
            **LOSS,
            **options,
        )
        return jax.jit(lambda: objective(network(), batch, KEY))()

    image, text = jax.jit(lambda: masked_features(network(), batch, KEY, erase=0.0, masking=NONE))()
    return run, np.asarray(image), np.asarray(text), np.asarray(batch["identities"])


def test_features_stand_in_their_rows_and_views(evaluate):
    """What (B, V) means survives the flattening: each is the feature of its own input."""
    _, image, text, _ = evaluate
    batch = training_batch(rows=6, views=3)
    pixels = jnp.asarray(batch["images"][4, 1:2] / 127.5 - 1.0, jnp.float32)
    ids, mask = (jnp.asarray(batch[name][4, 1:2]) for name in ("token_ids", "token_mask"))
    one_image, one_text = jax.jit(
        lambda: (network().image_features(pixels), network().text_features(ids, mask))
    )()
    np.testing.assert_allclose(image[4, 1], one_image[0], atol=1e-4)
    np.testing.assert_allclose(text[4, 1], one_text[0], atol=1e-4)


def test_joint_levels_are_one_matrix(evaluate):
    run, image, text, identities = evaluate
    loss, metrics = run(levels="joint")
    expected = cmpm(stacked(image), stacked(text), np.tile(identities, VIEWS), **LOSS)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert set(metrics) == {"loss"} and metrics["loss"] == loss


def test_separate_levels_are_a_sum_of_three(evaluate):
    run, image, text, identities = evaluate
    loss, metrics = run(levels="separate")
    parts = [cmpm(image[:, v], text[:, v], identities, **LOSS) for v in range(VIEWS)]
    np.testing.assert_allclose(loss, sum(parts), rtol=1e-5)
    names = ["loss_word", "loss_phrase", "loss_sentence"]
    np.testing.assert_allclose([metrics[name] for name in names], parts, rtol=1e-5)
    assert set(metrics) == {"loss", *names}


def test_pretraining_has_one_view():
    assert pretrain.objective.VIEWS == ("sentence",)
    objective = pretrain.objective.make_objective(
        views=pretrain.objective.VIEWS,
        erase=0.0,
        masking=NONE,
        levels="separate",
        negatives="global",
        **LOSS,
    )
    batch = jax.tree.map(jnp.asarray, training_batch(rows=4, views=1))
    loss, metrics = jax.jit(lambda: objective(network(), batch, KEY))()
    assert set(metrics) == {"loss", "loss_sentence"} and loss == metrics["loss_sentence"]


@pytest.mark.parametrize(
    ("matched", "levels", "expected"),
    [
        ("sentence", "word,phrase", ("sentence",)),
        ("joint", "word,phrase,sentence", LEVELS),
        ("separate", "phrase,phrase", ("phrase", "phrase")),
    ],
)
def test_fine_tuning_has_the_levels_of_its_configuration(matched, levels, expected):
    config = base.get_config()
    config.objective.levels, config.data.levels = matched, levels
    assert finetune.objective.views_of(config) == expected


@pytest.mark.parametrize("levels", ["joint", "separate"])
def test_one_image_view_meets_every_text(levels):
    """The loss and its gradient are those of a batch that has the image once for each text."""
    views = ("word", "phrase", "phrase", "sentence")
    few = jax.tree.map(jnp.asarray, training_batch(rows=6, views=4))
    few["images"] = few["images"][:, :1]
    many = few | {"images": jnp.repeat(few["images"], 4, axis=1)}
    options = {"erase": 0.0, "masking": NONE, "levels": levels, "negatives": "global"}
    objective = finetune.objective.make_objective(views=views, **options, **LOSS)
    graphdef, params = nnx.split(network())

    def gradient(batch):
        def loss(params):
            return objective(nnx.merge(graphdef, params), batch, KEY)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    (found, metrics), slopes = gradient(few)
    (expected, others), theirs = gradient(many)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert metrics.keys() == others.keys() and len(metrics) == (1 if levels == "joint" else 4)
    for one, other in zip(jax.tree.leaves(slopes), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5 * float(abs(other).max()))


def test_masking_and_erasing_take_part(evaluate):
    _, image, text, _ = evaluate
    batch = jax.tree.map(jnp.asarray, training_batch(rows=6, views=3))
    masking = NONE | {"strategy": "drop", "text_ratio": 0.5}  # no patch goes, so pixels must
    run = jax.jit(lambda key: masked_features(network(), batch, key, erase=1.0, masking=masking))
    found, again = run(KEY), run(jax.random.key(1))
    for ours, plain, other in zip(found, (image, text), again, strict=True):
        assert np.abs(ours - plain).max() > 1e-2
        assert np.abs(ours - other).max() > 1e-2


@pytest.mark.parametrize("strategy", ["drop", "official", "none"])
@pytest.mark.parametrize("lengths", [(5, 5, 10), (4, 10, 6)])
def test_texts_without_their_padding_give_the_same_features_and_gradients(strategy, lengths):
    """Whatever is random is drawn for the whole batch, so that even that is the same."""
    batch = training_batch(rows=4, views=3)
    batch["token_mask"] &= np.arange(10) < np.array(lengths)[:, None]
    batch = jax.tree.map(jnp.asarray, batch)
    masking = {"strategy": strategy, "image_ratio": 0.3, "text_ratio": 0.4, "draws": "sample"}
    graphdef, params = nnx.split(
        network(dataclasses.replace(CONFIG, drop_path=0.5, text_dropout=0.3))
    )

    def total(params, lengths):
        model = nnx.merge(graphdef, params)
        options = {"erase": 0.0, "masking": masking, "lengths": lengths}
        found = masked_features(model, batch, KEY, **options)
        return sum(jnp.sum(x**3) for x in found), found

    run = jax.jit(jax.grad(total, has_aux=True), static_argnums=1)
    found, expected = run(params, lengths), run(params, ())
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * float(abs(theirs).max()))


def test_the_blocks_see_no_more_of_a_text_than_its_length():
    batch = jax.tree.map(jnp.asarray, training_batch(rows=4, views=3))

    def text(lengths):
        run = functools.partial(masked_features, erase=0.0, masking=NONE, lengths=lengths)
        return jax.jit(lambda: run(network(), batch, KEY)).lower().as_text()

    assert "tensor<4x5x32x" in text((5, 6, 10)) and "tensor<4x5x32x" not in text(())


def toy_objective(model, batch, key):
    """Mean squared output, with noise that tells which key a part of the batch saw."""
    output = model(batch["x"]) + jax.random.normal(key, (1, 3))
    loss = jnp.mean(output**2)
    return loss, {"loss": loss}


@pytest.mark.parametrize("accumulate", [1, 3])
def test_accumulation_averages_gradients_of_contiguous_parts(accumulate):
    graphdef, params = nnx.split(nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
    params = nnx.to_pure_dict(params)
    batch = {"x": jnp.asarray(np.random.default_rng(0).normal(size=(12, 4)), jnp.float32)}
    transform = optax.sgd(1.0)

    step_key = jax.random.fold_in(KEY, 5)
    keys = [step_key] if accumulate == 1 else jax.random.split(step_key, accumulate)

    def mean_loss(params):
        parts = jnp.split(batch["x"], accumulate)
        model = nnx.merge(graphdef, params)
        losses = [toy_objective(model, {"x": x}, k)[0] for x, k in zip(parts, keys, strict=True)]
        return sum(losses) / accumulate

    loss, gradient = jax.value_and_grad(mean_loss)(params)
    state = TrainState(jnp.int32(5), params, transform.init(params))
    step = jax.jit(make_step(toy_objective, graphdef, transform, accumulate=accumulate))
    after, metrics = step(state, batch, KEY)
    assert after.step == 6
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(gradient), rtol=1e-5)
    for name in ("kernel", "bias"):
        moved = params[name] - after.params[name]
        np.testing.assert_allclose(moved, gradient[name], atol=1e-6)
