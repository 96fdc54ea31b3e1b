"""The state of a run as one tree, its birth on a mesh, and the one training step."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ivt_jax.model.ivt import IVT, IVTConfig
from ivt_jax.training.accumulation import make_gradients
from ivt_jax.training.sharding import state_shardings


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
    objective: Callable,
    graphdef,
    optimizer: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    accumulate_negatives: str = "micro",
) -> Callable:
    """The training step: (state, batch, key) -> (state, metrics), to be jitted with donation.

    Args:
      objective: (model, batch, key) -> (scalar loss, dict of float32 scalars).
      accumulate, accumulate_negatives: number of micro-batches and what they are compared with,
        see `make_gradients`; "all" needs an `Objective`.
    """
    gradients = make_gradients(
        objective, graphdef, accumulate=accumulate, negatives=accumulate_negatives
    )

    def step(state: TrainState, batch: dict, key):
        key = jax.random.fold_in(key, state.step)
        grads, metrics = gradients(state.params, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics["gradient_norm"] = optax.tree.norm(grads)
        return TrainState(state.step + 1, params, opt_state), metrics

    return step
