"""The state of a run as one tree, its birth on a mesh, and the one training step."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ivt_jax.model.ivt import IVT, IVTConfig
from ivt_jax.training.sharding import batch_sharded, state_shardings


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a step changes. `params` is a plain nested dict, so nothing of Flax is saved."""

    step: jax.Array  # int32 scalar, steps done
    params: dict
    opt_state: optax.OptState


def split_model(config: IVTConfig):
    """The static graphdef and the abstract parameters (ShapeDtypeStructs) of an IVT."""
    graphdef, params = nnx.split(nnx.eval_shape(lambda: IVT(config, rngs=nnx.Rngs(0))))
    return graphdef, nnx.to_pure_dict(params)


def random_params(config: IVTConfig, key) -> dict:
    """Fresh float32 parameters."""
    return nnx.to_pure_dict(nnx.state(IVT(config, rngs=nnx.Rngs(key)), nnx.Param))


def abstract_state(
    config: IVTConfig,
    optimizer: optax.GradientTransformation,
    *,
    mesh,
    optimizer_state: str = "params",
) -> tuple[TrainState, TrainState]:
    """Shapes and shardings of a state, without allocating anything; see `state_shardings`."""
    shapes = jax.eval_shape(lambda: _build(config, optimizer, jax.random.key(0), None))
    return shapes, state_shardings(mesh, shapes, optimizer_state=optimizer_state)


def create_state(
    config: IVTConfig,
    optimizer: optax.GradientTransformation,
    *,
    shardings: TrainState,
    seed: int,
    params: dict | None = None,
) -> TrainState:
    """A fresh state, born sharded; `params` replace the random ones."""
    build = functools.partial(_build, config, optimizer)
    return jax.jit(build, out_shardings=shardings)(jax.random.key(seed), params)


def _build(config, optimizer, key, params) -> TrainState:
    params = random_params(config, key) if params is None else params
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def make_step(
    objective: Callable, graphdef, optimizer: optax.GradientTransformation, *, accumulate: int = 1
) -> Callable:
    """The training step: (state, batch, key) -> (state, metrics), to be jitted with donation.

    Args:
      objective: (model, batch, key) -> (scalar loss, dict of float32 scalars).
      accumulate: micro-batches whose gradients are averaged; each is a contiguous part of the
        batch and sees only its own negatives.
    """

    def gradients(params, batch, key):
        def loss_of(params):
            return objective(nnx.merge(graphdef, params), batch, key)

        (_, metrics), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        return grads, metrics

    def step(state: TrainState, batch: dict, key):
        key = jax.random.fold_in(key, state.step)
        if accumulate == 1:
            grads, metrics = gradients(state.params, batch, key)
        else:
            grads, metrics = _accumulated(
                functools.partial(gradients, state.params), batch, key, accumulate
            )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics["gradient_norm"] = optax.tree.norm(grads)
        return TrainState(state.step + 1, params, opt_state), metrics

    return step


def _accumulated(gradients: Callable, batch: dict, key, accumulate: int):
    """Means of gradients and metrics over micro-batches, one after the other."""

    def parts(x):
        return x.reshape(accumulate, len(x) // accumulate, *x.shape[1:])

    def add(total, scanned):
        part, key = scanned
        return jax.tree.map(jnp.add, total, gradients(batch_sharded(part), key)), None

    batches = jax.tree.map(parts, batch)
    keys = jax.random.split(key, accumulate)
    shapes = jax.eval_shape(gradients, jax.tree.map(lambda x: x[0], batches), keys[0])
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, (batches, keys))
    return jax.tree.map(lambda x: x / accumulate, total)
