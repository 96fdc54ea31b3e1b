"""Looks before preparing: how large the records are, whether they fit, whether they are known."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ivt_jax.data import records
from ivt_jax.data.builders.faults import RecordError
from ivt_jax.data.builders.ingest import Split
from ivt_jax.data.words import tagger_version
from ivt_jax.errors import EXIT_CANNOT_WRITE, UserError

_SAMPLES = 16  # items of a split that are read for the estimate
_RECORD_BYTES = 512  # field names, key and framing of a record, from above
_SHARD_BYTES = 128 << 10  # the least that a shard takes beside its records
_SPARE_BYTES = 16 << 20  # index and notes
_FORMAT = 1  # grows when this code writes other bytes for the same items


def item_bytes(split: Split) -> float:
    """Mean bytes that an item takes as a record, from a few spread evenly; bad ones count zero."""
    if not len(split.items):
        return 0.0
    numbers = np.unique(np.linspace(0, len(split.items) - 1, _SAMPLES).astype(int))
    return float(np.mean([_bytes(split, split.items[int(number)]) for number in numbers]))


def require(folder: Path, needed: float, *, shards: int) -> None:
    """Refuses to start when records of `needed` bytes do not fit on the disk of `folder`.

    Raises:
        UserError: exit code 73, with both figures.
    """
    free = shutil.disk_usage(folder).free
    needed += shards * _SHARD_BYTES + _SPARE_BYTES
    if needed > free:
        raise UserError(
            f"not enough disk space: about {needed / 1e6:,.0f} MB more will be written and "
            f"{folder} has {free / 1e6:,.0f} MB free. Free some, or give --out a folder on "
            "another disk; shards that are finished already are kept.",
            exit_code=EXIT_CANNOT_WRITE,
        )


def fingerprint(
    name: str,
    splits: Mapping[str, Split],
    *,
    sizes: Mapping[str, float],
    about: Mapping[str, Any],
) -> str:
    """What the shards depend on, as 16 hex digits: every item, the options and the versions.

    Args:
        name: the dataset.
        splits: what will be read; items count by their repr.
        sizes: split -> item_bytes, which notices most changes of the images themselves.
        about: the options that the data came from.
    """
    versions = (_FORMAT, records.VERSION, tagger_version())
    digest = hashlib.sha256(repr((name, sorted(about.items()), versions)).encode())
    for label, split in splits.items():
        digest.update(repr((label, len(split.items), sizes[label])).encode())
        for item in split.items:
            digest.update(repr(item).encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:16]


def _bytes(split: Split, item: Any) -> int:
    try:
        record = split.load(item)
    except (OSError, RecordError):
        return 0
    texts = [*record["captions"], *record.get("words", record["captions"])]
    texts += [*record.get("attributes", []), record.get("annotation", "")]
    return _RECORD_BYTES + len(record["image"]) + sum(len(repr(text)) for text in texts)
