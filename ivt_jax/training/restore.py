"""Reading a checkpoint: its files proven, its arrays as the model wants them and as saved."""

import errno
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from ivt_jax.config import from_json
from ivt_jax.errors import EXIT_NO_CHECKPOINT, UserError
from ivt_jax.training import integrity, steps
from ivt_jax.training.integrity import Damaged, Leaf, ManifestDamaged
from ivt_jax.training.sharding import path_name
from ivt_jax.training.steps import saved_steps


def proven(run: Path, step: int) -> bool:
    """Whether the files of a step are those of its manifest; False if that cannot be told.

    Then the fingerprints have to. Raises Damaged if they are not.
    """
    folder = steps.step_folder(run, step)
    try:
        return integrity.check_files(folder, steps.manifest_file(run, step))
    except OSError as error:
        if error.errno != errno.EIO:  # a file that may not be read is no damage
            raise
        raise Damaged(str(error)) from error
    except ManifestDamaged as error:
        logging.error("%s; checkpoint %s is verified by its fingerprints alone", error, step)
        return False


def read_arrays(run: Path, step: int, target: dict[str, Any]) -> dict[str, Any]:
    """Items of arrays as `target` (trees of ShapeDtypeStructs) wants them.

    Raises UserError (exit code 2) that lists every array that is missing, left over, or of another
    shape or type: Orbax would convert types in silence.
    """
    folder = steps.step_folder(run, step).absolute()
    record = integrity.read_record(folder)
    if record:
        every = record["leaves"].items()
        saved = {name: leaf for name, leaf in every if name.split("/")[0] in target}
    else:
        logging.warning(
            "checkpoint %s is of an older release and has no fingerprints: damage to it would "
            "go unnoticed. The next one saved has them.",
            folder,
        )
        saved = leaves_of({item: saved_tree(folder / item) for item in target})
    faults = integrity.misfits(leaves_of(target), saved)
    if faults:
        raise UserError(
            f"checkpoint {folder} is of another model:\n  "
            + listed(faults, between="\n  ")
            + "\nUse another --workdir, or put back config.json if it was changed."
        )
    return {item: read_item(folder / item, tree) for item, tree in target.items()}


def read_item(item: Path, target):
    """One item of arrays; a handler, unlike a Checkpointer, waits for no other process."""
    return ocp.StandardCheckpointHandler().restore(item, args=ocp.args.StandardRestore(target))


def saved_tree(item: Path):
    """Shapes and types of an item of arrays, as Orbax wrote them beside it."""
    return ocp.StandardCheckpointHandler().metadata(item).tree


def leaves_of(tree) -> dict[str, Leaf]:
    """What a tree of anything with shape and dtype wants of a checkpoint."""
    return {
        path_name(path): Leaf(str(np.dtype(leaf.dtype)), tuple(leaf.shape), None)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def compare(run: Path, step: int, arrays: dict[str, Any]) -> None:
    """Raises Damaged if restored arrays have not the fingerprints that were saved."""
    record = integrity.read_record(steps.step_folder(run, step))
    if record is None:
        return
    if record["step"] != step:
        raise Damaged(f"it is step {record['step']}, renamed")
    found, _ = integrity.fingerprints(arrays)
    changed = integrity.differing(found, record["leaves"])
    if changed:
        raise Damaged(f"other values than were saved in {listed(changed)}")
    for name, file in (("config", "metadata"), ("metrics", "metrics")):
        integrity.read_item(steps.step_folder(run, step), name, file=file)


def first_line(error: Exception) -> str:
    """Of what an error says."""
    return (str(error) or type(error).__name__).splitlines()[0]


def listed(names: list[str], *, between: str = ", ") -> str:
    """The first 20 of some names."""
    more = f"{between}and {len(names) - 20} more" if len(names) > 20 else ""
    return between.join(names[:20]) + more


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


def saved_metrics(run: Path, step: int) -> dict[str, float]:
    """The metrics that were saved with a step; UserError (exit code 4) if they are damaged."""
    try:
        return integrity.read_item(steps.step_folder(run, step), "metrics", file="metrics")
    except (Damaged, OSError) as error:
        raise UserError(
            f"checkpoint {step} is damaged: {error}\n"
            "Move that step's folder away to go on without it.",
            exit_code=EXIT_NO_CHECKPOINT,
        ) from error


def choose_step(run: Path, step: int = -1) -> int:
    """The given step, or for -1 the one with the highest score, else the newest.

    Raises UserError when the run has no (such) checkpoint.
    """
    found = saved_steps(run)
    if not found:
        raise UserError(
            f"{run} holds no checkpoints; was it trained, and is the path right?",
            exit_code=EXIT_NO_CHECKPOINT,
        )
    if step == -1:
        return max(found, key=lambda step: (saved_metrics(run, step)["score"], step))
    if step not in found:
        raise UserError(
            f"{run} has no checkpoint of step {step}; it has {found}",
            exit_code=EXIT_NO_CHECKPOINT,
        )
    return step


def restore_params(run: Path, step: int, shapes) -> dict:
    """The parameters of one step as numpy arrays, whatever devices saved them.

    Raises UserError when they do not fit `shapes` (a tree of ShapeDtypeStructs; exit code 2), or
    are not what was saved (4).
    """
    run = Path(run)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=device), shapes
    )
    try:
        proven(run, step)
        arrays = read_arrays(run, step, {"params": target})
        compare(run, step, arrays)
        return jax.tree.map(np.asarray, arrays["params"])
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"checkpoint {steps.step_folder(run, step)} is damaged: {first_line(error)}\n"
            "Name another step; `python -m ivt_jax verify --run` tells which are whole.",
            exit_code=EXIT_NO_CHECKPOINT,
        ) from error
