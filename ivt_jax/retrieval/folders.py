"""Folders of a gallery, known from the paths of its photos: nothing here touches a disk."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ivt_jax.errors import UserError

_NAMED = 5  # folders that an error names


def folders_of(paths: Sequence[str]) -> list[str]:
    """Every folder that holds one of the photos, itself or below it, in order; "" is not one."""
    found: set[str] = set()
    for path in paths:
        folder = path.rpartition("/")[0]
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return sorted(found)


def rows_below(paths: Sequence[str], folder: str) -> np.ndarray:
    """Rows int64 (n,) of the photos in a folder or below it.

    Raises UserError if no photo is there: a folder is only known by the photos in it.
    """
    start = folder.strip("/") + "/"
    rows = np.flatnonzero([path.startswith(start) for path in paths])
    if not len(rows):
        known = folders_of(paths)
        names = ", ".join(known[:_NAMED]) + (", ..." if len(known) > _NAMED else "")
        raise UserError(
            f"the gallery has no photo in a folder {folder!r}; "
            + (f"its {len(known)} folders: {names}" if known else "it has no folders")
        )
    return rows
