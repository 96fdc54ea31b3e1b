"""The rules cover every parameter, and the step is the same on every mesh."""

import collections
import dataclasses
import re
import warnings
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tiny import CONFIG, network, training_batch

from finetune.objective import make_objective
from ivt_jax.data.texts import LEVELS
from ivt_jax.model.ivt import IVTConfig
from ivt_jax.training import sharding
from ivt_jax.training.compiled import read_traffic
from ivt_jax.training.optimizer import make_optimizer
from ivt_jax.training.program import jitted
from ivt_jax.training.sharding import BATCH, make_mesh, parameter_spec, path_name
from ivt_jax.training.state import abstract_state, create_state, make_step, split_model

STEPS = 3
RANDOM = dataclasses.replace(CONFIG, layers="scan", drop_path=0.2, text_dropout=0.1)
MESHES = {"one device": (1, 1), "data": (8, 1), "data and fsdp": (4, 2), "fsdp": (1, 8)}
MESHES |= {"split": (8, 1)}  # the optimizer state over all devices, ZeRO-1


def mesh_of(shape):
    if shape != (1, 1):
        return make_mesh(data=shape[0], fsdp=shape[1])
    return jax.make_mesh(
        shape, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:1]
    )


def objective(**changes):
    masking = {
        "strategy": "drop",
        "image_ratio": 0.3,
        "text_ratio": 0.3,
        "draws": "sample",
    }
    options = {"levels": "joint", "negatives": "global", "epsilon": 1e-8} | changes
    return make_objective(views=LEVELS, erase=0.5, masking=masking, **options)


def optimizer():
    return make_optimizer(
        name="sgd",
        schedule=lambda step: 1e-2 + 0.0 * step,
        bias_schedule=lambda step: 2e-2 + 0.0 * step,
        weight_decay=1e-2,
        decay="all",
        momentum=0.9,
        beta1=0.9,
        beta2=0.98,
        epsilon=1e-8,
        clip_norm=1.0,
    )


def jitted_step(shape, config=RANDOM, *, optimizer_state="params", **changes):
    """(mesh, fresh state, jitted step, global batch) as training.loop makes them."""
    mesh, transform = mesh_of(shape), optimizer()
    graphdef, _ = split_model(config)
    _, shardings = abstract_state(config, transform, mesh=mesh, optimizer_state=optimizer_state)
    step = jitted(make_step(objective(**changes), graphdef, transform), shardings, mesh)
    with jax.set_mesh(mesh):
        state = create_state(config, transform, shardings=shardings, seed=0)
    batch = sharding.to_global(mesh, training_batch(rows=8, views=3))
    return mesh, state, step, batch


@pytest.fixture(scope="module")
def runs():
    """Mesh name -> losses, gradient norms and parameters after three steps, and the step."""
    found = {}
    for name, shape in MESHES.items():
        where = "split" if name == "split" else "params"
        mesh, state, step, batch = jitted_step(shape, optimizer_state=where)
        first, metrics = state, []
        with jax.set_mesh(mesh), warnings.catch_warnings():
            warnings.simplefilter("error")  # "donated buffers were not usable" is a warning
            for _ in range(STEPS):
                state, values = step(state, batch, jax.random.key(5))
                metrics.append([float(values["loss"]), float(values["gradient_norm"])])
        found[name] = {
            "metrics": metrics,
            "params": jax.device_get(state.params),
            "compilations": cast(Any, step)._cache_size(),
            "donated": [x.is_deleted() for x in jax.tree.leaves(first)],
            "state": state,
        }
    return found


@pytest.mark.parametrize("name", ["data", "data and fsdp", "fsdp", "split"])
def test_every_mesh_computes_the_same(runs, name):
    ours, alone = runs[name], runs["one device"]
    np.testing.assert_allclose(ours["metrics"], alone["metrics"], rtol=2e-5)
    losses = np.array(alone["metrics"])[:, 0]
    assert len(set(losses)) == STEPS
    for path, value in jax.tree_util.tree_leaves_with_path(ours["params"]):
        expected = alone["params"]
        for key in path:
            expected = expected[key.key]
        np.testing.assert_allclose(value, expected, atol=1e-5, err_msg=path_name(path))


@pytest.mark.parametrize("name", MESHES)
def test_the_step_compiles_once_and_gives_its_buffers_back(runs, name):
    assert runs[name]["compilations"] == 1
    assert all(runs[name]["donated"])


def test_the_state_is_born_and_stays_where_the_rules_say(runs):
    state = runs["data and fsdp"]["state"]
    mesh = mesh_of((4, 2))
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        spec = parameter_spec(path_name(path), leaf.ndim)
        assert leaf.sharding.is_equivalent_to(NamedSharding(mesh, spec), leaf.ndim)
    split = state.params["blocks"]["mlp_image"]["up"]["kernel"]
    assert split.addressable_shards[0].data.shape == (2, 16, 128)
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.shape == split.shape]
    assert moments
    assert all(
        {s.data.shape for s in x.addressable_shards} & {(2, 16, 128), (2, 64, 32)} for x in moments
    )


def bytes_on_a_device(tree) -> int:
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def test_a_split_optimizer_state_takes_an_eighth_where_params_stay_whole(runs):
    split, whole = (runs[name]["state"] for name in ("split", "data"))
    assert bytes_on_a_device(split.params) == bytes_on_a_device(whole.params)
    small = sum(x.nbytes for x in jax.tree.leaves(whole.params) if x.ndim < 2 or x.shape[0] == 2)
    _, shapes = split_model(RANDOM)
    large = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
        if re.search(r"kernel|word_table|position_table", path_name(path))
    ]
    spared = sum(leaf.size * 4 for leaf in large) * 7 // 8
    assert bytes_on_a_device(whole.opt_state) - bytes_on_a_device(split.opt_state) == spared > small


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((12, 768, 3072), (None, ("data", "fsdp"), None)),  # 768 / 8
        ((12, 12, 3072), (None, "fsdp", None)),  # as its parameter, for 12 / 8 is no whole number
    ],
)
def test_a_moment_is_split_where_its_size_allows(shape, spec):
    found = sharding.split_spec("blocks/mlp_text/up/kernel", shape, mesh_of((4, 2)))
    assert found == PartitionSpec(*spec)


def compiled_collectives(shape, config=RANDOM, **changes):
    mesh, state, step, batch = jitted_step(shape, config, **changes)
    with jax.set_mesh(mesh):
        text = str(step.lower(state, batch, jax.random.key(0)).compile().as_text())
    return collections.Counter(c.kind for c in read_traffic(text).collectives)


# Of images and of texts each: one pass over the blocks. What the step of a scanned model needs:
#   all-gather      the features of images, of texts, and the identities, to be compared
#   all-reduce      the gradients of one block in the backward pass of images, and in that of
#                   texts; all other gradients in one
#   reduce-scatter  the gradients of gathered features, of images and of texts (chunked loss only)
COMPARE = {"all-gather": 3, "all-reduce": 3}
# ZeRO-1 gathers each split parameter after its update: six kernels, the patches, two tables.
UPDATE = {"all-gather": 9}


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({}, [COMPARE]),
        ({"optimizer_state": "split"}, [COMPARE, UPDATE]),
        ({"chunk": 8}, [COMPARE, {"reduce-scatter": 2}]),
    ],
    ids=["whole", "split", "chunked"],
)
def test_collectives_are_those_that_the_design_needs(changes, needed):
    allowed = sum((collections.Counter(part) for part in needed), collections.Counter())
    assert compiled_collectives((8, 1), **changes) <= allowed


@pytest.mark.parametrize("layers", ["scan", "unroll"])
def test_parameters_travel_and_activations_stay(layers):
    found = compiled_collectives((4, 2), dataclasses.replace(RANDOM, layers=layers))
    assert not found["all-to-all"] and not found["collective-permute"], found
    assert found["all-gather"] > 0 and found["all-reduce"] > 0, "else nothing was split"


def constrained(jaxpr, spec) -> int:
    """How many activations (B, T, D) a program pins to a spec, those of inner programs too."""
    count = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "sharding_constraint" and equation.outvars[0].aval.ndim == 3:
            count += equation.params["sharding"].spec == spec
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            count += constrained(inner, spec) if hasattr(inner, "eqns") else 0
    return count


def test_activations_are_pinned_to_the_batch_after_embedding_and_every_block():
    mesh = mesh_of((4, 2))
    batch = training_batch(rows=8, views=1)
    model = network(dataclasses.replace(CONFIG, layers="scan"))
    images = jnp.zeros((8, *CONFIG.image_size, 3))
    with jax.set_mesh(mesh):
        image = jax.make_jaxpr(model.image_features)(images)
        text = jax.make_jaxpr(model.text_features)(
            batch["token_ids"][:, 0], batch["token_mask"][:, 0]
        )
        share = jax.jit(sharding.batch_sharded)(images)
        whole = jax.jit(sharding.gathered)(share)
    assert constrained(image.jaxpr, BATCH) == constrained(text.jaxpr, BATCH) == 2
    assert share.addressable_shards[0].data.shape[0] == 1
    assert whole.addressable_shards[0].data.shape[0] == 8


def test_every_parameter_has_exactly_one_rule():
    _, shapes = split_model(IVTConfig())
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        name = path_name(path)
        matching = [p for p, *_ in sharding.RULES if re.fullmatch(p, name)]
        assert len(matching) == 1, (name, matching)
        assert len(parameter_spec(name, leaf.ndim)) == leaf.ndim


def test_large_parameters_are_split_and_small_ones_are_not():
    _, shapes = split_model(IVTConfig())
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        split = "fsdp" in parameter_spec(path_name(path), leaf.ndim)
        assert split == (leaf.size > 300_000), path_name(path)


@pytest.mark.parametrize("name", ["blocks/attention/qkv/kernel/value", "head/kernel", ""])
def test_a_parameter_without_a_rule_is_an_error(name):
    with pytest.raises(ValueError, match="no sharding rule"):
        parameter_spec(name, 2)


def test_a_state_leaf_without_a_rule_is_an_error():
    mesh = mesh_of((1, 1))
    unknown = {"opt_state": {"head": {"kernel": jax.ShapeDtypeStruct((4, 4), np.float32)}}}
    with pytest.raises(ValueError, match="head/kernel"):
        sharding.state_shardings(mesh, unknown)
    count = {"opt_state": {"count": jax.ShapeDtypeStruct((), np.int32)}}
    assert sharding.state_shardings(mesh, count)["opt_state"]["count"].spec == PartitionSpec()


def test_a_mesh_that_does_not_fit_the_devices_is_an_error():
    with pytest.raises(ValueError, match="mesh.data=3 x mesh.fsdp=2 = 6, but there are 8"):
        make_mesh(data=3, fsdp=2)
    with pytest.raises(ValueError, match="8 devices"):
        make_mesh(data=-1, fsdp=3)
    assert make_mesh(data=-1, fsdp=2).shape == {"data": 4, "fsdp": 2}


def test_without_a_mesh_nothing_is_constrained():
    tree = {"a": np.ones(3)}
    assert sharding.gathered(tree) is tree and sharding.batch_sharded(tree) is tree
