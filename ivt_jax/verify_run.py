"""The verify command for a run: reads every checkpoint and says which are what was saved."""

import argparse
from pathlib import Path
from typing import NamedTuple

import jax

from ivt_jax.errors import EXIT_NO_CHECKPOINT, UserError, run
from ivt_jax.training import integrity, steps
from ivt_jax.training.integrity import Damaged
from ivt_jax.training.restore import compare, first_line, read_item, saved_tree


class Row(NamedTuple):
    """What was found of one step.

    verdict: "whole" | "damaged" | "unproven" (of a release without fingerprints) | "set aside".
    fingerprint: one of all arrays, the same on any number of devices; "" if there is none.
    """

    step: str
    files: str
    arrays: str
    verdict: str
    fingerprint: str
    detail: str


def verify_run(folder: str | Path) -> list[Row]:
    """Compares all checkpoints of a run with their manifests and fingerprints; changes nothing.

    Raises UserError (exit code 4) if the run has none, damaged ones included.
    """
    folder = Path(folder)
    rows = [_examine(folder, step) for step in steps.saved_steps(folder)]
    rows += [
        Row(name, "", "", "set aside", "", "was damaged when it was to be restored")
        for name in steps.damaged_steps(folder)
    ]
    if not rows:
        raise UserError(
            f"{folder} holds no checkpoints; name the --workdir of a training",
            exit_code=EXIT_NO_CHECKPOINT,
        )
    return rows


def _examine(folder: Path, step: int) -> Row:
    saved, faults = steps.step_folder(folder, step).absolute(), []
    try:
        manifest = steps.manifest_file(folder, step)
        files = "all equal" if integrity.check_files(saved, manifest) else "no manifest"
    except (Damaged, OSError) as error:
        files = "damaged"
        faults.append(str(error))
    arrays, fingerprint, proven = "", "", False
    try:
        record = integrity.read_record(saved)
        if record is not None:
            proven, fingerprint = True, integrity.short_fingerprint(record)
        restored = _read_all(saved)
        count = len(jax.tree.leaves(restored))
        arrays = f"{count} of {count}" if proven else f"{count}, no fingerprints"
        compare(folder, step, restored)
    except Exception as error:  # whatever a damaged file makes Orbax raise
        arrays = "damaged"
        faults.append(first_line(error))
    verdict = "damaged" if faults else "whole" if proven else "unproven"
    return Row(str(step), files, arrays, verdict, fingerprint, "; ".join(faults))


def _read_all(saved: Path) -> dict:
    """All arrays of a checkpoint as it describes them itself, on one device."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return {
        item: read_item(
            saved / item,
            jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
                saved_tree(saved / item),
            ),
        )
        for item in ("params", "optimizer")
    }


def main(argv: list[str]) -> int:
    """Runs `python -m ivt_jax verify --run=...`; returns 0, 2 (usage) or 4 (a damaged one)."""
    return run(_main, argv)


def _main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m ivt_jax verify", description=__doc__)
    parser.add_argument("--run", required=True, help="the --workdir of a training")
    arguments = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")  # an accelerator may be busy training
    rows = verify_run(arguments.run)
    print(f"{'step':<14}{'files':<14}{'arrays':<22}{'verdict':<12}fingerprint")
    for row in rows:
        line = f"{row.step:<14}{row.files:<14}{row.arrays:<22}{row.verdict:<12}{row.fingerprint}"
        print(line.rstrip())
        if row.detail:
            print(f"  {row.detail}")
    good = sum(row.verdict in ("whole", "unproven") for row in rows)
    print(f"{good} of {len(rows)} can be used")
    return EXIT_NO_CHECKPOINT if any(row.verdict == "damaged" for row in rows) or not good else 0
