"""What is wrong with one record, told by a reader to the checks at ingest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Fault(NamedTuple):
    """A record that cannot be read, found while indexing; it takes the place of an item."""

    key: str
    reason: str
    detail: str


class RecordError(Exception):
    """Raised by a reader's load() for one unusable record; ingest lists it and goes on.

    `reason` is one word to count by, such as "missing-file"; `detail` is the rest of the sentence.
    """

    def __init__(self, key: str, reason: str, detail: str):
        super().__init__(key, reason, detail)
        self.key, self.reason, self.detail = key, reason, detail


def described(reasons: Mapping[str, int]) -> str:
    """Counts by reason, as a person reads them."""
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items()) or "none"
