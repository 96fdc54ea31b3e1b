"""Back to a good checkpoint after too many skipped steps in a row, and on past their data.

All that decides is in the state (see health.py), so a run that is killed in between comes to the
same decisions again.
"""

import json
import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ivt_jax.errors import EXIT_DIVERGED, UserError
from ivt_jax.training.health import Health
from ivt_jax.training.sharding import path_name
from ivt_jax.training.state import TrainState


class Recovery:
    """Remembers the last steps for a report, and replaces a state that went wrong.

    Args:
      restore: `before` -> the newest good state of a step below it, or None.
      origin: sample of the stream of batches, from 0 -> its dataset and key.
      rollbacks: times one checkpoint is gone back to.
      memory: steps remembered.
      chief: whether this process writes the reports.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        restore: Callable[..., TrainState | None],
        origin: Callable[[int], dict],
        batch_size: int,
        rollbacks: int,
        memory: int,
        chief: bool,
    ):
        self.workdir, self.restore, self.chief = workdir, restore, chief
        self.origin, self.batch_size = origin, batch_size
        self.rollbacks = rollbacks
        self.recent: deque[tuple[int, dict]] = deque(maxlen=memory)

    def note(self, step: int, metrics: dict) -> None:
        """Remembers the metrics of a step, where they are: nothing waits for the device."""
        self.recent.append((step, metrics))

    def back(self, state: TrainState) -> tuple[TrainState, str]:
        """The state to go on from, and what to say; the tripped one is deleted, to make room.

        Raises UserError (exit code 3) where no checkpoint is left to go back to, or one was gone
        back to `rollbacks` times. A report stands in the run folder either way.
        """
        health = jax.device_get(state.opt_state.health)
        last = int(health.tripped)
        first = last - int(health.in_row) + 1
        report = self._report(health, state.params)
        jax.tree.map(lambda leaf: leaf.delete(), state)
        restored = self.restore(before=first) if self.rollbacks else None
        step = -1 if restored is None else int(restored.step)
        attempts = int(health.attempts) + 1 if health.target == step else 1
        if restored is None or attempts > self.rollbacks:
            why = f"going back to step {step} {attempts - 1} times did not help"
            raise diverged(
                last,
                self.recent[-1][1],
                f"Steps {first} to {last} were skipped, and "
                f"{'there is no checkpoint before them' if step < 0 else why}; "
                f"samples and norms: {report}.",
            )
        health = health._replace(
            in_row=0, tripped=0, offset=last + health.offset - step, target=step, attempts=attempts
        )
        self.recent.clear()
        return _with_health(restored, health), (
            f"steps {first} to {last} were skipped; back to step {step}, and on past the data of "
            f"the {last - step} steps after it (time {attempts} of {self.rollbacks} for this step; "
            f"samples and norms: {report})"
        )

    def _report(self, health: Health, params) -> Path:
        """Writes steps, samples and norms of the row; returns the file."""
        last, offset = int(health.tripped), int(health.offset)
        file = self.workdir / f"skipped-{last + offset}.json"
        names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        parameters = np.asarray(_norms(params))
        if not self.chief:
            return file
        steps = []
        for step, metrics in self.recent:
            if not last - int(health.in_row) < step <= last:
                continue
            gradients = map(float, np.asarray(metrics["gradient_norms"]))
            end = (step + offset) * self.batch_size
            steps.append(
                {
                    "step": step,
                    "batch": step + offset - 1,
                    "loss": _number(metrics["loss"]),
                    "gradient_norm": _number(metrics["gradient_norm"]),
                    "gradient_norms": dict(zip(names, map(_number, gradients), strict=True)),
                    "samples": list(map(self.origin, range(end - self.batch_size, end))),
                }
            )
        norms = dict(zip(names, map(_number, parameters), strict=True))
        try:
            file.write_text(json.dumps({"parameter_norms": norms, "steps": steps}, indent=1))
        except OSError as error:  # a report is no reason to end a run
            logging.error("%s cannot be written: %s", file, error.strerror)
        return file


def diverged(step: int, metrics: dict, more: str = "") -> UserError:
    """The error (exit code 3) of a run that cannot go on."""
    loss, norm = float(metrics["loss"]), float(metrics["gradient_norm"])
    return UserError(
        f"at step {step} the loss is {loss} and the gradient norm {norm}: the run has diverged.\n"
        f"{more + ' ' if more else ''}Lower optimizer.learning_rate or set optimizer.clip_norm; "
        "earlier checkpoints stay.",
        exit_code=EXIT_DIVERGED,
    )


def data_offset(state: TrainState) -> int:
    """Position in the data minus step."""
    return int(state.opt_state.health.offset)


def _with_health(state: TrainState, health: Health) -> TrainState:
    """The restored state with the counts of `health`; its history is the restored one."""
    old = state.opt_state.health
    counts = jax.tree.map(
        lambda value, like: jax.device_put(np.asarray(value, like.dtype), like.sharding),
        health._replace(history=None, recorded=None),
        old._replace(history=None, recorded=None),
    )
    kept = counts._replace(history=old.history, recorded=old.recorded)
    return TrainState(state.step, state.params, state.opt_state._replace(health=kept))


@jax.jit
def _norms(params):
    return jnp.stack([optax.tree.norm(leaf) for leaf in jax.tree.leaves(params)])


def _number(value) -> float | str:
    """JSON has no word for what is not finite."""
    return float(value) if np.isfinite(value) else str(float(value))
