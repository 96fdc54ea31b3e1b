"""Keeps decoded records in memory, so that small datasets are decoded once and not every epoch."""

import threading
from collections.abc import Hashable
from typing import Any


class Cache:
    """Values by key, added until `limit` bytes are full; reading threads may share one.

    Nothing leaves it: every epoch visits every record once, so an old one is worth as much as a
    new one. Other processes receive it empty and fill their own.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.size = 0
        self._kept: dict[Hashable, Any] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Any:
        """The value kept under a key, or None."""
        return self._kept.get(key)

    def add(self, key: Hashable, value: Any, *, size: int) -> None:
        """Keeps a value of `size` bytes, which nobody may change from now on, if there is room."""
        with self._lock:
            if key not in self._kept and self.size + size <= self.limit:
                self._kept[key] = value
                self.size += size

    def __reduce__(self) -> tuple[type["Cache"], tuple[int]]:
        return Cache, (self.limit,)
