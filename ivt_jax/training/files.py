"""Files that a run appends to and that outlive a full disk."""

import contextlib
import errno
import logging
import os
from pathlib import Path

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextlib.contextmanager
def outliving_a_full_disk():
    """Ignores that something inside finds no room."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise


class PatientFile:
    """Appends to a file; what finds no room stays in memory until there is some.

    Nothing is buffered otherwise, so that a killed process loses no line.
    """

    def __init__(self, path: str | Path):
        self.path, self._waiting = path, b""
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def write(self, data: bytes) -> None:
        """Appends; says so, once for each time the disk is full."""
        full = bool(self._waiting)
        self._waiting += data
        try:
            while self._waiting:
                self._waiting = self._waiting[os.write(self._descriptor, self._waiting) :]
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            if not full:
                logging.error(
                    "%s cannot be written, its lines wait in memory: %s", self.path, error
                )

    def close(self) -> None:
        """Closes the file; what still waits is lost, and said to be."""
        self.write(b"")
        os.close(self._descriptor)
        if self._waiting:
            logging.error("%s lacks its last %d bytes", self.path, len(self._waiting))
