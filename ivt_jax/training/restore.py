"""Reading a checkpoint: its files proven, its arrays as the model wants them and as saved."""

import errno
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from ivt_jax.errors import UserError
from ivt_jax.training import integrity, steps
from ivt_jax.training.integrity import Damaged, Leaf, ManifestDamaged
from ivt_jax.training.sharding import path_name


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
    with ocp.StandardCheckpointer() as reader:
        if record:
            saved = {
                name: leaf
                for name, leaf in record["leaves"].items()
                if name.split("/")[0] in target
            }
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
        return {item: reader.restore(folder / item, tree) for item, tree in target.items()}


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


def any_process(here: bool) -> bool:
    """Whether it holds for any process of the run; each has to ask."""
    if jax.process_count() == 1:
        return here
    return bool(multihost_utils.process_allgather(np.array(here)).any())


def agree(error: Exception | None) -> None:
    """Raises Damaged on every process if one of them has met an error."""
    if any_process(error is not None):
        raise Damaged(first_line(error) if error else "another process could not read it")


def first_line(error: Exception) -> str:
    """Of what an error says."""
    return (str(error) or type(error).__name__).splitlines()[0]


def listed(names: list[str], *, between: str = ", ") -> str:
    """The first 20 of some names."""
    more = f"{between}and {len(names) - 20} more" if len(names) > 20 else ""
    return between.join(names[:20]) + more
