"""Checkpoints of a run: params, optimizer and metrics as separate items of one atomic step.

A run folder holds config.json, vocab.txt, metrics.jsonl and checkpoints/<step>/<item>.
"""

import contextlib
import json
import re
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers

from ivt_jax.config import from_json
from ivt_jax.errors import EXIT_CANNOT_WRITE, UserError
from ivt_jax.training.state import TrainState

FOLDER = "checkpoints"
_WRITE_FAULT = re.compile("RESOURCE_EXHAUSTED|PERMISSION_DENIED|No space left")


class Checkpoints:
    """Saves and restores the state of one run; the newest `keep` steps and the best stay.

    "Best" is the highest `score` among the metrics saved with the steps.
    """

    def __init__(self, workdir: Path, *, keep: int):
        for step in saved_steps(workdir):
            saved_metrics(workdir, step)  # Orbax reads them too, and its error names no file
        policy = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(keep),
                checkpoint_managers.BestN(get_metric_fn=_score, n=1),
            ]
        )
        self.folder = (workdir / FOLDER).absolute()
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                best_fn=_score,  # without it Orbax writes no metrics
                cleanup_tmp_directories=True,
            ),
            item_names=("params", "optimizer"),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_):
        self._manager.close()

    def save(self, state: TrainState, *, metrics: dict[str, float]) -> None:
        """Starts an asynchronous, atomic save; `metrics` should hold `score` after evaluation."""
        step = int(state.step)
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            optimizer=ocp.args.StandardSave(state.opt_state),
        )
        scored = {"score": -1.0, **metrics}
        with self._writing():
            saved = self._manager.save(step, args=items, metrics=scored, force=True)
        if not saved:
            raise RuntimeError(f"checkpoint {step} was not saved in {self.folder}")

    def wait(self) -> None:
        """Returns when every save is on disk; UserError (exit code 73) if one cannot be."""
        with self._writing():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _writing(self):
        try:
            yield
        except Exception as error:  # TensorStore raises ValueError for a full disk
            if not isinstance(error, OSError) and not _WRITE_FAULT.search(str(error)):
                raise
            raise UserError(
                f"a checkpoint cannot be written in {self.folder}: {str(error).splitlines()[0]}\n"
                f"Whole ones are {saved_steps(self.folder.parent)}. Make room (or mend the "
                "permissions), and the same command goes on from the newest.",
                exit_code=EXIT_CANNOT_WRITE,
            ) from error

    def drop_after(self, step: int) -> None:
        """Removes every later checkpoint: the run went back to this step."""
        self.wait()
        for later in saved_steps(self.folder.parent):
            if later > step:
                self._manager.delete(later)

    def restore_newest(
        self, shapes: TrainState, shardings: TrainState, *, before: int | None = None
    ) -> TrainState | None:
        """The newest state, laid out as `shardings`; None when the run has no checkpoint.

        With `before`, only steps below it count.

        Raises UserError when there is one but it does not fit the model or cannot be read:
        a run never starts again from nothing by itself.
        """
        steps = saved_steps(self.folder.parent)
        if before is not None:
            self.wait()
            steps = [step for step in saved_steps(self.folder.parent) if step < before]
        if not steps:
            return None
        step = steps[-1]
        target = jax.tree.map(
            lambda shape, sharding: jax.ShapeDtypeStruct(
                shape.shape, shape.dtype, sharding=sharding
            ),
            shapes,
            shardings,
        )
        items = ocp.args.Composite(
            params=ocp.args.StandardRestore(target.params),
            optimizer=ocp.args.StandardRestore(target.opt_state),
        )
        try:
            restored = self._manager.restore(step, args=items)
        except Exception as error:
            raise UserError(
                f"checkpoint {self.folder / str(step)} cannot be restored: {error}\n"
                "If the file is damaged, move that step's folder away: the run then goes on from "
                "the step before it. If the model was changed, use another --workdir.",
                exit_code=4,
            ) from error
        placed = jax.device_put(jax.numpy.int32(step), shardings.step)
        return TrainState(placed, restored["params"], restored["optimizer"])


def read_config(run: Path) -> ConfigDict:
    """The resolved configuration a run was started with. JSON only: nothing is executed."""
    file = run / "config.json"
    if not file.is_file():
        raise UserError(
            f"{run} is no run folder: it has no config.json; name the --workdir of a training"
        )
    try:
        return from_json(file.read_text())
    except ValueError as error:
        raise UserError(
            f"{file} is damaged ({error}); put back a copy of it, or start a new run"
        ) from error


def saved_steps(run: Path) -> list[int]:
    """Committed steps of a run, ascending, read from the disk."""
    folder = Path(run) / FOLDER
    if not folder.is_dir():
        return []
    return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit())


def saved_metrics(run: Path, step: int) -> dict[str, float]:
    """The metrics that were saved with a step; UserError (exit code 4) if they are damaged."""
    file = Path(run) / FOLDER / str(step) / "metrics" / "metrics"
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"checkpoint {step} is damaged, {file} cannot be read: {error}\n"
            "Move that step's folder away to go on without it.",
            exit_code=4,
        ) from error


def choose_step(run: Path, step: int = -1) -> int:
    """The given step, or for -1 the one with the highest score, else the newest.

    Raises UserError when the run has no (such) checkpoint.
    """
    steps = saved_steps(run)
    if not steps:
        raise UserError(
            f"{run} holds no checkpoints; was it trained, and is the path right?", exit_code=4
        )
    if step == -1:
        return max(steps, key=lambda step: (saved_metrics(run, step)["score"], step))
    if step not in steps:
        raise UserError(f"{run} has no checkpoint of step {step}; it has {steps}", exit_code=4)
    return step


def restore_params(run: Path, step: int, shapes) -> dict:
    """The parameters of one step as numpy arrays, whatever devices saved them.

    Raises UserError when they do not fit `shapes` (a tree of ShapeDtypeStructs).
    """
    folder = (Path(run) / FOLDER / str(step) / "params").absolute()
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=device), shapes
    )
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return jax.tree.map(np.asarray, checkpointer.restore(folder, target))
    except Exception as error:
        raise UserError(
            f"the parameters in {folder} cannot be restored: {error}\n"
            "Name another step, or put back config.json if it was changed.",
            exit_code=4,
        ) from error


def _score(metrics) -> float:
    return metrics["score"]
