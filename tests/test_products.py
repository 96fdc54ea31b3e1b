"""Products and attention: their gradients, their kernels on a CPU, and cuDNN where it serves."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo as cudnn
from tiny import CONFIG, network, training_batch

from ivt_jax.model import attention, products
from ivt_jax.model.attention import attend
from ivt_jax.model.ivt import IVTConfig
from ivt_jax.model.products import apart, compiler_options, dense, gelu_dense, normalised
from ivt_jax.training.matching import masked_features
from ivt_jax.training.state import split_model

MASKING = {"strategy": "drop", "image_ratio": 0.3, "text_ratio": 0.3, "draws": "sample"}


def arrays(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def plain_attention(query, key, value):
    scores = query @ jnp.swapaxes(key, -1, -2) / query.shape[-1] ** 0.5
    mask = jnp.arange(key.shape[2]) < jnp.array([4, 7])[:, None]
    return jax.nn.softmax(jnp.where(mask[:, None, None], scores, -jnp.inf)) @ value


def plain_norm(x, scale, bias):
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 0.1) * scale + bias


LINEAR = ((2, 7, 6), (6, 5), (5,))
HEADS = ((2, 3, 7, 4),) * 3
PAIRS = {
    "dense": (dense, lambda x, w, b: x @ w + b, LINEAR),
    "gelu_dense": (gelu_dense, lambda x, w, b: jax.nn.gelu(x, approximate=False) @ w + b, LINEAR),
    "normalised": (lambda *a: normalised(*a, 0.1), plain_norm, ((2, 7, 6), (6,), (6,))),
    "attend": (lambda q, k, v: attend(q, k, v, jnp.array([4, 7])), plain_attention, HEADS),
    "few queries": (
        lambda q, k, v: attend(q[:, :, :1], k, v, jnp.arange(7) < jnp.array([[4], [7]])),
        lambda q, k, v: plain_attention(q[:, :, :1], k, v),
        HEADS,
    ),
    "apart": (lambda x: sum(apart(x)[1:]), lambda x: sum(x[1:]), ((3, 4),)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients_are_those_that_jax_derives(name):
    ours, plain, shapes = PAIRS[name]
    given = arrays(*shapes)

    def both(function):
        slope = jnp.cos(jnp.arange(1, 1 + jax.eval_shape(function, *given).size))
        total = lambda *a: jnp.sum(function(*a).reshape(-1) * slope)  # noqa: E731
        return function(*given), jax.grad(total, argnums=tuple(range(len(given))))(*given)

    found, expected = both(ours), both(plain)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize("name", ["dense", "gelu_dense"])
def test_the_form_of_other_backends_has_the_same_gradients(name, monkeypatch):
    """They compute the GELU again and round at once; here in float32, which rounds nothing."""
    monkeypatch.setattr(products, "platform", lambda: "gpu")
    test_values_and_gradients_are_those_that_jax_derives(name)


def slow_products(text: str) -> list[str]:
    """Products of bfloat16 in lowered StableHLO that XLA:CPU has no fast kernel for.

    Its kernel gives float32, sums over the last axis of the left factor, and takes what belongs
    to a batch from the first axes; products without a batch it may turn to that form itself.
    """
    slow = []
    for line in re.findall(r"stablehlo\.dot_general .*", text):
        ((left, right, out),) = re.findall(
            r"\(tensor<(.*?)>, tensor<(.*?)>\) -> tensor<(.*?)>", line
        )
        batch = re.search(r"batching_dims = \[(.*?)\]", line)
        summed = re.findall(r"contracting_dims = \[(.*?)\]", line)[0].split(", ")
        axes = left.count("x")
        turned = batch and summed != [str(axes - 1)]
        flat = not batch and axes == 2 and summed == ["0"]
        if "bf16" in left + right and ("bf16" in out or turned or flat):
            slow.append(line)
    return slow


def test_every_product_of_a_step_meets_the_fast_kernel_of_a_cpu():
    config = IVTConfig(**{**vars(CONFIG), "dtype": "bfloat16"})
    graphdef, _ = split_model(config)
    params = nnx.to_pure_dict(nnx.state(network()))
    batch = jax.tree.map(jnp.asarray, training_batch(rows=2, views=3))

    def loss(params, key):
        model = nnx.merge(graphdef, params)
        found = masked_features(model, batch, key, erase=0.5, masking=MASKING, lengths=(5, 5, 10))
        return sum(jnp.sum(x**2) for x in found)

    step = jax.jit(jax.grad(loss))
    text = step.lower(params, jax.random.key(0)).as_text()
    assert text.count("dot_general") > 100 and not slow_products(text)
    found = step(params, jax.random.key(0))  # some layouts fail only when they run
    assert all(jnp.isfinite(x).all() and x.dtype == jnp.float32 for x in jax.tree.leaves(found))


@pytest.mark.parametrize(
    "pattern", ["bti,io->bto narrow", "bhqd,bhqk->bhdk", "ti,to->io", "bqhd,bkhd->bhqk narrow"]
)
def test_the_hazard_would_be_seen(pattern):
    pattern, _, narrow = pattern.partition(" ")
    sizes = dict.fromkeys("bhqkdtio", 4)
    shapes = [[sizes[x] for x in part] for part in pattern.split("->")[0].split(",")]
    given = [jnp.zeros(shape, jnp.bfloat16) for shape in shapes]
    dtype = jnp.bfloat16 if narrow else jnp.float32
    product = jax.jit(lambda *a: jnp.einsum(pattern, *a, preferred_element_type=dtype))
    assert slow_products(product.lower(*given).as_text())


def test_options_are_for_float32_on_a_cpu_and_known_to_this_compiler():
    assert compiler_options("tpu", "float32") == compiler_options("cpu", "bfloat16") == {}
    assert compiler_options("cpu", "float32")


def test_a_cpu_falls_back_to_xla():
    heads = [x.astype(jnp.bfloat16) for x in arrays(*HEADS)]
    assert not attention.cudnn_serves(*heads[:2])
    lengths = jnp.array([4, 7])
    text = jax.jit(attend).lower(*heads, lengths).as_text()
    assert "cudnn" not in text and "dot_general" in text
    query, key, value = heads
    found = [attend(query, key, value, lengths, kernel=kernel) for kernel in ("auto", "xla")]
    assert jnp.array_equal(found[0], found[1])
    close = [x.astype(jnp.bfloat16).astype(jnp.float32) for x in arrays(*HEADS)]
    np.testing.assert_allclose(found[0].astype(jnp.float32), plain_attention(*close), atol=0.03)


@pytest.mark.parametrize("tokens", [193, 135, 46])
def test_cudnn_takes_the_shapes_of_a_run_and_their_gradients(monkeypatch, tokens):
    """Lowered for CUDA here, where there is none: the kernel must accept what we hand to it."""
    monkeypatch.setattr(attention, "cudnn_serves", lambda query, key: True)
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    heads = [jax.ShapeDtypeStruct((4, 12, tokens, 64), jnp.bfloat16)] * 3

    def lowered(mask):
        def total(query, key, value):
            return jnp.sum(attend(query, key, value, mask).astype(jnp.float32))

        function = jax.grad(total, (0, 1, 2))
        return jax.jit(function).trace(*heads).lower(lowering_platforms=("cuda",)).as_text()

    for mask in (None, jnp.full(4, tokens - 3)):
        text = lowered(mask)
        assert "fmhaSoftmaxBackward" in text and "dot_general" not in text
    assert "fmha" not in lowered(jnp.ones((4, tokens), bool)), "masks with holes are XLA's"
