"""Optimizers and learning-rate schedules: the official recipe and modern ones."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from ivt_jax.training.sharding import path_name


def make_schedule(
    *,
    name: str,
    peak: float,
    total_steps: int,
    epoch_steps: int,
    warmup_epochs: float,
    start_rate: float,
    floor_rate: float,
    first_epoch: int,
) -> Callable[[jax.Array], jax.Array]:
    """Learning rate as a function of the step (int32 scalar, from 0).

    "official" changes once an epoch (solver/cosine_lr.py): linear from `start_rate` to `peak` in
    `warmup_epochs`, then floor + (peak - floor) / 2 * (1 + cos(pi t / T)) with the epoch t counted
    from the start, not from the end of the warm-up, and T the last epoch's number.
    "cosine" warms up and decays every step; "constant" stays at the peak after the warm-up.
    `start_rate` and `floor_rate` are absolute, so biases with a higher peak share them.
    """
    if name == "official":
        last_epoch = first_epoch + math.ceil(total_steps / epoch_steps) - 1

        def official(step):
            epoch = (first_epoch + step // epoch_steps).astype(jnp.float32)
            warmup = start_rate + epoch * (peak - start_rate) / max(warmup_epochs, 1)
            angle = jnp.pi * epoch / max(last_epoch, 1)
            decayed = floor_rate + 0.5 * (peak - floor_rate) * (1 + jnp.cos(angle))
            rate = jnp.where(epoch < warmup_epochs, warmup, decayed)
            return jnp.where(epoch >= last_epoch, floor_rate, rate)

        return official
    warmup_steps = min(round(warmup_epochs * epoch_steps), total_steps)
    warmup = optax.linear_schedule(start_rate, peak, max(warmup_steps, 1))
    if name == "cosine":
        rest = optax.cosine_decay_schedule(
            peak, max(total_steps - warmup_steps, 1), alpha=floor_rate / peak if peak else 0.0
        )
    elif name == "constant":
        rest = optax.constant_schedule(peak)
    else:
        raise ValueError(f'schedule must be "official", "cosine" or "constant", not {name!r}')
    return optax.join_schedules([warmup, rest], [warmup_steps])


def make_optimizer(
    *,
    name: str,
    schedule: Callable,
    bias_schedule: Callable,
    weight_decay: float,
    decay: str,
    momentum: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    clip_norm: float,
) -> optax.GradientTransformation:
    """SGD with coupled decay as PyTorch's (official), or AdamW with decoupled decay.

    Args:
      schedule: learning rate of weights; bias_schedule: of parameters named "bias".
      decay: "all" parameters decay (official), or only "matrices": kernels of the blocks and
        the patch embedding, no bias, norm or table.
      clip_norm: limit of the global gradient norm; 0 = none.
    """
    decayed = optax.add_decayed_weights(weight_decay, mask=None if decay == "all" else _matrices)
    if name == "sgd":
        direction = [decayed, optax.trace(decay=momentum)]
    elif name == "adamw":
        direction = [optax.scale_by_adam(b1=beta1, b2=beta2, eps=epsilon), decayed]
    else:
        raise ValueError(f'optimizer must be "sgd" or "adamw", not {name!r}')
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    return optax.chain(*clip, *direction, _scale_by_rates(schedule, bias_schedule))


def is_bias(path) -> bool:
    """Whether a parameter takes the bias learning rate: the official rule, "bias" in its name."""
    return path_name(path).endswith("bias")


def _matrices(params):
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path_name(path).endswith("kernel"), params
    )


def _scale_by_rates(schedule: Callable, bias_schedule: Callable):
    def init(params):
        del params
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        del params
        rate, bias_rate = schedule(state.count), bias_schedule(state.count)
        updates = jax.tree_util.tree_map_with_path(
            lambda path, x: -(bias_rate if is_bias(path) else rate) * x, updates
        )
        return updates, optax.ScaleByScheduleState(count=state.count + 1)

    return optax.GradientTransformation(init, update)
