"""Softmax attention by the kernel that suits the backend: cuDNN's on NVIDIA GPUs, or XLA's."""

import jax
import jax.numpy as jnp

from ivt_jax.model.products import dot, narrow_on_cpu
from ivt_jax.training.sharding import platform

_HIDDEN = -1e9  # a score whose weight is exactly zero


def attend(query, key, value, mask=None, *, kernel: str = "auto"):
    """Softmax attention: (B, H, Q, d), (B, H, K, d) twice -> (B, H, Q, d).

    Scores and softmax are float32; the weights are rounded to the dtype of the values.

    Args:
      mask: the keys that may be attended to, (B or 1, K) bool; or how many, (B,) int32, where they
        come first; or None for all.
      kernel: "auto" takes cuDNN's where `cudnn_serves`, else XLA's; "xla" takes XLA's.
    """
    simple = mask is None or mask.ndim == 1
    if kernel == "auto" and simple and cudnn_serves(query, key):
        return _cudnn(query, key, value, mask)
    if mask is not None and simple:
        mask = jnp.arange(key.shape[2]) < mask[:, None]
    return _plain(query, key, value, mask)


def cudnn_serves(query, key) -> bool:
    """Whether cuDNN's flash attention takes these: bfloat16, heads of 8 to 128, Ampere or newer."""
    size = query.shape[-1]
    if platform() != "gpu" or query.dtype != jnp.bfloat16 or size % 8 or size > 128:
        return False
    if query.shape != key.shape:  # one query alone is no work for it
        return False
    device = jax.local_devices()[0]
    return "cuda" in device.client.platform_version and float(device.compute_capability) >= 8


def _cudnn(query, key, value, lengths):
    rows, _, count, _ = query.shape
    # JAX refuses an odd number of tokens in training, for the sake of a bias that is not there.
    odd = count % 2
    if odd and lengths is None:
        lengths = jnp.full(rows, count, jnp.int32)
    room = ((0, 0), (0, odd), (0, 0), (0, 0))
    padded = [jnp.pad(jnp.swapaxes(x, 1, 2), room) for x in (query, key, value)]  # (B, T, H, d)
    mixed = jax.nn.dot_product_attention(
        *padded, key_value_seq_lengths=lengths, implementation="cudnn"
    )
    return jnp.swapaxes(mixed[:, :count], 1, 2)


@jax.custom_vjp
def _plain(query, key, value, mask):
    return _plain_forward(query, key, value, mask)[0]


def _plain_forward(query, key, value, mask):
    scores = dot(query, key, "bhqd,bhkd->bhqk", jnp.float32) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask[:, None, None, :], scores, _HIDDEN)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    mixed = dot(weights, value, "bhqk,bhkd->bhqd").astype(value.dtype)
    return mixed, (query, key, value, weights)


def _plain_backward(saved, slope):
    query, key, value, weights = saved
    to_value = dot(_turned(weights), slope, "bhkq,bhqd->bhkd").astype(value.dtype)
    to_weights = dot(slope, value, "bhqd,bhkd->bhqk", jnp.float32)
    weights = weights.astype(jnp.float32)
    along = jnp.sum(to_weights * weights, axis=-1, keepdims=True)
    to_scores = weights * (to_weights - along) * query.shape[-1] ** -0.5
    to_scores = to_scores.astype(query.dtype)
    to_query = dot(to_scores, key, "bhqk,bhkd->bhqd").astype(query.dtype)
    to_key = dot(_turned(to_scores), query, "bhkq,bhqd->bhkd").astype(key.dtype)
    return to_query, to_key, to_value, None


_plain.defvjp(_plain_forward, _plain_backward)


def _turned(matrices):
    """The last two axes exchanged, laid out anew where the kernel of a CPU needs that."""
    turned = jnp.swapaxes(matrices, -1, -2)
    return jax.lax.optimization_barrier(turned) if narrow_on_cpu(matrices) else turned
