"""Files that a run appends to and that outlive a full disk: lines, and TensorBoard events."""

import contextlib
import errno
import logging
import os
import socket
import struct
import time
from pathlib import Path

from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

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


class EventFile:
    """A new file of scalars for TensorBoard, which drops what older files say of later steps.

    tensorboardX's own writer hangs for ever when its thread has met a full disk.
    """

    def __init__(self, folder: Path, *, first_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self._file = PatientFile(stem)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=time.time(), step=first_step, session_log=start))

    def add_scalars(self, values: dict[str, float], step: int) -> None:
        """Adds tag -> value at a step."""
        summary = Summary(
            value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        )
        self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, event: Event) -> None:
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        self._file.write(length + _checksum(length) + data + _checksum(data))


def _checksum(data: bytes) -> bytes:
    """The masked CRC-32C of TensorFlow's record format."""
    crc = crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)
