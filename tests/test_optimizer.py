"""Schedules against the official ones, SGD and AdamW against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden import golden

from ivt_jax.model.ivt import IVTConfig
from ivt_jax.training.optimizer import is_bias, make_optimizer, make_schedule
from ivt_jax.training.sharding import path_name
from ivt_jax.training.state import split_model

OFFICIAL = {"warmup_epochs": 5.0, "start_rate": 5e-5, "floor_rate": 1e-5}


def rates(steps, **options):
    schedule = make_schedule(**options)
    return np.asarray(jax.vmap(schedule)(jnp.asarray(steps, jnp.int32)))


@pytest.mark.parametrize(("peak", "column"), [(0.005, "lr_weight"), (0.01, "lr_bias")])
@pytest.mark.parametrize("first_epoch", [0, 1])
@pytest.mark.parametrize("epoch_steps", [1, 7])
def test_official_schedule(peak, column, first_epoch, epoch_steps):
    """RSTP and ICFG count epochs 0 to 120, CUHK 1 to 120."""
    expected = golden("lr_schedule.npz")[column][first_epoch:]
    epochs = len(expected)
    steps = np.arange(epochs * epoch_steps)
    found = rates(
        steps,
        name="official",
        peak=peak,
        total_steps=len(steps),
        epoch_steps=epoch_steps,
        first_epoch=first_epoch,
        **OFFICIAL,
    )
    np.testing.assert_allclose(found, np.repeat(expected, epoch_steps), rtol=2e-5, atol=1e-9)


def test_official_schedule_with_a_broken_last_epoch_ends_at_the_floor():
    found = rates(
        np.arange(65),
        name="official",
        peak=0.005,
        total_steps=65,
        epoch_steps=10,
        first_epoch=0,
        **OFFICIAL,
    )
    np.testing.assert_allclose(found[60:], 1e-5)
    assert found[59] > 1e-5


@pytest.mark.parametrize("name", ["cosine", "constant"])
def test_modern_schedules_warm_up_and_end_where_they_should(name):
    found = rates(
        [0, 10, 20, 60, 100, 110],
        name=name,
        peak=0.01,
        total_steps=100,
        epoch_steps=4,
        first_epoch=0,
        **OFFICIAL,
    )
    np.testing.assert_allclose(found[:3], [5e-5, (5e-5 + 0.01) / 2, 0.01], rtol=1e-5)
    middle, end = ((0.01 + 1e-5) / 2, 1e-5) if name == "cosine" else (0.01, 0.01)
    np.testing.assert_allclose(found[3:], [middle, end, end], rtol=1e-4)


def test_a_run_shorter_than_its_warmup_still_has_rates():
    found = rates(
        np.arange(3),
        name="cosine",
        peak=0.01,
        total_steps=3,
        epoch_steps=10,
        first_epoch=0,
        **OFFICIAL,
    )
    assert np.isfinite(found).all() and (np.diff(found) > 0).all()


def test_unknown_names_are_errors():
    with pytest.raises(ValueError, match="'linear'"):
        rates([0], name="linear", peak=1.0, total_steps=1, epoch_steps=1, first_epoch=0, **OFFICIAL)
    with pytest.raises(ValueError, match="'lion'"):
        optimizer(name="lion")


def optimizer(**changes):
    options = {
        "name": "sgd",
        "schedule": lambda step: 0.1 / (1 + step),
        "bias_schedule": lambda step: 0.2 / (1 + step),
        "weight_decay": 0.05,
        "decay": "all",
        "momentum": 0.9,
        "beta1": 0.9,
        "beta2": 0.98,
        "epsilon": 1e-6,
        "clip_norm": 0.0,
    }
    return make_optimizer(**(options | changes))


def problem():
    """Parameters, and five gradients for each, in the names of the network."""
    rng = np.random.default_rng(0)
    blocks = {"norm1": {"scale": (4,), "bias": (4,)}, "up": {"kernel": (4, 3)}}
    shapes = {"blocks": blocks, "word_table": (5, 4)}

    def draw(*batch):
        return jax.tree.map(
            lambda shape: rng.normal(size=(*batch, *shape)).astype(np.float32),
            shapes,
            is_leaf=lambda x: isinstance(x, tuple),
        )

    return draw(), draw(5)


def ours(transform):
    params, gradients = problem()
    update = jax.jit(transform.update)
    state = transform.init(params)
    for i in range(5):
        step = jax.tree.map(lambda g, i=i: g[i], gradients)
        updates, state = update(step, state, params)
        params = optax.apply_updates(params, updates)
    return params


def theirs(make, *, decayed=lambda name: True, clip=0.0):
    """The same five steps by torch; `make` gets parameter groups with "decay" set."""
    torch = pytest.importorskip("torch")
    params, gradients = problem()
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    tensors = [torch.tensor(x, requires_grad=True) for x in jax.tree.leaves(params)]
    groups = [
        {"params": [t], "weight_decay": 0.05 if decayed(name) else 0.0}
        for name, t in zip(names, tensors, strict=True)
    ]
    torch_optimizer = make(torch, groups)
    for i in range(5):
        for name, group in zip(names, torch_optimizer.param_groups, strict=True):
            group["lr"] = (0.2 if name.endswith("bias") else 0.1) / (1 + i)
        for tensor, gradient in zip(tensors, jax.tree.leaves(gradients), strict=True):
            tensor.grad = torch.tensor(gradient[i])
        if clip:
            torch.nn.utils.clip_grad_norm_(tensors, clip)
        torch_optimizer.step()
    return [t.detach().numpy() for t in tensors]


def assert_equal(params, expected):
    for found, value in zip(jax.tree.leaves(params), expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=2e-5, atol=1e-6)


def sgd(torch, groups):
    return torch.optim.SGD(groups, lr=0.0, momentum=0.9)


def adamw(torch, groups):
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), eps=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_equals_torch(name):
    assert_equal(ours(optimizer(name=name)), theirs({"sgd": sgd, "adamw": adamw}[name]))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_only_matrices_decay(name):
    expected = theirs(
        {"sgd": sgd, "adamw": adamw}[name], decayed=lambda path: path.endswith("kernel")
    )
    assert_equal(ours(optimizer(name=name, decay="matrices")), expected)


def test_clipping_equals_torch():
    assert_equal(ours(optimizer(clip_norm=1.0)), theirs(sgd, clip=1.0))


def test_decay_of_matrices_selects_the_kernels_of_the_network():
    _, shapes = split_model(IVTConfig())
    params = jax.tree.map(lambda x: np.ones((1,), np.float32), shapes)
    zeros = jax.tree.map(np.zeros_like, params)
    transform = optimizer(decay="matrices")
    updates, _ = transform.update(zeros, transform.init(params), params)
    moved = {
        path_name(path)
        for path, value in jax.tree_util.tree_leaves_with_path(updates)
        if np.any(value)
    }
    layers = ("attention/qkv", "attention/projection", "mlp_image/up", "mlp_image/down")
    layers += ("mlp_text/up", "mlp_text/down")
    assert moved == {"patch/kernel", *(f"blocks/{layer}/kernel" for layer in layers)}


def test_biases_are_what_the_official_code_calls_so():
    """Its rule is the word "bias" in a name, so biases of norms count and tables do not."""
    _, shapes = split_model(IVTConfig())
    biases = {
        path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes) if is_bias(path)
    }
    assert len(biases) == 6 + 2 + 2 + 1
    assert {"norm/bias", "text_norm/bias", "patch/bias", "blocks/norm2/bias"} < biases
