"""Micro-batches that keep all negatives are the big batch, on one device and on a mesh."""

import dataclasses
import functools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from runs import compared_metrics, finish
from test_sharding import MESHES, RANDOM, mesh_of, optimizer
from tiny import CONFIG, network, training_batch

from finetune.objective import make_objective
from ivt_jax.data.texts import LEVELS
from ivt_jax.training.accumulation import make_gradients
from ivt_jax.training.compiled import read_traffic
from ivt_jax.training.sharding import BATCH, REPLICATED, path_name, to_global
from ivt_jax.training.state import abstract_state, create_state, make_step, split_model

ROWS, PARTS = 16, 2
SHALLOW = dataclasses.replace(CONFIG, depth=1)
KEY = jax.random.key(3)
PLAIN = {"strategy": "none", "image_ratio": 0.0, "text_ratio": 0.0, "draws": "sample"}
MASKED = PLAIN | {"strategy": "drop", "image_ratio": 0.3, "text_ratio": 0.3}


def objective(*, levels="joint", chunk=0, negatives="global", random=False):
    return make_objective(
        views=LEVELS,
        erase=0.5 if random else 0.0,
        masking=MASKED if random else PLAIN,
        levels=levels,
        negatives=negatives,
        chunk=chunk,
        epsilon=1e-8,
    )


def split(config):
    graphdef, params = nnx.split(network(config))
    return graphdef, nnx.to_pure_dict(params)


@functools.cache
def gradients(config, rows=ROWS, accumulate=PARTS, negatives="all", images=3, **options):
    """The compiled function of one batch without a mesh, its results, and what it was given."""
    graphdef, params = split(config)
    batch = jax.tree.map(jnp.asarray, training_batch(rows=rows, views=3))
    batch["images"] = batch["images"][:, :images]
    function = make_gradients(
        objective(**options), graphdef, accumulate=accumulate, negatives=negatives
    )
    compiled = jax.jit(function).lower(params, batch, KEY).compile()
    return compiled, compiled(params, batch, KEY), (graphdef, params, batch)


def assert_same(found, expected):
    """Metrics to 1e-6 of their size, gradients to 1e-5 of their parameter's largest."""
    assert found[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-6, err_msg=name)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected[0]))
    for path, theirs in jax.tree_util.tree_leaves_with_path(expected[0]):
        ours = functools.reduce(lambda tree, key: tree[key.key], path, found[0])
        size = max(float(jnp.abs(theirs).max()), 1e-3 * largest)
        assert jnp.abs(ours - theirs).max() <= 1e-5 * size, path_name(path)


def test_all_negatives_are_the_big_batch_in_the_memory_of_a_micro_batch():
    options = {"levels": "separate", "chunk": 7}
    parts, found, _ = gradients(SHALLOW, rows=64, accumulate=16, **options)
    once, expected, _ = gradients(SHALLOW, rows=64, accumulate=1, **options)
    assert_same(found, expected)
    parts, once = (x.memory_analysis().temp_size_in_bytes for x in (parts, once))
    print(f"64 rows at once: {once / 1e6:.1f} MB; in 16 parts: {parts / 1e6:.1f} MB")
    assert parts < once / 3


def test_all_negatives_are_the_big_batch_where_one_image_meets_every_text():
    options = {"levels": "separate", "chunk": 7, "images": 1}
    _, found, _ = gradients(SHALLOW, rows=64, accumulate=16, **options)
    assert_same(found, gradients(SHALLOW, rows=64, accumulate=1, **options)[1])


@pytest.mark.slow
def test_both_passes_draw_the_same_erasing_masking_dropout_and_drop_path():
    """The big batch, with each row's randomness from its micro-batch's key, is the reference."""
    goal = objective(random=True)
    _, found, (graphdef, params, batch) = gradients(RANDOM, random=True)
    keys = jax.random.split(KEY, PARTS)

    def big_batch(params, keys):
        model = nnx.merge(graphdef, params)
        rows = {name: jnp.stack([x[i::PARTS] for i in range(PARTS)]) for name, x in batch.items()}
        parts = jax.vmap(lambda rows, key: goal.features(model, rows, key))(rows, keys)
        encoded = [jnp.zeros((ROWS, 3, RANDOM.width))] * 2
        for i in range(PARTS):
            encoded = [x.at[i::PARTS].set(y[i]) for x, y in zip(encoded, parts, strict=True)]
        return goal.loss(tuple(encoded), batch["identities"])

    reference = jax.jit(jax.grad(big_batch, has_aux=True))
    assert_same(found, reference(params, keys))
    _, other = reference(params, keys[::-1])
    assert abs(other["loss"] - found[1]["loss"]) > 1e-3, "else nothing was random"


@functools.cache
def step_on(mesh_name):
    """(compiled step, state, batch) with all negatives on one of the meshes."""
    mesh, transform = mesh_of(MESHES[mesh_name]), optimizer()
    graphdef, _ = split_model(RANDOM)
    _, shardings = abstract_state(RANDOM, transform, mesh=mesh)
    spread, whole = NamedSharding(mesh, BATCH), NamedSharding(mesh, REPLICATED)
    step = jax.jit(
        make_step(
            objective(random=True, chunk=10),
            graphdef,
            transform,
            accumulate=PARTS,
            accumulate_negatives="all",
        ),
        in_shardings=(shardings, spread, whole),
        out_shardings=(shardings, whole),
    )
    batch = to_global(mesh, training_batch(rows=ROWS, views=3))
    with jax.set_mesh(mesh):
        state = create_state(RANDOM, transform, shardings=shardings, seed=0)
        return step.lower(state, batch, KEY).compile(), state, batch


@pytest.mark.parametrize("name", ["data", pytest.param("data and fsdp", marks=pytest.mark.slow)])
def test_every_mesh_computes_the_same_with_the_same_randomness(name):
    after, metrics = {}, {}
    for mesh in (name, "one device"):
        compiled, state, batch = step_on(mesh)
        after[mesh], metrics[mesh] = compiled(state, batch, KEY)
    for value in metrics["one device"]:
        np.testing.assert_allclose(metrics[name][value], metrics["one device"][value], rtol=1e-5)
    pairs = zip(*(jax.tree.leaves(after[mesh].params) for mesh in after), strict=True)
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def collectives(compiled):
    return Counter(c.kind for c in read_traffic(str(compiled.as_text())).collectives)


def test_nothing_but_features_and_gradients_travels():
    """What the step of (8, 1) needs, with layers scanned and one loss over all levels.

    Three all-gathers bring images, texts and identities together; two reduce-scatters take the
    gradients of the first two back. One all-reduce is of the loss and two are of gradients: the
    blocks', once for images and texts as they pass together, and everything else's.
    """
    found = collectives(step_on("data")[0])
    assert found["all-to-all"] == 0 and found["collective-permute"] == 0, found
    assert found["all-gather"] == 3 and found["reduce-scatter"] == 2, found
    assert 0 < found["all-reduce"] <= 3, found


@pytest.mark.slow
def test_nor_does_anything_move_sideways_where_parameters_are_split():
    found = collectives(step_on("data and fsdp")[0])
    assert found["all-to-all"] == 0 and found["collective-permute"] == 0, found


@pytest.mark.slow
def test_a_run_in_parts_and_chunks_has_the_losses_of_a_plain_one(data, tmp_path):
    """Fine-tuning with three levels, nothing random on the device, in processes of 1 and 2."""
    still = ["data.erase=0.0", "model.drop_path=0.0", "model.text_dropout=0.0"]
    still += ["masking.strategy=none", "objective.levels=joint", "model.dtype=float32"]
    still += ["training.steps=4", "evaluation.dataset=", "data.image_views=level"]
    still += ["data.levels=word,phrase,sentence", "data.phrase_length=0"]
    parts = ["training.accumulate=2", "objective.chunk=7"]
    losses = {}
    for name, values, devices in (("plain", still, 1), ("parts", still + parts, 2)):
        options = [f"--config.{value}" for value in values]
        finish("finetune", data, tmp_path / name, *options, devices=devices)
        losses[name] = [line["loss"] for line in compared_metrics(tmp_path / name)]
    assert len(set(losses["plain"])) == 4
    np.testing.assert_allclose(losses["parts"], losses["plain"], rtol=1e-5)


def test_an_unknown_choice_is_named():
    with pytest.raises(ValueError, match="negatives"):
        make_gradients(objective(), None, accumulate=2, negatives="none")
