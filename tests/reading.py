"""Small photos as sources hold them, and what the readers of sources make of a split."""

import io
from pathlib import Path

from PIL import Image

from ivt_jax.data.builders import ingest


def photo(number: int, kind: str = "JPEG") -> bytes:
    """An encoded image of 8 x 16 pixels in a colour of its own."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 16), (number * 37 % 256, number % 256, 0)).save(stream, kind)
    return stream.getvalue()


def write(path: Path, data: bytes) -> None:
    """Writes a file and the folders that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def results(split) -> tuple[list[dict], list[tuple[str, str]]]:
    """The good records in order, and the faults as (key, reason)."""
    found = [ingest.check(split.load, item) for item in split.items]
    faults = [(key, reason) for result in found for key, reason, _ in result.faults]
    return [result.record for result in found if result.record], faults


def checked(split) -> tuple[dict[str, dict], list[tuple[str, str]]]:
    """`results` with the good records by their key."""
    found, faults = results(split)
    return {record["key"]: record for record in found}, faults
