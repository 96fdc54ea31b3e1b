"""The arithmetic of a block, with gradients written out, in the form each backend runs fastest.

XLA:CPU multiplies bfloat16 fast only if sums stay float32 and the factors lie as its kernel reads
them; gradients that JAX derives do neither. Kept for the backward pass is what cannot be had
cheaply again. Sums over tokens, of gradients of parameters too, are float32 on every backend.
"""

import functools

import jax
import jax.numpy as jnp

from ivt_jax.model.precision import Int8
from ivt_jax.training.sharding import gathered, platform


@functools.cache
def compiler_options(platform: str, dtype: str) -> dict[str, str]:
    """What to tell XLA when it compiles the network for a platform, as `jax.jit` takes it.

    On CPUs the kernel that is fastest for bfloat16 is a fifth slower than XLA's other one for
    float32. Empty where this jaxlib does not know the option.
    """
    options = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
    if platform != "cpu" or dtype != "float32":
        return {}
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(jnp.zeros(())).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


@jax.custom_vjp
def dense(tokens, kernel, bias):
    """tokens (B, T, I), kernel (I, O), Int8 perhaps, bias (O,) -> (B, T, O) as the tokens are."""
    if isinstance(kernel, Int8):
        out = gathered(kernel).times(tokens)
    else:
        out = dot(tokens, _whole(kernel, tokens.dtype), "bti,io->bto")
    return (out + bias.astype(out.dtype)).astype(tokens.dtype)


def _dense_forward(tokens, kernel, bias):
    return dense(tokens, kernel, bias), (tokens, kernel)


def _dense_backward(saved, slope):
    tokens, kernel = saved
    back = dot(slope, _whole(kernel, slope.dtype), "bto,io->bti").astype(tokens.dtype)
    return back, *_to_parameters(tokens, kernel, slope)


dense.defvjp(_dense_forward, _dense_backward)


@jax.custom_vjp
def gelu_dense(tokens, kernel, bias):
    """`dense` of the exact GELU of tokens; the GELU is computed again in the backward pass."""
    return dense(_gelu(tokens)[0], kernel, bias)


def _gelu_dense_forward(tokens, kernel, bias):
    active = _gelu(tokens)[0]
    # A CPU has memory to keep it, and would compute it again in the order of a transposed factor.
    return dense(active, kernel, bias), (tokens, kernel, active if platform() == "cpu" else None)


def _gelu_dense_backward(saved, slope):
    tokens, kernel, active = saved
    if active is None:
        # Without the barrier XLA would find the GELU computed twice, and keep it instead.
        active = _gelu(jax.lax.optimization_barrier(tokens))[0]
    tokens, slope = jax.lax.optimization_barrier((tokens, slope))
    back = dot(slope, _whole(kernel, slope.dtype), "bto,io->bti")
    back = (back * _gelu(tokens)[1].astype(back.dtype)).astype(tokens.dtype)
    return back, *_to_parameters(active, kernel, slope)


gelu_dense.defvjp(_gelu_dense_forward, _gelu_dense_backward)


def _gelu(tokens):
    """x Phi(x) in the dtype of x, and its derivative in float32."""
    x = tokens.astype(jnp.float32)
    share = 0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5)
    if tokens.dtype == jnp.float32:
        share = 0.5 * jax.lax.erfc(x * -(0.5**0.5))
    density = jnp.exp(-0.5 * x * x) * (2 * jnp.pi) ** -0.5
    return (x * share).astype(tokens.dtype), share + x * density


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalised(tokens, scale, bias, epsilon: float):
    """LayerNorm over the last axis, in float32; the result has the dtype of the tokens."""
    centred, rate = _standard(tokens, epsilon)
    return (centred * (rate * scale) + bias).astype(tokens.dtype)


def _normalised_forward(tokens, scale, bias, epsilon: float):
    return normalised(tokens, scale, bias, epsilon), (tokens, scale)


def _normalised_backward(epsilon: float, saved, slope):
    tokens, scale = saved
    centred, rate = _standard(tokens, epsilon)
    slope = slope.astype(jnp.float32)
    unit, pull = centred * rate, slope * scale
    mean = jnp.mean(pull, axis=-1, keepdims=True)
    along = jnp.mean(pull * unit, axis=-1, keepdims=True)
    back = (rate * (pull - mean - unit * along)).astype(tokens.dtype)
    places = tuple(range(tokens.ndim - 1))
    return back, *(jnp.sum(x, places).astype(scale.dtype) for x in (slope * unit, slope))


normalised.defvjp(_normalised_forward, _normalised_backward)


def _standard(tokens, epsilon: float):
    x = tokens.astype(jnp.float32)
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred, jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + epsilon)


@jax.custom_vjp
def apart(stacked):
    """The slices of an array along its first axis; their gradients are stacked, not added up."""
    return tuple(jnp.unstack(stacked))


apart.defvjp(lambda stacked: (apart(stacked), None), lambda _, slopes: (jnp.stack(slopes),))


def _to_parameters(tokens, kernel, slope):
    """Gradients of kernel and bias."""
    pattern = "bti,bto->io"
    if tokens.dtype == jnp.float32 and platform() == "cpu":
        # Its kernel for float32 reads a factor either way; the one for bfloat16 wants it turned,
        # which XLA does at the right moment if tokens are not flattened.
        tokens, slope = (x.reshape(-1, x.shape[-1]) for x in (tokens, slope))
        pattern = "ti,to->io"
    to_kernel = gathered(dot(tokens, slope, pattern, jnp.float32))
    to_bias = jnp.sum(slope, axis=tuple(range(slope.ndim - 1)), dtype=jnp.float32)
    return to_kernel.astype(kernel.dtype), to_bias.astype(kernel.dtype)


def _whole(kernel, dtype):
    """A kernel for its use, gathered in the smaller dtype."""
    return gathered(kernel.astype(dtype))


def dot(left, right, pattern: str, dtype=None, *, precision=None):
    """An einsum of two factors with float32 sums, in `dtype`, else in whatever costs nothing.

    That is the dtype of the factors, but float32 on a CPU, which rounds no faster itself.
    """
    if dtype is None:
        dtype = jnp.float32 if narrow_on_cpu(left) else left.dtype
    return jnp.einsum(pattern, left, right, precision=precision, preferred_element_type=dtype)


def narrow_on_cpu(array) -> bool:
    """Whether products of such factors need the care that the head of this file tells of."""
    return array.dtype != jnp.float32 and platform() == "cpu"
