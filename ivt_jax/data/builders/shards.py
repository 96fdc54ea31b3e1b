"""Writes one shard: a fixed range of a split's items, whole or not at all, in any process.

Beside the shard goes a JSON note of what is in it; a shard is finished when its note is there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer, file_adapters

from ivt_jax.data.builders.ingest import Split, check
from ivt_jax.data.records import VERSION
from ivt_jax.disk import sync

_MOST_ITEMS = 4096  # of a shard
_FEWEST_ITEMS = 64
_MOST_BYTES = 128 << 20  # of a shard, estimated; one worker holds far less in memory
_SMALL_SET_SHARDS = 32  # a small split gives this many workers something to do
_TEMPORARY = ".tmp"
NOTES = "notes"
_DISK_FULL = {os.strerror(code): code for code in (errno.ENOSPC, errno.EDQUOT)}


@dataclass(frozen=True)
class Task:
    """What a worker needs to write shard `number` of `count`; picklable.

    Attributes:
        attempt: the folder of all that is written until the dataset is finished.
        dataset: name of the dataset.
        label: name of the split.
        number: of this shard, from 0.
        count: of all shards of the split.
        split: the items of this shard alone.
    """

    attempt: Path
    dataset: str
    label: str
    number: int
    count: int
    split: Split

    @property
    def path(self) -> Path:
        """The shard, under the name that TFDS expects."""
        name = f"{self.dataset}-{self.label}.array_record-{self.number:05}-of-{self.count:05}"
        return self.attempt / self.dataset / VERSION / name

    @property
    def note(self) -> Path:
        """The JSON file that says what the finished shard holds."""
        return self.attempt / NOTES / f"{self.label}-{self.number:05}.json"


class Part(NamedTuple):
    """A finished shard in short: its items, and how many of them had a fault."""

    items: int
    bad: int


def items_per_shard(items: int, item_bytes: float) -> int:
    """How many items a shard takes; depends on the data alone, never on the workers."""
    by_number = min(_MOST_ITEMS, -(-items // _SMALL_SET_SHARDS))
    return max(1, min(max(_FEWEST_ITEMS, by_number), int(_MOST_BYTES / max(item_bytes, 1))))


def tasks(attempt: Path, dataset: str, label: str, split: Split, *, items: int) -> list[Task]:
    """The shards of a split, each with `items` consecutive items."""
    starts = range(0, len(split.items), items)
    return [
        Task(
            attempt=attempt,
            dataset=dataset,
            label=label,
            number=number,
            count=len(starts),
            split=Split(split.items[start : start + items], split.load),
        )
        for number, start in enumerate(starts)
    ]


def read_note(task: Task) -> dict[str, Any] | None:
    """What is in a finished shard, or None if it is not finished.

    Keys: items, bad (items with a fault), records, captions_per_record and identities (lists),
    faults (lists of key, reason, detail), bytes (of the records), size and sha256 (of the file).
    """
    try:
        note = json.loads(task.note.read_bytes())
        return note if task.path.stat().st_size == note["size"] else None
    except FileNotFoundError:
        return None


def finished(task: Task) -> Part | None:
    """A finished shard in short, or None."""
    note = read_note(task)
    return Part(note["items"], note["bad"]) if note else None


def write_shard(task: Task) -> Part:
    """Writes a shard and its note unless they are there; the same items give the same bytes.

    Raises:
        OSError: it cannot be written, as on a full disk; nothing of it is left then.
    """
    part = finished(task)
    if part is not None:
        return part
    with _whole(task.path) as temporary:
        note = _write_records(task, temporary)
        note["size"] = temporary.stat().st_size
        with temporary.open("rb") as file:
            note["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    with _whole(task.note) as temporary:
        temporary.write_text(json.dumps(note), "utf-8")
    return Part(note["items"], note["bad"])


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A name to write under; `path` is there afterwards, whole even after a power failure."""
    # Beam may have one shard written twice at a time, so the names differ.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}{_TEMPORARY}")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporary(folder: Path) -> None:
    """Removes what killed workers have left half written."""
    for path in folder.rglob(f"*{_TEMPORARY}"):
        path.unlink(missing_ok=True)


def features() -> tfds.features.FeaturesDict:
    """The TFDS features of every dataset here."""
    text = tfds.features.Text()
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "captions": tfds.features.Sequence(text),
            "words": tfds.features.Sequence(text),
            "attributes": tfds.features.Sequence(text),
            "identity": np.int64,
            "source": text,
            "key": text,
            "annotation": text,
        }
    )


def _write_records(task: Task, path: Path) -> dict[str, Any]:
    counts = dict.fromkeys(("items", "bad", "records", "bytes"), 0)
    note: dict[str, Any] = {**counts, "faults": [], "captions_per_record": [], "identities": []}
    writer = file_adapters.ArrayRecordFileAdapter
    try:
        writer.write_examples(path, enumerate(_serialized(task.split, note)))
    except RuntimeError as error:  # array_record gives the system's error as text only
        for sentence, code in _DISK_FULL.items():
            if sentence in str(error):
                raise OSError(code, sentence, str(path)) from error
        raise
    return note


def _serialized(split: Split, note: dict[str, Any]) -> Iterator[bytes]:
    """The records of a split as TFDS stores them; `note` grows along."""
    encoder = features()
    serializer = example_serializer.ExampleSerializer(encoder.get_serialized_info())
    for item in split.items:
        record, faults = check(split.load, item)
        note["items"] += 1
        note["bad"] += bool(faults)
        note["faults"] += faults
        if record is None:
            continue
        example = serializer.get_tf_example(encoder.encode_example(record))
        # TFDS's own call leaves the order of the fields to chance.
        data = example.SerializeToString(deterministic=True)
        note["records"] += 1
        note["bytes"] += len(data)
        note["captions_per_record"].append(len(record["captions"]))
        note["identities"].append(record["identity"])
        yield data
