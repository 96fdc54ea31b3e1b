"""Millions of rows in little memory: columns of offsets and names, read only when loaded."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ivt_jax.data.builders.faults import Fault, RecordError
from ivt_jax.data.builders.ingest import Split


@dataclass(frozen=True)
class Rows(Sequence):
    """Item i is (i, column[i], ...) of plain Python values; the faults follow as the last items.

    Attributes:
        columns: at least one sequence each of the same length, such as NumPy arrays.
        faults: what could not be indexed.
    """

    columns: tuple[Any, ...]
    faults: list[Fault] = field(default_factory=list)

    def __len__(self) -> int:
        """The number of rows and faults."""
        return len(self.columns[0]) + len(self.faults)

    def __getitem__(self, index):
        """One item, or the list of a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        count = len(self.columns[0])
        index = range(len(self))[index]
        if index >= count:
            return self.faults[index - count]
        values = (column[index] for column in self.columns)
        return index, *(v.item() if isinstance(v, np.generic) else v for v in values)


@dataclass(frozen=True)
class Groups(Sequence):
    """A column whose value i is a list: those rows of `values` that share a key.

    Attributes:
        values: int64 (N, C), sorted by group.
        starts: int64 (G + 1,); group i is values[starts[i] : starts[i + 1]].
    """

    values: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        """The number of groups."""
        return len(self.starts) - 1

    def __getitem__(self, index):
        """The rows of one group as lists of int."""
        return self.values[self.starts[index] : self.starts[index + 1]].tolist()


def grouped_rows(values: np.ndarray, keys: np.ndarray) -> Groups:
    """Groups rows (N, C) of equal keys (N,), int64; groups and rows keep their first order."""
    if not len(keys):
        return Groups(values, np.zeros(1, np.int64))
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    rank = np.empty_like(first)
    rank[np.argsort(first)] = np.arange(len(first))
    group = rank[inverse]
    starts = np.concatenate([[0], np.cumsum(np.bincount(group))])
    return Groups(values[np.argsort(group, kind="stable")], starts)


def rows_split(rows: Sequence[Any], load: Callable[..., dict[str, Any]], *fixed: Any) -> Split:
    """A Split whose record is load(*fixed, *item); an item that is a Fault raises RecordError."""
    return Split(rows, functools.partial(_load, load, fixed))


def _load(load: Callable[..., dict[str, Any]], fixed: tuple[Any, ...], item: Any) -> dict[str, Any]:
    if isinstance(item, Fault):
        raise RecordError(*item)
    return load(*fixed, *item)


def load_image(
    root: str, source: str, number: int, key: str, captions: Iterable[Any], identity: int
) -> dict[str, Any]:
    """The record of an image file `key` under `root`."""
    return new_record(
        read_file(Path(root) / key, key), captions, identity=identity, source=source, key=key
    )


def new_record(
    image: bytes, captions: Iterable[Any], *, identity: int, source: str, key: str
) -> dict[str, Any]:
    """A record as ingest takes it; what UTF-8 cannot hold is replaced in the key."""
    return {
        "image": image,
        "captions": list(captions),
        "identity": identity,
        "source": source,
        "key": writable(key),
    }


def writable(text: str) -> str:
    """The text with what UTF-8 cannot hold, such as bytes of a file name, replaced by `?`."""
    return text.encode("utf-8", "replace").decode("utf-8")


def read_file(path: Path, key: str, *, offset: int = 0, size: int = -1) -> bytes:
    """All of a file, or `size` bytes from `offset`; RecordError names the record `key`."""
    try:
        with path.open("rb") as file:
            missing = offset + size - os.fstat(file.fileno()).st_size
            if size >= 0 and missing > 0:  # checked first, as reading would reserve the memory
                detail = f"{path} ends {missing:,} bytes too early"
                raise RecordError(key, "truncated", detail)
            file.seek(offset)
            return file.read(size)
    except FileNotFoundError as error:
        raise RecordError(key, "missing-file", str(error)) from error
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise RecordError(key, "unreadable-file", str(error)) from error


def text_of(data: bytes) -> str:
    """UTF-8 text; bytes that are none become lone surrogates, which ingest calls invalid."""
    return data.decode("utf-8-sig", "surrogateescape")
