"""Reads CUHK-PEDES, ICFG-PEDES and RSTPReid as published, and IVT's processed JSON files.

Published: a list of {split, captions, id, file_path or img_path}. Processed: an object of splits,
each a list of {captions, id, file_path or img_path} with one caption an entry and, for CUHK-PEDES,
`att` (key -> words). Images lie in `imgs/` beside the JSON file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ivt_jax.data.builders.ingest import Split
from ivt_jax.data.builders.layouts import (
    annotation_file,
    field,
    grouped,
    image_split,
    listed,
    read_json,
)
from ivt_jax.data.records import DataError

# The first that exists is read: the published file, then names of copies, then IVT's own.
FILES = {
    "cuhk_pedes": ("reid_raw.json", "caption_all.json", "cuhk_pedes_att.json"),
    "icfg_pedes": ("ICFG-PEDES.json", "ICFG_PEDES.json", "ICFG_PEDES_VISTXT.json"),
    "rstpreid": ("data_captions.json", "rstpreid_vistxt.json"),
}
SPLITS = ("train", "val", "test")


def person_splits(name: str, source: Path, *, images: Path | None = None) -> dict[str, Split]:
    """The splits of a person dataset; identities are kept as given.

    Args:
        name: a key of FILES.
        source: the JSON file, or the folder that holds it.
        images: folder of the images; default `imgs/` beside the JSON file.

    Raises:
        DataError: the file is missing or not of a known layout.
    """
    path = annotation_file(source, FILES[name])
    root = images or path.parent / "imgs"
    if not root.is_dir():
        raise DataError(f"there is no image folder {root}; give --images=<folder>")
    by_split: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for split, row in _rows(read_json(path), path):
        if not isinstance(split, str) or split not in by_split:
            raise DataError(f"{path} has the unknown split {split!r} (image {row['key']})")
        by_split[split].append(row)
    return {
        split: image_split(grouped(rows), root=root, source=name)
        for split, rows in by_split.items()
        if rows
    }


def _rows(content: Any, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(content, dict):  # `query` and `gallery` of the processed files repeat `test`
        pairs = [(s, entry) for s in SPLITS for entry in listed(content.get(s, []))]
        print(f"{path}: processed for IVT, an object of splits")
    elif isinstance(content, list):
        pairs = [(None, entry) for entry in content]
        print(f"{path}: as published, a list")
    else:
        raise DataError(f"{path} holds neither a list nor an object of splits")
    for number, (split, entry) in enumerate(pairs):
        where = f"{path}, entry {number}"
        yield split or field(entry, "split", where), _row(entry, where)


def _row(entry: Any, where: str) -> dict[str, Any]:
    # A missing caption is a fault of the record, which ingest lists; without an identity or an
    # image the file is not what it is taken for.
    identity = field(entry, "id", where)
    path_field = "img_path" if "img_path" in entry else "file_path"
    captions = list(listed(entry.get("captions", [])))
    att = entry.get("att") or {}
    if not isinstance(att, dict) or not all(isinstance(words, str) for words in att.values()):
        raise DataError(f"{where} has an `att` that is no object of strings: {att!r}")
    attributes = json.dumps(att, ensure_ascii=False) if att else ""
    if not isinstance(identity, int):
        raise DataError(f"{where} has the id {identity!r}; it must be an integer")
    return {
        "key": str(field(entry, path_field, where)),
        "captions": captions,
        "attributes": [attributes] * len(captions),
        "identity": identity,
    }
