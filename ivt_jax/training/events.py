"""Scalars for TensorBoard: a file of protocol buffers, each between its length and checksums.

Written here as tensorboardX imports PyTorch where that is installed, two seconds of every start,
and its writer hangs for ever when its thread has met a full disk.
"""

import socket
import struct
import time
from pathlib import Path

import numpy as np
from google_crc32c import value as crc32c

from ivt_jax.training.files import PatientFile

# Fields of tensorflow.Event, Summary, Summary.Value and SessionLog, with their wire types.
_WALL_TIME, _STEP, _FILE_VERSION = b"\x09", b"\x10", b"\x1a"
_SUMMARY, _SESSION_LOG = b"\x2a", b"\x3a"
_VALUE, _TAG, _SIMPLE_VALUE = b"\x0a", b"\x0a", b"\x15"
_STARTED = b"\x08\x01"


class EventFile:
    """A new file of scalars for TensorBoard, which drops what older files say of later steps."""

    def __init__(self, folder: Path, *, first_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self._file = PatientFile(stem)
        self._write(_FILE_VERSION + _sized(b"brain.Event:2"))
        self._write(_STEP + _varint(first_step) + _SESSION_LOG + _sized(_STARTED))

    def add_scalars(self, values: dict[str, float], step: int) -> None:
        """Adds tag -> value at a step."""
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
            numbers = np.array(list(values.values())).astype("<f4")
        scalars = (
            _TAG + _sized(tag.encode()) + _SIMPLE_VALUE + number.tobytes()
            for tag, number in zip(values, numbers, strict=True)
        )
        summary = b"".join(_VALUE + _sized(scalar) for scalar in scalars)
        self._write(_STEP + _varint(step) + _SUMMARY + _sized(summary))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, fields: bytes) -> None:
        data = _WALL_TIME + struct.pack("<d", time.time()) + fields
        length = struct.pack("<Q", len(data))
        self._file.write(length + _checksum(length) + data + _checksum(data))


def _sized(data: bytes) -> bytes:
    return _varint(len(data)) + data


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last have the eighth set."""
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(number & 0x7F)
    return bytes(group | 0x80 for group in groups[:-1]) + bytes(groups[-1:])


def _checksum(data: bytes) -> bytes:
    """The masked CRC-32C of TensorFlow's record format."""
    crc = crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)
