"""Checks records before they are written, in worker processes; names what is bad."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ivt_jax.data import images
from ivt_jax.data.builders.faults import RecordError
from ivt_jax.data.words import noun_adjective_words


@dataclass(frozen=True)
class Split:
    """What a split is read from: `load(item)` gives the record of an item; both picklable.

    A record needs image (encoded bytes), captions, identity, source and key, and may have words,
    attributes (lists aligned with captions) and annotation (str).
    """

    items: Sequence[Any]
    load: Callable[[Any], dict[str, Any]]


class Checked(NamedTuple):
    """A record that may be written, or None, and the faults found as (key, reason, detail)."""

    record: dict[str, Any] | None
    faults: list[tuple[str, str, str]]


def check(load: Callable[[Any], dict[str, Any]], item: Any) -> Checked:
    """Loads one record and decodes its image; leaves out bad captions, or all of a bad record."""
    try:
        record = load(item)
    except OSError as error:
        reason = "missing-file" if isinstance(error, FileNotFoundError) else "unreadable-file"
        return Checked(None, [(_key(item), reason, str(error))])
    except RecordError as error:
        return Checked(None, [(error.key, error.reason, error.detail)])
    key = str(record["key"])
    try:
        images.decode(record["image"], key=key)
    except images.ImageError as error:
        return Checked(None, [(key, error.reason, error.detail)])
    faults, kept = [], []
    for number, caption in enumerate(record["captions"]):
        reason = _caption_fault(caption)
        if reason:
            faults.append((key, reason, f"caption {number} is {caption!r}"))
        else:
            kept.append(number)
    if not kept:
        return Checked(None, [*faults, (key, "no-caption", "no caption is left")])
    return Checked(_complete(record, kept), faults)


def _complete(record: dict[str, Any], kept: list[int]) -> dict[str, Any]:
    captions = [record["captions"][i].strip() for i in kept]
    if "words" in record:
        words = [record["words"][i] for i in kept]
    else:
        words = [", ".join(noun_adjective_words(caption)) for caption in captions]
    attributes = record.get("attributes", [""] * len(record["captions"]))
    return {
        "image": record["image"],
        "captions": captions,
        "words": words,
        "attributes": [attributes[i] for i in kept],
        "identity": int(record["identity"]),
        "source": record["source"],
        "key": str(record["key"]),
        "annotation": record.get("annotation", ""),
    }


def _caption_fault(caption: Any) -> str:
    if not isinstance(caption, str) or "\0" in caption:
        return "invalid-caption"
    try:
        caption.encode("utf-8")
    except UnicodeEncodeError:
        return "invalid-caption"
    return "" if caption.strip() else "empty-caption"


def _key(item: Any) -> str:
    return str(item["key"] if isinstance(item, dict) else item)
