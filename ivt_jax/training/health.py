"""Steps gone wrong, judged inside the jitted step: non-finite and spiking ones change nothing.

A skipped step leaves parameters and optimizer as they were; only the step number and the place in
the learning-rate schedule advance. What is counted travels in the optimizer's state, so every
checkpoint holds it and a resumed run decides as an undisturbed one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class Health(NamedTuple):
    """What a run remembers of its bad steps; int32 scalars but for the history."""

    skipped: jax.Array  # steps skipped in all
    spikes: jax.Array  # of them, those that were finite
    in_row: jax.Array  # skipped steps up to now without a good one between
    tripped: jax.Array  # the step at which a row grew too long; 0 = none did
    offset: jax.Array  # position in the data minus step: batches left out by rollbacks
    target: jax.Array  # step that the last rollback went to; -1 = there was none
    attempts: jax.Array  # rollbacks to that step
    recorded: jax.Array  # steps written to the history
    history: jax.Array  # (2, W) float32, losses and gradient norms of the last W of them


class Guarded(NamedTuple):
    """The state of a guarded optimizer."""

    health: Health
    inner: optax.OptState


def guarded(
    optimizer: optax.GradientTransformation, *, limit: int, sigmas: float, window: int
) -> optax.GradientTransformationExtraArgs:
    """An optimizer that does not learn from bad steps.

    `update` takes `step` (the number of this step, from 1), `loss` and `gradient_norm` (of the
    whole batch) besides. A step is bad if one of them or the norm of the updates is not finite, or
    if `sigmas` > 0 and loss or gradient norm exceed mean + sigmas * deviation of the last `window`
    steps. Apply updates with `apply_good`.

    Args:
      limit: bad steps in a row after which `tripped` is set; from then on nothing changes, so
        that it does not matter how soon the host notices.
    """

    def init(params) -> Guarded:
        names = ("skipped", "spikes", "in_row", "tripped", "offset", "target", "attempts")
        counts = {name: jnp.zeros((), jnp.int32) for name in (*names, "recorded")}
        counts["target"] -= 1
        history = jnp.zeros((2, window), jnp.float32)
        return Guarded(Health(**counts, history=history), optimizer.init(params))

    def update(updates, state: Guarded, params=None, *, step, loss, gradient_norm):
        health = state.health
        updates, inner = optimizer.update(updates, state.inner, params)
        seen = jnp.stack([loss, gradient_norm]).astype(jnp.float32)
        finite = jnp.isfinite(seen).all() & jnp.isfinite(optax.tree.norm(updates))
        limits = _limits(health, sigmas)
        good = finite & (seen <= limits).all()
        in_row = jnp.where(good, 0, health.in_row + 1)
        judged = health._replace(
            skipped=health.skipped + ~good,
            spikes=health.spikes + (finite & ~good),
            in_row=in_row,
            tripped=jnp.where(in_row >= limit, step, 0),
            recorded=health.recorded + finite,
            # A spike counts as much as the highest good value would: the window follows a lasting
            # change within some steps, and is not deaf after a single spike.
            history=jnp.where(
                finite & (jnp.arange(window) == health.recorded % window),
                jnp.minimum(seen, limits)[:, None],
                health.history,
            ),
        )
        judged = jax.tree.map(
            lambda old, new: jnp.where(health.tripped > 0, old, new), health, judged
        )
        return updates, Guarded(judged, _chosen(judged.in_row == 0, inner, state.inner))

    return optax.GradientTransformationExtraArgs(init, update)


def apply_good(params, updates, opt_state):
    """`optax.apply_updates`, or exactly the old parameters if the step was bad."""
    moved = optax.apply_updates(params, updates)
    if not isinstance(opt_state, Guarded):
        return moved
    return _chosen(opt_state.health.in_row == 0, moved, params)


def counts(opt_state) -> dict[str, jax.Array]:
    """The int32 scalars that a step reports: skipped, spikes, skipped_in_row, tripped."""
    if not isinstance(opt_state, Guarded):
        return {}
    health = opt_state.health
    return {
        "skipped": health.skipped,
        "spikes": health.spikes,
        "skipped_in_row": health.in_row,
        "tripped": health.tripped,
    }


def _limits(health: Health, sigmas: float) -> jax.Array:
    """The highest good loss and gradient norm, (2,); infinite until the window is full."""
    if not sigmas:
        return jnp.full(2, jnp.inf)
    highest = health.history.mean(axis=1) + sigmas * health.history.std(axis=1)
    return jnp.where(health.recorded >= health.history.shape[1], highest, jnp.inf)


def _chosen(good, new, old):
    def one(new, old):
        if isinstance(new, optax.ScaleByScheduleState):  # the schedule follows the step
            return new
        return jax.tree.map(lambda new, old: jnp.where(good, new, old), new, old)

    return jax.tree.map(one, new, old, is_leaf=lambda x: isinstance(x, optax.ScaleByScheduleState))
