"""Reads a person's own photos: a folder with captions beside them, or a table of files."""

from __future__ import annotations

import csv
import json
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ivt_jax.data.builders.faults import Fault, RecordError
from ivt_jax.data.builders.ingest import Split
from ivt_jax.data.builders.layouts import listed
from ivt_jax.data.builders.rows import (
    Rows,
    grouped_rows,
    new_record,
    read_file,
    rows_split,
    text_of,
)
from ivt_jax.data.records import DataError

NAMES = ("folder", "table")
_PHOTOS = (".jpg", ".jpeg", ".png", ".webp")
_SPLITS = ("train", "val", "test")
_TABLES = (".jsonl", ".ndjson", ".csv")


def own_splits(
    kind: str, source: Path, *, images: Path | None = None, dataset: str
) -> dict[str, Split]:
    """The splits of one's own data.

    Args:
        kind: "folder" | "table".
        source: the folder of photos, each with a .txt beside it, one caption a line; or a .csv,
            .jsonl or .ndjson file with the columns image and caption, and optionally identity
            and split.
        images: of a table: folder that its image paths start from; default its own.
        dataset: the dataset's name, stored as the source of each record.

    Raises:
        DataError: there is nothing of that kind.
    """
    if kind == "folder":
        return {"train": _folder_split(source, dataset=dataset)}
    if source.suffix.lower() not in _TABLES or not source.is_file():
        raise DataError(f"{source} is no table; table reads a file that ends in .csv or .jsonl")
    return _table_splits(source, root=images or source.parent, dataset=dataset)


def _folder_split(folder: Path, *, dataset: str) -> Split:
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; folder reads photos with a .txt beside each")
    keys, alone = [], []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        photos = [name for name in sorted(names) if Path(name).suffix.lower() in _PHOTOS]
        keys += [str((Path(parent) / name).relative_to(folder)) for name in photos]
        stems = {Path(name).stem for name in photos}
        alone += [n for n in names if n.endswith(".txt") and Path(n).stem not in stems]
    if not keys:
        raise DataError(f"{folder} holds no photos ({', '.join(_PHOTOS)})")
    print(f"{folder}: {len(keys):,} photos with captions in .txt files beside them")
    if alone:
        print(f"{len(alone):,} .txt files belong to no photo, such as {min(alone)}; not used")
    return rows_split(Rows((keys,)), _load_photo, folder, dataset)


def _load_photo(folder: Path, dataset: str, number: int, key: str) -> dict[str, Any]:
    path = folder / key
    image = read_file(path, key)
    captions = path.with_suffix(".txt")
    if not captions.is_file():
        raise RecordError(key, "no-caption", f"there is no {captions.name} beside it")
    lines = [line for line in text_of(read_file(captions, key)).split("\n") if line.strip()]
    return new_record(image, lines, identity=number, source=dataset, key=key)


class _Row(NamedTuple):
    image: str
    captions: list[Any]
    identity: int | None
    split: str


def _table_splits(path: Path, *, root: Path, dataset: str) -> dict[str, Split]:
    columns = _columns(path)
    faults: list[Fault] = []
    # Of each split: offset and size of its rows, and the hashes they are grouped by.
    places = {split: (array("q"), array("q")) for split in _SPLITS}
    with_identity = None
    for number, (offset, data) in enumerate(_lines(path, columns)):
        key = f"{path.name}, row {number + 1}"
        try:
            row = _parsed(data, columns, key)
            if with_identity is None:
                with_identity = row.identity is not None
            if with_identity != (row.identity is not None):
                raise RecordError(key, "bad-identity", "all rows have an identity or none has one")
        except RecordError as error:
            faults.append(Fault(error.key, error.reason, error.detail))
            continue
        places[row.split][0].extend((offset, len(data)))
        places[row.split][1].append(hash((row.image, row.identity)))
    if with_identity is None:
        first = f"; {faults[0].key}: {faults[0].detail}" if faults else ""
        raise DataError(f"{path} has no usable row{first}")
    kept = {split: found for split, found in places.items() if found[1]}
    splits, first = {}, 0
    for split, (values, keys) in kept.items():
        groups = grouped_rows(
            np.frombuffer(values, np.int64).reshape(-1, 2), np.frombuffer(keys, np.int64)
        )
        rows = Rows((groups,), faults if split == next(iter(kept)) else [])
        unknown = None if with_identity else first
        splits[split] = rows_split(rows, _load_rows, path, columns, root, dataset, unknown)
        first += len(groups)
    print(f"{path}: a table of {sum(len(split.items) for split in splits.values()):,} photos")
    return splits


def _columns(path: Path) -> list[str]:
    """The header of a CSV file; [] for JSON lines."""
    if path.suffix.lower() != ".csv":
        return []
    with path.open("rb") as file:
        line = text_of(file.readline())
    try:
        header = next(csv.reader([line]), [])
    except csv.Error as error:
        raise DataError(f"{path}: the first line cannot be read as CSV: {error}") from error
    columns = [name.strip() for name in header]
    missing = {"image", "caption"} - set(columns)
    if missing:
        raise DataError(
            f"{path} has no column {' and '.join(sorted(missing))}; its first line must name the "
            f"columns image, caption and, if wanted, identity and split (found: {columns})"
        )
    return columns


def _lines(path: Path, columns: list[str]) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of every row that is not blank."""
    with path.open("rb") as file:
        if columns:
            file.readline()
        offset = file.tell()
        for data in _csv_rows(file) if columns else file:
            if data.strip():
                yield offset, data
            offset += len(data)


def _csv_rows(file: BinaryIO) -> Iterator[bytes]:
    """The bytes of each CSV row, which may have line ends within quotes."""
    taken: list[bytes] = []

    def lines() -> Iterator[str]:
        for line in file:
            taken.append(line)
            yield text_of(line)

    reader = csv.reader(lines())
    while True:
        try:
            next(reader)
        except StopIteration:
            return
        except csv.Error:  # the row is yielded all the same: parsing it tells the fault
            reader = csv.reader(lines())
        yield b"".join(taken)
        taken.clear()


def _parsed(data: bytes, columns: list[str], key: str) -> _Row:
    try:
        if columns:
            values = next(csv.reader([text_of(data)], strict=True))
            if len(values) != len(columns):
                detail = f"it has {len(values)} fields instead of {len(columns)}"
                raise RecordError(key, "bad-row", detail)
            row = dict(zip(columns, values, strict=True))
        else:
            row = json.loads(data)
    except (ValueError, RecursionError, csv.Error) as error:
        raise RecordError(key, "bad-row", str(error)) from error
    image = row.get("image") if isinstance(row, dict) else None
    if not isinstance(image, str) or not image:
        raise RecordError(key, "bad-row", "it names no image")
    split = row.get("split") or "train"
    if split not in _SPLITS:
        raise RecordError(key, "bad-split", f"split is {split!r}, not one of {', '.join(_SPLITS)}")
    captions = [] if row.get("caption") is None else listed(row["caption"])
    return _Row(image, captions, _identity(row.get("identity"), key), split)


def _identity(value: Any, key: str) -> int | None:
    if value is None or value == "":
        return None
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if type(number) is not int or not 0 <= number < 2**63:
        raise RecordError(key, "bad-identity", f"identity is {value!r}, not a whole number from 0")
    return number


def _load_rows(
    path: Path,
    columns: list[str],
    root: Path,
    dataset: str,
    first: int | None,
    number: int,
    places: list[list[int]],
) -> dict[str, Any]:
    where = f"{path.name}, byte {places[0][0]}"
    rows = [
        _parsed(read_file(path, where, offset=offset, size=size), columns, where)
        for offset, size in places
    ]
    key = rows[0].image
    image = read_file(root / key, key)
    captions = [caption for row in rows for caption in row.captions]
    # Without identities a photo is its own, and none of another split's.
    identity = rows[0].identity if first is None else first + number
    if identity is None:
        raise RecordError(key, "bad-identity", f"{where} had one when the table was first read")
    return new_record(image, captions, identity=identity, source=dataset, key=key)
