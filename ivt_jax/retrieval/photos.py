"""Finds the photos of a folder and reads them; nothing outside the folder is ever opened."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ivt_jax.data.images import ImageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MAX_BYTES = 256 << 20  # of a file; larger ones are skipped unread


class File(NamedTuple):
    """A file that may be a photo: path relative to the root, bytes, modified when (ns)."""

    path: str
    size: int
    mtime: int


class Skipped(NamedTuple):
    """A file that is not in the gallery, and why; size and mtime are 0 where it is no file."""

    path: str
    reason: str
    detail: str
    size: int = 0
    mtime: int = 0


def scan(root: Path, *, avoid: Path) -> Iterator[File | Skipped]:
    """All files below `root`, in order of their names, but for the folder `avoid`.

    Links are followed to files inside `root` only. Folders behind links are not entered: inside
    `root` their photos are found at their own place.
    """
    yield from _scan(root.resolve(), "", avoid.resolve())


def _scan(root: Path, below: str, avoid: Path) -> Iterator[File | Skipped]:
    try:
        entries = sorted(os.scandir(root / below), key=lambda entry: entry.name)
    except OSError as error:
        yield Skipped(below, "unreadable", str(error.strerror))
        return
    for entry in entries:
        path = f"{below}/{entry.name}" if below else entry.name
        if entry.name.startswith("."):
            yield Skipped(path, "hidden", "its name starts with a dot")
        elif entry.is_dir(follow_symlinks=False):
            if Path(entry.path) != avoid:
                yield from _scan(root, path, avoid)
        else:
            yield _file(root, path, entry)


def _file(root: Path, path: str, entry: os.DirEntry) -> File | Skipped:
    try:
        if entry.is_symlink():  # anything else below `root` is inside, as no link led there
            inside(root, path)
        found = entry.stat()
    except ImageError as error:
        return Skipped(path, error.reason, error.detail)
    except OSError as error:
        return Skipped(path, "unreadable", str(error.strerror))
    file = File(path, found.st_size, found.st_mtime_ns)
    if stat.S_ISDIR(found.st_mode):
        return Skipped(path, "link", "it links to a folder; links to folders are not entered")
    if not stat.S_ISREG(found.st_mode):
        return Skipped(path, "not-a-file", "it is a device, a socket or a pipe")
    if Path(path).suffix.lower() not in SUFFIXES:
        return Skipped(path, "name", f"its name ends in none of {', '.join(SUFFIXES)}", *file[1:])
    if found.st_size > MAX_BYTES:
        return Skipped(path, "too-large", f"{found.st_size:,} bytes", *file[1:])
    return file


def inside(root: Path, path: str) -> Path:
    """Where a relative path leads, links followed.

    Raises ImageError "outside" if that is not below `root`, OSError if nothing is there.
    """
    root = root.resolve()
    try:
        target = (root / path).resolve(strict=True)
    except RuntimeError as error:  # links that lead to each other, until Python 3.13
        raise OSError(errno.ELOOP, "too many links", path) from error
    if not target.is_relative_to(root):
        raise ImageError("outside", path, f"it leads out of {root}")
    return target


def read(root: Path, path: str) -> bytes:
    """The bytes of a photo below `root`.

    Raises ImageError: it leads outside, is no file ("unreadable", "not-a-file") or too large.
    """
    try:
        # Without O_NONBLOCK, opening a pipe would wait for somebody to write into it.
        handle = os.open(inside(root, path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(handle, "rb") as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ImageError("not-a-file", path, "it is a folder, a device or a pipe")
            if found.st_size > MAX_BYTES:
                raise ImageError("too-large", path, f"{found.st_size:,} bytes")
            return stream.read()
    except OSError as error:
        raise ImageError("unreadable", path, str(error.strerror)) from error
