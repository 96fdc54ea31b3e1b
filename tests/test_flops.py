"""Our count of a step against the compiler's and against published figures."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.interpreters import partial_eval

from ivt_jax.model.ivt import IVTConfig
from ivt_jax.model.masking import hidden_keys
from ivt_jax.training.flops import OPTIMIZERS, kept, step_costs, step_flops
from ivt_jax.training.matching import matching_objective
from ivt_jax.training.optimizer import make_optimizer
from ivt_jax.training.state import split_model

TINY: dict[str, Any] = {"width": 192, "heads": 3, "depth": 12}
BASE: dict[str, Any] = {
    "depth": 2
}  # of twelve equal blocks; the last one makes the class token alone
MASKING = {"image_ratio": 0.3, "text_ratio": 0.3, "draws": "sample"}


def lowered(config, *, batch, views, length, strategy, images=0):
    """The gradients of the whole objective, traced and not compiled."""
    graphdef, params = split_model(config)
    objective = matching_objective(
        views=("sentence",) * views,
        erase=0.0,
        masking={"strategy": strategy, **MASKING},
        levels="joint",
        negatives="global",
    )
    rows = {
        "images": jax.ShapeDtypeStruct((batch, images or views, *config.image_size, 3), jnp.uint8),
        "token_ids": jax.ShapeDtypeStruct((batch, views, length), jnp.int32),
        "token_mask": jax.ShapeDtypeStruct((batch, views, length), jnp.bool_),
        "identities": jax.ShapeDtypeStruct((batch,), jnp.int32),
    }
    key = jax.eval_shape(lambda: jax.random.key(0))

    def loss(params, batch, key):
        return objective(nnx.merge(graphdef, params), batch, key)[0]

    return loss, (params, rows, key)


def counts(function, *arguments) -> float:
    """Operations that the compiler counts in a traced program, before it changes any."""
    found = jax.jit(function).lower(*arguments).cost_analysis()
    assert found is not None
    return found["flops"] + found["transcendentals"]


def products(jaxpr):
    """Every matrix product of a traced program, inner ones too: (FLOPs, bytes) each."""
    for equation in jaxpr.eqns:
        inner = [x for x in equation.params.values() if hasattr(x, "eqns") or hasattr(x, "jaxpr")]
        for each in inner:
            yield from products(getattr(each, "jaxpr", each))
        if equation.primitive.name != "dot_general":
            continue
        (contracted, _), _ = equation.params["dimension_numbers"]
        left, right, out = (v.aval for v in (*equation.invars, *equation.outvars))
        depth = math.prod(left.shape[axis] for axis in contracted)
        size = sum(math.prod(x.shape) * x.dtype.itemsize for x in (left, right, out))
        yield 2 * depth * math.prod(out.shape), size


@pytest.mark.parametrize("sizes", [TINY, BASE], ids=["tiny", "base"])
@pytest.mark.parametrize(("strategy", "image", "text"), [("none", 193, 48), ("drop", 136, 34)])
def test_a_step_is_what_the_compiler_counts(sizes, strategy, image, text):
    config = IVTConfig(layers="unroll", **sizes)
    loss, arguments = lowered(config, batch=2, views=3, length=48, strategy=strategy)
    counted = counts(jax.grad(loss), *arguments)
    costs = step_costs(config, batch_size=2, views=3, image_tokens=image, text_tokens=text)
    ours = sum((c.total.flops + c.total.elementwise) for c in costs.values())
    assert ours == pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("gradient", [False, True])
def test_every_product_of_a_step_is_counted(gradient, images):
    config = IVTConfig(layers="unroll", **TINY)
    loss, arguments = lowered(config, batch=2, views=2, length=20, strategy="none", images=images)
    traced = jax.make_jaxpr(jax.grad(loss) if gradient else loss)(*arguments)
    # Without what nobody asks for: the gradient of the pixels is written out, and never computed.
    used, _ = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))
    flops, size = map(sum, zip(*products(used), strict=True))
    tokens: dict[str, Any] = {"image_tokens": 193, "text_tokens": 20}
    costs = step_costs(config, batch_size=2, views=2, images=images, **tokens)
    passes = [c.total if gradient else c.forward for c in costs.values()]
    assert sum(cost.flops for cost in passes) == pytest.approx(flops, rel=1e-4)
    named = [name for name in costs if name not in ("norms", "softmax", "GELU", "residuals")]
    moved = [costs[n].total if gradient else costs[n].forward for n in named if n != "words"]
    assert sum(cost.bytes for cost in moved) == pytest.approx(size, rel=0.02)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_reads_and_writes_every_array_once(name):
    optimizer = make_optimizer(
        name=name,
        schedule=lambda step: 0.1,
        bias_schedule=lambda step: 0.2,
        weight_decay=1e-4,
        decay="all",
        momentum=0.9,
        beta1=0.9,
        beta2=0.98,
        epsilon=1e-8,
        clip_norm=0.0,
    )
    params = {"kernel": jax.ShapeDtypeStruct((512, 512), jnp.float32)}
    state = jax.eval_shape(optimizer.init, params)

    def update(grads, state, params):
        norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grads)))
        updates, state = optimizer.update(grads, state, params)
        return jax.tree.map(jnp.add, params, updates), state, norm

    per, count = OPTIMIZERS[name], 512**2
    operations = counts(update, params, state, params)
    assert operations == pytest.approx(per["flops"] * count, rel=0.1)
    read, written = (params, state, params), jax.eval_shape(update, params, state, params)
    arrays = [x for x in jax.tree.leaves((read, written, params)) if x.ndim]  # the norm reads, too
    assert sum(x.size * x.dtype.itemsize for x in arrays) == per["bytes"] * count


def test_lengths_of_their_own_cost_less_than_the_longest():
    config = IVTConfig(layers="unroll")
    same: dict[str, Any] = {"batch_size": 4, "views": 3, "image_tokens": 193}
    longest = step_costs(config, **same, text_tokens=80)
    own = step_costs(config, **same, text_tokens=(16, 32, 80))
    assert own["image MLP"] == longest["image MLP"]
    share = own["text MLP"].total.flops / longest["text MLP"].total.flops
    assert share == pytest.approx((16 + 32 + 80) / 240, rel=0.02)
    assert step_costs(config, **same, text_tokens=(80,) * 3) == longest
    with pytest.raises(ValueError, match="2 text lengths for 3 views"):
        step_costs(config, **same, text_tokens=(80, 80))


def test_published_figures_of_a_fine_tuning_pair():
    """Forward and backward GFLOPs: ViT-B and BERT-base MLPs at 193 and 64 tokens, all rows."""
    pair = step_flops(IVTConfig(), batch_size=1, views=1, image_tokens=193, text_tokens=64)
    assert pair.model == pytest.approx(136.2e9, rel=3e-3)
    levels = step_flops(IVTConfig(), batch_size=1, views=3, image_tokens=193, text_tokens=80)
    assert levels.model == pytest.approx(433.9e9, rel=3e-3)


def test_kept_tokens_are_those_of_the_masking():
    assert kept(193, "none", 0.3) == 193
    assert kept(193, "drop", 0.3) == 1 + 192 - 57
    assert kept(40.5, "drop", 0.3) == pytest.approx(40.5 - 11)
    hidden = hidden_keys(jax.random.key(0), 50, ratio=0.3, rows=4000, draws="sample")
    assert kept(50, "official", 0.3) == pytest.approx(float(50 - hidden.sum(axis=1).mean()), 0.01)
