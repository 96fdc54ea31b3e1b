"""The official random count with compiled lengths: the step is that of hidden tokens, but shorter.

What is hidden is drawn here as the official way does it, and hidden by a key mask alone.
"""

import collections
import dataclasses
import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_accumulation import assert_same
from test_sharding import jitted_step
from tiny import CONFIG, network, training_batch

from finetune.objective import VIEWS, make_objective
from ivt_jax.model.masking import hidden_keys
from ivt_jax.model.pixels import normalise
from ivt_jax.training.accumulation import make_gradients
from ivt_jax.training.compiled import read_traffic
from ivt_jax.training.matching import Objective

MASKING = {"strategy": "official", "image_ratio": 0.25, "text_ratio": 0.4, "draws": "batch"}
TWO = MASKING | {"image_ratio": 0.12}  # two lengths: less to compile
SHALLOW = dataclasses.replace(CONFIG, depth=1)
COUNT = CONFIG.image_tokens  # 9, of which up to 2 are hidden
ROWS = 8


def objective(image_tokens, **changes):
    options = {"masking": MASKING, "erase": 0.0, "lengths": (5, 10, 5)} | changes
    return make_objective(
        views=VIEWS["joint"],
        levels="joint",
        negatives="global",
        epsilon=1e-8,
        image_tokens=image_tokens,
        **options,
    )


@functools.cache
def keys_by_form():
    """A key for each form of the objective."""
    choose = jax.jit(cast(Any, objective(COUNT).form))
    return {int(choose(key)): key for key in map(jax.random.key, range(40))}


@functools.cache
def given(config=SHALLOW):
    graphdef, params = nnx.split(network(config))
    batch = jax.tree.map(jnp.asarray, training_batch(rows=ROWS, views=3))
    batch["token_mask"] &= jnp.arange(10) < jnp.array([5, 10, 5])[:, None]
    return graphdef, nnx.to_pure_dict(params), batch


def hidden_features(model, batch, key):
    """Features with all tokens computed and some hidden as keys; nothing else is random."""
    images_key, words_key = jax.random.split(jax.random.split(key, 5)[2])
    options = {"rows": 3 * ROWS, "draws": "batch"}
    images = normalise(batch["images"].reshape(-1, *batch["images"].shape[2:]))
    ids, mask = (batch[name].reshape(-1, 10) for name in ("token_ids", "token_mask"))
    image, text = model.embed_image(images), model.embed_text(ids)
    shown = ~hidden_keys(images_key, COUNT, ratio=0.25, **options)
    words = mask & ~hidden_keys(words_key, 10, ratio=0.4, **options)
    found = [model.encode(image, shown, modality="image")]
    found.append(model.encode(text, words, modality="text"))
    return tuple(x.reshape(ROWS, 3, -1) for x in found)


@pytest.fixture(scope="module")
def shortened():
    graphdef, *_ = given()
    return jax.jit(make_gradients(objective(COUNT), graphdef))


@pytest.fixture(scope="module")
def reference():
    graphdef, *_ = given()
    hidden = Objective(hidden_features, objective(0).loss)
    return jax.jit(make_gradients(hidden, graphdef))


@pytest.mark.parametrize("form", range(3))
def test_loss_and_gradients_are_those_of_hidden_tokens(form, shortened, reference):
    _, params, batch = given()
    key = keys_by_form()[form]
    # Sums over other tokens in another order: what is left of them differs by rounding.
    found, expected = shortened(params, batch, key), reference(params, batch, key)
    assert_same(found, expected, tolerance=5e-5)
    assert shortened._cache_size() == 1


def test_every_length_is_compiled_and_no_other(shortened):
    _, params, batch = given()
    text = shortened.lower(params, batch, jax.random.key(0)).as_text()
    # Scores of the class tokens of all images; texts of one length are fewer.
    scores = "tensor<{}x{}x1x{}xf32>"
    found = [n for n in range(2, 30) if scores.format(3 * ROWS, CONFIG.heads, n) in text]
    assert found == [COUNT - 2, COUNT - 1, COUNT]
    assert text.count('"stablehlo.case"') == 1


def chosen(keys):
    """The forms that keys choose where there are two."""
    choose = jax.jit(cast(Any, objective(COUNT, masking=TWO).form))
    return [int(choose(key)) for key in keys]


@pytest.mark.parametrize("negatives", ["micro", "all"])
def test_each_micro_batch_has_the_length_of_its_own_key(negatives):
    graphdef, params, batch = given(dataclasses.replace(SHALLOW, drop_path=0.3, text_dropout=0.2))
    found, expected = (
        jax.jit(
            make_gradients(
                objective(count, masking=TWO, lengths=()),
                graphdef,
                accumulate=2,
                negatives=negatives,
            )
        )
        for count in (COUNT, 0)
    )
    keys = {tuple(chosen(jax.random.split(key))): key for key in map(jax.random.key, range(20))}
    assert len(keys) == 4, "each micro-batch has each of the two"
    for key in keys.values():
        assert_same(found(params, batch, key), expected(params, batch, key), tolerance=5e-5)


def test_a_resumed_step_chooses_again_and_one_compilation_serves_all():
    mesh, state, step, batch = jitted_step((1, 1), SHALLOW, masking=TWO, image_tokens=COUNT)
    key, steps = jax.random.key(5), 6
    assert set(chosen(jax.random.fold_in(key, n) for n in range(2, steps))) == {0, 1}
    losses, middle = [], None
    with jax.set_mesh(mesh):
        for number in range(steps):
            if number == 2:
                middle = jax.tree.map(np.array, state)
            state, metrics = step(state, batch, key)
            losses.append(float(metrics["loss"]))
        again = jax.device_put(middle, jax.tree.map(lambda x: x.sharding, state))
        for number in range(2, steps):
            again, metrics = step(again, batch, key)
            assert float(metrics["loss"]) == losses[number]
    for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert cast(Any, step)._cache_size() == 1


def test_on_a_mesh_all_devices_choose_alike_and_nothing_more_travels():
    key, losses, travels = jax.random.key(5), [], []
    assert set(chosen(jax.random.fold_in(key, n) for n in range(4))) == {0, 1}
    for count in (COUNT, 0):
        mesh, state, step, batch = jitted_step((4, 2), SHALLOW, masking=TWO, image_tokens=count)
        with jax.set_mesh(mesh):
            compiled = step.lower(state, batch, key).compile()
            for _ in range(4):
                state, metrics = compiled(state, batch, key)
                losses.append(float(metrics["loss"]))
        found = read_traffic(str(compiled.as_text())).collectives
        travels.append(collections.Counter(each.kind for each in found))
    np.testing.assert_allclose(losses[:4], losses[4:], rtol=2e-5)
    assert travels[0] == travels[1]


def test_traffic_is_that_of_the_first_branch():
    def branch(rows):
        return lambda x: jnp.sum(jnp.sin(x[:rows] @ x.T), axis=0)

    def moved(function):
        text = str(jax.jit(function).lower(jnp.ones((64, 64)), 0).compile().as_text())
        return read_traffic(text).memory_bytes

    branches = [branch(rows) for rows in (64, 48, 32)]
    alone = moved(lambda x, index: branches[0](x) + index)
    found = moved(lambda x, index: jax.lax.switch(index, branches, x) + index)
    assert found == pytest.approx(alone, rel=0.1)
