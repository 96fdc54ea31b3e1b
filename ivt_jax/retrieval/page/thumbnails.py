"""Photos of a gallery by their row: reduced, upright, without metadata, kept in memory."""

import io
import os
import threading
from collections import OrderedDict

from PIL import Image

from ivt_jax.data.images import ImageError, decode
from ivt_jax.retrieval.gallery import Gallery
from ivt_jax.retrieval.photos import File, inside, scan

SIDES = {"small": 360, "large": 1280}  # longest side in pixels
CACHE_BYTES = 64 * 2**20
DECODED_AT_ONCE = 2  # a photo of 50 megapixels takes 300 MB


class Thumbnails:
    """Makes the pictures of one gallery that the page shows; safe from threads."""

    def __init__(self, gallery: Gallery, *, cache_bytes: int = CACHE_BYTES):
        self.gallery = gallery
        self._limit, self._bytes = cache_bytes, 0
        self._cache: OrderedDict[tuple, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._decoding = threading.Semaphore(DECODED_AT_ONCE)

    def image(self, row: int) -> Image.Image:
        """The whole photo, upright.

        Raises ImageError: the file is gone, damaged, larger than 50 megapixels, or lies (by way of
        a link) outside the gallery's folder.
        """
        with self._decoding:
            return Image.fromarray(decode(self.gallery.read(row), key=self.gallery.paths[row]))

    def jpeg(self, row: int, size: str) -> bytes:
        """The photo as JPEG of at most SIDES[size] pixels a side; raises ImageError as `image`."""
        path = self.gallery.paths[row]
        try:
            facts = inside(self.gallery.root, path).stat()
        except OSError as error:
            raise ImageError("unreadable", path, str(error.strerror)) from error
        key = (row, size, facts.st_mtime_ns, facts.st_size)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        image = self.image(row)
        image.thumbnail((SIDES[size], SIDES[size]), reducing_gap=2.0)
        out = io.BytesIO()
        image.save(out, "JPEG", quality=88)
        self._keep(key, out.getvalue())
        return out.getvalue()

    def _keep(self, key: tuple, made: bytes) -> None:
        with self._lock:
            self._bytes += len(made) - len(self._cache.pop(key, b""))
            self._cache[key] = made
            while self._bytes > self._limit:
                _, old = self._cache.popitem(last=False)
                self._bytes -= len(old)


def aspect(gallery: Gallery, *, sample: int = 15) -> float:
    """Width over height of the middle one of some photos, read from their headers."""
    found = []
    for row in range(0, len(gallery), max(1, len(gallery) // sample)):
        try:
            with Image.open(io.BytesIO(gallery.read(row))) as image:
                found.append(image.width / image.height)
        except (ImageError, OSError, Image.DecompressionBombError):
            continue
    return sorted(found)[len(found) // 2] if found else 0.5


def differences(gallery: Gallery) -> tuple[int, int]:
    """How many photos of the gallery are gone from its folder, and how many there are new."""
    there = {one.path for one in scan(gallery.root, avoid=gallery.folder) if isinstance(one, File)}
    known = set(gallery.paths)
    skipped = {os.fspath(line["path"]) for line in gallery.skipped()}
    return len(known - there), len(there - known - skipped)
