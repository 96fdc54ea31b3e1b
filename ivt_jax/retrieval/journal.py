"""What an unfinished index run has encoded: appended batch by batch, read again after a kill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from ivt_jax.retrieval.photos import File

_ABOUT, _FILES, _EMBEDDINGS = "about.json", "photos.jsonl", "embeddings.bin"


class Journal:
    """Photos and embeddings (n, D) float32 in a folder; what another model left there is removed.

    Embeddings are written before the photos they belong to, so a cut line or embeddings without
    lines are all that a killed process can leave; both are cut off when the journal is opened.
    """

    def __init__(self, folder: Path, *, fingerprint: str, width: int):
        self._folder, self._width = folder, width
        about = json.dumps({"fingerprint": fingerprint, "width": width})
        try:
            same = (folder / _ABOUT).read_text("utf-8") == about
        except (OSError, UnicodeDecodeError):
            same = False
        if not same:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            (folder / _ABOUT).write_text(about, "utf-8")
        self._files = (folder / _FILES).open("a+b")
        self._embeddings = (folder / _EMBEDDINGS).open("a+b")
        self.files: list[tuple[File, bytes]] = []  # with their SHA-256
        self._recover()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error) -> None:
        self._files.close()
        self._embeddings.close()

    def __len__(self) -> int:
        """The number of photos."""
        return len(self.files)

    def append(self, files: list[tuple[File, bytes]], embeddings: np.ndarray) -> None:
        """Adds n photos with their hashes and embeddings (n, D) float32."""
        self._embeddings.write(embeddings.tobytes())
        self._embeddings.flush()
        for file, sha256 in files:
            line = json.dumps([*file, sha256.hex()])  # ASCII, so that any name of a file fits
            self._files.write(line.encode() + b"\n")
        self._files.flush()
        self.files += files

    def embeddings(self) -> np.ndarray:
        """All of them, (n, D) float32, memory-mapped."""
        if not self.files:
            return np.zeros((0, self._width), np.float32)
        shape = (len(self.files), self._width)
        return np.memmap(self._folder / _EMBEDDINGS, np.float32, mode="r", shape=shape)

    def _recover(self) -> None:
        self._files.seek(0)
        row_bytes, end = 4 * self._width, 0
        room = self._embeddings.seek(0, 2) // row_bytes
        for line in self._files:
            found = _read_line(line)
            if found is None or len(self.files) == room:
                break
            self.files.append(found)
            end += len(line)
        while self.files and not self._is_unit(len(self.files) - 1):  # lost with the power
            end -= len(json.dumps([*self.files[-1][0], self.files[-1][1].hex()])) + 1
            self.files.pop()
        self._files.truncate(end)
        self._embeddings.truncate(len(self.files) * row_bytes)

    def _is_unit(self, row: int) -> bool:
        self._embeddings.seek(row * 4 * self._width)
        value = np.frombuffer(self._embeddings.read(4 * self._width), np.float32)
        return bool(abs(np.linalg.norm(value) - 1) < 1e-3)


def _read_line(line: bytes) -> tuple[File, bytes] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        path, size, mtime, sha256 = json.loads(line)
        return File(str(path), int(size), int(mtime)), bytes.fromhex(sha256)
    except (ValueError, TypeError):
        return None
