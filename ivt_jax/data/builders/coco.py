"""Reads COCO captions: the official files of 2014 or 2017, or Karpathy's dataset_coco.json."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from ivt_jax.data.builders.faults import Fault
from ivt_jax.data.builders.ingest import Split
from ivt_jax.data.builders.layouts import field, read_json
from ivt_jax.data.builders.rows import Rows, load_image, rows_split
from ivt_jax.data.records import DataError

KARPATHY = "dataset_coco.json"
_YEARS = ("2014", "2017")


def coco_splits(source: Path, *, images: Path | None = None) -> dict[str, Split] | None:
    """The splits of COCO captions, or None if `source` has neither kind of file.

    Of Karpathy's file, train and restval make the train split; val and test stay splits of their
    own. Of the official files, captions_train makes train and captions_val makes val.

    Args:
        source: one of the files, or a folder that holds them or `annotations/` with them.
        images: folder that holds train2014/ and so on; default the usual places.

    Raises:
        DataError: a file is broken, the image folders are missing, or both years are there.
    """
    folders = [source, source / "annotations"] if source.is_dir() else [source.parent]
    karpathy = [folder / KARPATHY for folder in folders if (folder / KARPATHY).is_file()]
    if source.name == KARPATHY or (source.is_dir() and karpathy):
        return _karpathy_splits(karpathy[0], images=images)
    found = {
        (split, year): folder / f"captions_{split}{year}.json"
        for folder in folders
        for split in ("train", "val")
        for year in _YEARS
        if (folder / f"captions_{split}{year}.json").is_file()
    }
    if source.is_file():
        if source not in found.values():
            return None
        found = {key: path for key, path in found.items() if key[1] == source.stem[-4:]}
    if len({year for _, year in found}) > 1:
        raise DataError(
            f"{source} has captions of 2014 and of 2017, which are mostly the same images; give "
            "--source one file, such as captions_train2017.json"
        )
    splits = {s: _official_split(path, s + y, images=images) for (s, y), path in found.items()}
    if splits:
        print(f"{', '.join(str(path) for path in found.values())}: official COCO captions")
    return splits or None


def _official_split(path: Path, folder: str, *, images: Path | None) -> Split:
    content = read_json(path)
    names, captions, faults = {}, {}, []
    for number, entry in enumerate(_list(content, "images", path)):
        try:
            image, name = int(entry["id"]), f"{folder}/{entry['file_name']}"
        except (KeyError, TypeError, ValueError) as error:
            faults.append(_bad(path, f"image {number}", error))
        else:
            names[image], captions[image] = name, []
    for number, entry in enumerate(_list(content, "annotations", path)):
        try:
            captions[entry["image_id"]].append(entry["caption"])
        except (KeyError, TypeError) as error:
            faults.append(_bad(path, f"annotation {number}", error))
    rows = [(name, captions[number], number) for number, name in names.items()]
    return _split(path, rows, faults, images=images)


def _bad(path: Path, entry: str, error: Exception) -> Fault:
    detail = f"a field or what it names is missing, or of the wrong type: {error!r}"
    return Fault(f"{path.name}, {entry}", "bad-row", detail)


def _karpathy_splits(path: Path, *, images: Path | None) -> dict[str, Split]:
    # The tokens are most of the file and never used.
    try:
        content = json.loads(path.read_bytes(), object_hook=_without_tokens)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a JSON file: {error}") from error
    rows: dict[str, list[tuple[str, list[Any], int]]] = {"train": [], "val": [], "test": []}
    faults, counts = [], Counter()
    for number, entry in enumerate(_list(content, "images", path)):
        try:
            split = entry["split"]
            captions = [sentence["raw"] for sentence in entry["sentences"]]
            row = (f"{entry['filepath']}/{entry['filename']}", captions, int(entry["cocoid"]))
            rows["train" if split == "restval" else split].append(row)
            counts[split] += 1
        except (KeyError, TypeError, ValueError) as error:
            faults.append(_bad(path, f"image {number}", error))
    print(
        f"{path}: Karpathy's split of COCO; {counts['train']:,} train and {counts['restval']:,} "
        f"restval images make train, {counts['val']:,} val and {counts['test']:,} test images "
        "are kept out of it"
    )
    return {
        split: _split(path, found, faults if split == "train" else [], images=images)
        for split, found in rows.items()
        if found
    }


def _without_tokens(value: dict[str, Any]) -> dict[str, Any]:
    value.pop("tokens", None)
    return value


def _split(
    path: Path, rows: list[tuple[str, list[Any], int]], faults: list[Fault], *, images: Path | None
) -> Split:
    """A Split of (image, captions, COCO's number of the image)."""
    root = _image_root(path, rows[0][0].split("/")[0] if rows else "", images)
    columns = tuple([row[part] for row in rows] for part in range(3))
    return rows_split(Rows(columns, faults), load_image, str(root), "coco")


def _image_root(path: Path, folder: str, images: Path | None) -> Path:
    parents = (path.parent, path.parent.parent)
    roots = [images] if images else [p / sub for p in parents for sub in (".", "images")]
    found = [root for root in roots if (root / folder).is_dir()]
    if not found:
        raise DataError(
            f"there is no image folder {folder} in {' or '.join(str(root) for root in roots)}; "
            "give --images=<the folder that holds it>"
        )
    return found[0]


def _list(content: Any, name: str, path: Path) -> list[Any]:
    value = field(content, name, str(path))
    if not isinstance(value, list):
        raise DataError(f"{path} has no list {name!r}")
    return value
