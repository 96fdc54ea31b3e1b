"""What a configuration makes a machine compute: shapes, placement, schedule and the jitted step.

The loop runs this step, and the dry run compiles it for machines that are not here.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from ivt_jax.data.texts import image_count, level_lengths
from ivt_jax.model.ivt import IVTConfig
from ivt_jax.model.products import compiler_options
from ivt_jax.training.flops import Work
from ivt_jax.training.health import guarded
from ivt_jax.training.optimizer import make_optimizer, make_schedule
from ivt_jax.training.sharding import BATCH, REPLICATED
from ivt_jax.training.state import TrainState, abstract_state, make_step, split_model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """The computation of a run on a mesh; nothing in it holds memory of a device."""

    model: IVTConfig
    work: Work  # of a step
    graphdef: Any
    mesh: Mesh
    schedule: Callable  # step -> learning rate
    optimizer: optax.GradientTransformation
    shapes: TrainState  # of ShapeDtypeStructs
    shardings: TrainState
    step: Any  # jitted: (state, batch, key) -> (state, metrics); takes the state's memory


def make_program(
    config: ConfigDict,
    *,
    mesh: Mesh,
    make_objective: Callable,
    views: tuple[str, ...],
    total_steps: int,
    epoch_steps: int,
) -> Program:
    """The program of a validated configuration; see `training.loop.train` for the arguments."""
    model = IVTConfig(**config.model)
    graphdef, _ = split_model(model)
    schedule, optimizer = _make_optimizer(config, total_steps, epoch_steps)
    shapes, shardings = abstract_state(
        model, optimizer, mesh=mesh, optimizer_state=config.mesh.optimizer
    )
    objective = make_objective(
        views=views,
        erase=config.data.erase,
        masking=config.masking.to_dict(),
        lengths=text_lengths(config, views=views),
        **config.objective,
    )
    step = make_step(
        objective,
        graphdef,
        optimizer,
        accumulate=config.training.accumulate,
        accumulate_negatives=config.training.accumulate_negatives,
    )
    return Program(
        model=model,
        work=_work(config, model, views),
        graphdef=graphdef,
        mesh=mesh,
        schedule=schedule,
        optimizer=optimizer,
        shapes=shapes,
        shardings=shardings,
        step=jitted(step, shardings, mesh, dtype=model.dtype),
    )


def jitted(step: Callable, shardings: TrainState, mesh: Mesh, *, dtype: str = "float32"):
    """The step compiled once for its mesh; the new state takes the memory of the old one.

    dtype: of the model's computation, by which the compiler is told what to prefer.
    """
    replicated = NamedSharding(mesh, REPLICATED)
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(shardings, NamedSharding(mesh, BATCH), replicated),
        out_shardings=(shardings, replicated),
        compiler_options=compiler_options(mesh.devices.flat[0].platform, dtype),
    )


def text_lengths(config: ConfigDict, *, views: tuple[str, ...]) -> tuple[int, ...]:
    """The most tokens that a text of each view has."""
    names = ("text_length", "word_length", "phrase_length")
    return level_lengths(views, **{name: config.data[name] for name in names})


def batch_shapes(config: ConfigDict, *, views: tuple[str, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the global batch that the step takes, as `training_batches` makes it."""
    rows, count, length = config.training.batch_size, len(views), config.data.text_length
    images = image_count(views, image_views=config.data.image_views)
    return {
        "images": jax.ShapeDtypeStruct((rows, images, *config.model.image_size, 3), jnp.uint8),
        "token_ids": jax.ShapeDtypeStruct((rows, count, length), jnp.int32),
        "token_mask": jax.ShapeDtypeStruct((rows, count, length), jnp.bool_),
        "identities": jax.ShapeDtypeStruct((rows,), jnp.int32),
    }


def _work(config: ConfigDict, model: IVTConfig, views: tuple[str, ...]) -> Work:
    images = image_count(views, image_views=config.data.image_views)
    return Work(model, config.training.batch_size, len(views), config.masking.to_dict(), images)


def _make_optimizer(config: ConfigDict, total_steps: int, epoch_steps: int):
    options = config.optimizer.to_dict()
    peak, bias_factor = options.pop("learning_rate"), options.pop("bias_factor")
    schedules = [
        make_schedule(
            peak=rate, total_steps=total_steps, epoch_steps=epoch_steps, **config.schedule
        )
        for rate in (peak, peak * bias_factor)
    ]
    optimizer = make_optimizer(schedule=schedules[0], bias_schedule=schedules[1], **options)
    return schedules[0], guarded(
        optimizer,
        limit=config.training.skip_limit,
        sigmas=config.training.skip_spikes,
        window=config.training.spike_window,
    )
