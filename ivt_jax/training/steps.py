"""The folders of a run's checkpoints: which there are, and how one leaves."""

import shutil
from pathlib import Path

FOLDER = "checkpoints"
INTEGRITY = "integrity"
CORRUPT = ".corrupt"  # set aside because it was damaged; never used, never deleted
ABANDONED = ".abandoned"  # set aside because the run went on from before it; the same
_REPLACED = ".replaced"  # until the same step, saved again, is there
_REMOVING = ".removing"
_UNFINISHED = "*.orbax-checkpoint-tmp*"


def saved_steps(run: Path) -> list[int]:
    """Committed steps of a run, ascending, read from the disk."""
    folder = Path(run) / FOLDER
    if not folder.is_dir():
        return []
    return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit())


def damaged_steps(run: Path) -> list[str]:
    """Names of the folders that were set aside as damaged, sorted."""
    return sorted(path.name for path in (Path(run) / FOLDER).glob(f"*{CORRUPT}*"))


def step_folder(run: Path, step: int) -> Path:
    """Where a step is saved."""
    return Path(run) / FOLDER / str(step)


def manifest_file(run: Path, step: int) -> Path:
    """Where the SHA-256 of a step's files are."""
    return Path(run) / INTEGRITY / f"{step}.json"


def set_aside(run: Path, step: int, mark: str) -> Path:
    """Renames a step, and its manifest likewise, so that nothing takes it for one; where it is."""
    folder, number = step_folder(run, step), 1
    target = folder.with_name(folder.name + mark)
    while target.exists():
        number += 1
        target = folder.with_name(f"{folder.name}{mark}-{number}")
    folder.rename(target)
    manifest = manifest_file(run, step)
    if manifest.exists():
        manifest.rename(manifest.with_name(target.name + ".json"))
    return target


def clear_way(run: Path, step: int) -> None:
    """Makes room for a step about to be saved again; `sweep` puts the old one back if it is not."""
    if step_folder(run, step).exists():
        set_aside(run, step, _REPLACED)
    manifest_file(run, step).unlink(missing_ok=True)


def check_room(run: Path) -> None:
    """Raises OSError where no new folder or file finds room."""
    trial = Path(run) / FOLDER / f"trial{_REMOVING}"
    trial.mkdir(exist_ok=True)
    try:
        (trial / "file").write_bytes(bytes(512))
    finally:
        shutil.rmtree(trial)


def remove(run: Path, step: int) -> None:
    """Deletes a step. One rename ends it as a checkpoint, so a kill never leaves half of one."""
    gone = step_folder(run, step)
    gone = gone.rename(gone.with_name(gone.name + _REMOVING))
    manifest_file(run, step).unlink(missing_ok=True)
    shutil.rmtree(gone)


def sweep(run: Path) -> None:
    """Clears up after a save that failed or was killed: unfinished and half-deleted folders."""
    folder = Path(run) / FOLDER
    for pattern in (_UNFINISHED, f"*{_REMOVING}"):
        for path in folder.glob(pattern):
            shutil.rmtree(path)
    for path in folder.glob(f"*{_REPLACED}"):
        step = int(path.name.removesuffix(_REPLACED))
        old, manifest = Path(run) / INTEGRITY / f"{path.name}.json", manifest_file(run, step)
        if step_folder(run, step).exists():
            shutil.rmtree(path)
            old.unlink(missing_ok=True)
        else:
            if old.exists():
                old.rename(manifest)
            path.rename(step_folder(run, step))
