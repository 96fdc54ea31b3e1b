"""What the readers of published layouts share: JSON entries, grouped by image, to a Split."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ivt_jax.data.builders.ingest import Split
from ivt_jax.data.builders.rows import load_image, writable
from ivt_jax.data.records import DataError


def read_json(path: Path) -> Any:
    """The content of a JSON file; DataError names the file and the place of a fault."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a JSON file: {error}") from error


def annotation_file(source: Path, names: Iterable[str]) -> Path:
    """`source` itself if it is a file, else the first of `names` in that folder."""
    if source.is_file():
        return source
    found = [source / name for name in names if (source / name).is_file()]
    if not found:
        wanted = " or ".join(names)
        raise DataError(f"{source} holds no {wanted}; give --source the file or its folder")
    return found[0]


def field(entry: Any, name: str, where: str) -> Any:
    """One field of a JSON entry; DataError names the entry and what it lacks."""
    if not isinstance(entry, dict) or name not in entry:
        raise DataError(f"{where} has no field {name!r}")
    return entry[name]


def listed(value: Any) -> list[Any]:
    """A list as it is; one value as a list of one."""
    return value if isinstance(value, list) else [value]


def grouped(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Joins the captions of rows with one key and identity, so each image is stored once."""
    groups: dict[tuple[str, Any], dict[str, Any]] = {}
    for row in rows:
        first = groups.setdefault((row["key"], row.get("identity")), row)
        if first is not row:
            first["captions"] += row["captions"]
            first["attributes"] += row["attributes"]
    return list(groups.values())


def image_split(rows: list[dict[str, Any]], *, root: Path, source: str) -> Split:
    """A Split of rows {key, captions, attributes, identity}; key is an image file under `root`."""
    return Split(rows, functools.partial(_load_row, str(root), source))


def _load_row(root: str, source: str, row: dict[str, Any]) -> dict[str, Any]:
    record = load_image(root, source, 0, row["key"], row["captions"], row["identity"])
    return record | {"attributes": [writable(text) for text in row["attributes"]]}
