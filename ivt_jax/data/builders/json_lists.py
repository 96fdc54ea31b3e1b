"""Reads long JSON lists an entry at a time, and caption corpora shared as [{image, caption}, ...].

Only the place of each entry in the file is kept, so a list of millions needs little memory.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ivt_jax.data.builders.faults import Fault, RecordError
from ivt_jax.data.builders.ingest import Split
from ivt_jax.data.builders.layouts import listed
from ivt_jax.data.builders.rows import Rows, grouped_rows, new_record, read_file, rows_split
from ivt_jax.data.records import DataError

_CHUNK = 1 << 20  # bytes read at once
_LONGEST = 1 << 26  # bytes of one entry
_GAP = re.compile(r"[ \t\r\n,]*")
_START = re.compile(r"(\xef\xbb\xbf)?[ \t\r\n]*\[")


def json_entries(path: Path) -> Iterator[tuple[int, int, Any]]:
    """The entries of a JSON list as (offset, size, entry), in bytes; never the whole list at once.

    Text of an entry is decoded as Latin-1, so that its place is known in bytes: good for looking
    at fields and comparing, not for keeping. `read_entry` gives the entry proper.

    Raises:
        DataError: the file cannot be read or is no JSON list.
    """
    try:
        with path.open("rb") as file:
            yield from _entries(file, path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _entries(file: Any, path: Path) -> Iterator[tuple[int, int, Any]]:
    decode = json.JSONDecoder().raw_decode
    text = file.read(_CHUNK).decode("latin-1")
    start = _START.match(text)
    if start is None:
        raise DataError(f"{path} is not a JSON list")
    base, at = 0, start.end()  # text[0] is byte number `base`
    while True:
        at = _end_of_gap(text, at)
        if text[at : at + 1] == "]":
            return
        try:
            entry, end = decode(text, at)
        except (ValueError, RecursionError) as error:
            more = file.read(max(_CHUNK, len(text) - at)).decode("latin-1")
            if not more or len(text) - at > _LONGEST:
                raise DataError(f"{path} is not a JSON file: byte {base + at}: {error}") from error
            base, text, at = base + at, text[at:] + more, 0
            continue
        yield base + at, end - at, entry
        at = end


def _end_of_gap(text: str, at: int) -> int:
    gap = _GAP.match(text, at)
    return gap.end() if gap else at


def read_entry(path: Path, offset: int, size: int) -> Any:
    """One entry that json_entries found; RecordError if its text is not UTF-8."""
    key = f"{path.name}, byte {offset}"
    try:
        return json.loads(read_file(path, key, offset=offset, size=size))
    except (ValueError, RecursionError) as error:
        raise RecordError(key, "bad-row", str(error)) from error


def is_json_list(path: Path) -> bool:
    """Whether a file begins like a JSON list."""
    with path.open("rb") as file:
        return _START.match(file.read(_CHUNK).decode("latin-1")) is not None


def caption_list(path: Path, *, images: Path | None, source: str) -> dict[str, Split]:
    """The train split of [{image, caption}, ...]; an image's captions become one record.

    Args:
        path: the JSON file; caption may be a list.
        images: folder that the image paths start from; default the file's own. Absolute paths
            are taken as they are.
        source: the dataset's name.
    """
    places, keys, faults = array("q"), array("q"), []
    for number, (offset, size, entry) in enumerate(json_entries(path)):
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
            detail = "the entry is not an object with the field 'image'"
            faults.append(Fault(f"{path.name}, entry {number}", "bad-row", detail))
            continue
        places.extend((offset, size))
        # 64-bit hashes of 3 M names meet by chance once in four million corpora.
        keys.append(hash(entry["image"]))
    if not keys and faults:
        raise DataError(f"{path} is not a list of {{image, caption}}")
    spans = np.frombuffer(places, np.int64).reshape(-1, 2)
    rows = Rows((grouped_rows(spans, np.frombuffer(keys, np.int64)),), faults)
    return {"train": rows_split(rows, _load, path, images or path.parent, source)}


def _load(path: Path, root: Path, source: str, number: int, spans: list[list[int]]):
    entries = [read_entry(path, *span) for span in spans]
    key = entries[0]["image"]
    captions = [c for entry in entries for c in listed(entry.get("caption", []))]
    image = read_file(root / key, key)
    return new_record(image, captions, identity=number, source=source, key=key)
