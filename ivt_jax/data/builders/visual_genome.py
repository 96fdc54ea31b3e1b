"""Reads Visual Genome's region_descriptions.json: whole images with all phrases, or the regions."""

from __future__ import annotations

import functools
import io
from array import array
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ivt_jax.data import images as decoding
from ivt_jax.data.builders.faults import Fault, RecordError
from ivt_jax.data.builders.ingest import Split
from ivt_jax.data.builders.json_lists import json_entries, read_entry
from ivt_jax.data.builders.rows import Rows, new_record, read_file, rows_split
from ivt_jax.data.records import DataError

FILE = "region_descriptions.json"
FOLDERS = ("VG_100K", "VG_100K_2")
REGIONS = ("image", "crop")
_QUALITY = 95  # of the JPEG a crop is stored as


def region_splits(
    source: Path, *, images: Path | None = None, regions: str = "image"
) -> dict[str, Split] | None:
    """The train split of Visual Genome, or None if `source` has no region_descriptions.json.

    Args:
        source: that file or its folder.
        images: folder that holds VG_100K/ and VG_100K_2/; default the file's own.
        regions: "image": one record an image, whose captions are the phrases of all its regions |
            "crop": one record a region, cut out of the image.

    Raises:
        DataError: the file is no list of regions, or there is no image folder.
    """
    path = source if source.is_file() else source / FILE
    if path.name != FILE or not path.is_file():
        return None
    root = images or path.parent
    folders = [root / name for name in FOLDERS if (root / name).is_dir()]
    if not folders:
        raise DataError(
            f"there is neither {root / FOLDERS[0]} nor {root / FOLDERS[1]}; give --images=<the "
            "folder that holds them>"
        )
    places, faults = array("q"), []
    for number, (offset, size, entry) in enumerate(json_entries(path)):
        found = entry.get("regions") if isinstance(entry, dict) else None
        if not isinstance(found, list) or not isinstance(entry.get("id"), int):
            detail = "the entry is not an object with id and regions"
            faults.append(Fault(f"{path.name}, entry {number}", "bad-row", detail))
            continue
        for region in range(len(found)) if regions == "crop" else [-1]:
            places.extend((offset, size, region))
    rows = Rows(tuple(np.frombuffer(places, np.int64).reshape(-1, 3).T), faults)
    print(f"{path}: Visual Genome, {len(rows):,} {'regions' if regions == 'crop' else 'images'}")
    return {"train": rows_split(rows, _load, path, folders)}


def _load(
    path: Path, folders: list[Path], number: int, offset: int, size: int, region: int
) -> dict[str, Any]:
    entry = _entry(path, offset, size)
    photo = _photo(folders, entry["id"])
    key = f"{photo.parent.name}/{photo.name}"
    if region < 0:
        captions = [_phrase(found) for found in entry["regions"]]
        image = read_file(photo, key)
    else:
        found = entry["regions"][region]
        key, captions = f"{key}, region {region}", [_phrase(found)]
        image = _crop(photo, found, key)
    return new_record(image, captions, identity=number, source="vg", key=key)


def _phrase(region: Any) -> Any:
    return region.get("phrase") if isinstance(region, dict) else None


def _photo(folders: list[Path], number: int) -> Path:
    found = [folder / f"{number}.jpg" for folder in folders]
    return next((path for path in found if path.is_file()), found[0])


def _crop(photo: Path, region: Any, key: str) -> bytes:
    """The region as JPEG; what of its box lies outside the image is cut off."""
    try:
        x, y, width, height = (int(region[name]) for name in ("x", "y", "width", "height"))
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(key, "bad-box", f"its box is incomplete: {error!r}") from error
    photo_pixels = _pixels(photo, key)
    left, top, right, bottom = (max(edge, 0) for edge in (x, y, x + width, y + height))
    pixels = photo_pixels[top:bottom, left:right]
    if 0 in pixels.shape:
        shape = photo_pixels.shape
        detail = f"{width} x {height} at ({x}, {y}) is outside of {shape[1]} x {shape[0]} pixels"
        raise RecordError(key, "bad-box", detail)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()


# The regions of one image follow each other: parsed and decoded once.
@functools.lru_cache(maxsize=1)
def _entry(path: Path, offset: int, size: int) -> Any:
    return read_entry(path, offset, size)


def _pixels(photo: Path, key: str) -> np.ndarray:
    try:
        return _decoded(photo)
    except decoding.ImageError as error:
        raise RecordError(key, error.reason, error.detail) from error


@functools.lru_cache(maxsize=1)
def _decoded(photo: Path) -> np.ndarray:
    key = f"{photo.parent.name}/{photo.name}"
    return decoding.decode(read_file(photo, key), key=key)
