"""Encoded bytes become uint8 RGB arrays of the size the model sees.

Decoding is strict: what is not a whole, sane JPEG, PNG or WEBP raises ImageError with a reason.
"exact" needs Pillow alone; "scaled" and damaged() need the extra `fast` (simplejpeg, OpenCV).
"""

from __future__ import annotations

import functools
import importlib.util
import io
from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "MPO", "PNG", "WEBP")  # MPO: a JPEG with more pictures behind it
MAX_PIXELS = 50_000_000
MIN_SIDE = 4  # pixels; smaller images are the placeholders of removed photos
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
ENOUGH = 0.9  # of the target's number of pixels; "scaled" never reduces to fewer

_JPEG_START = b"\xff\xd8\xff"
_END_MISSING = "Premature end of JPEG file"
_APPLICATION, _SCAN = b"\xe1", b"\xda"  # segments of a JPEG: one that may be EXIF, the pixels
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {  # EXIF orientation -> what makes it upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class View(NamedTuple):
    """Which pixels of a resized image a sample shows: moved by (top, left) pixels, mirrored."""

    top: int
    left: int
    flipped: bool


class ImageError(ValueError):
    """An image that cannot be used; `reason` is one word to count by, `key` says which image.

    Reasons: "empty", "not-an-image", "format", "too-large", "too-small", "truncated", "broken",
    and "damaged" for a record that cannot be read at all.
    """

    def __init__(self, reason: str, key: Hashable, detail: str = ""):
        """Builds the sentence from the reason, the image's key and what was found."""
        super().__init__(reason, key, detail)
        self.reason, self.key, self.detail = reason, key, detail

    def __str__(self) -> str:
        """One sentence."""
        return f"image {self.key} is unusable ({self.reason}): {self.detail}"


def decode(data: bytes, *, key: Hashable) -> np.ndarray:
    """Decodes a JPEG, PNG or WEBP to uint8 RGB (H, W, 3), upright by its EXIF orientation.

    The size is checked before the pixels are decoded. Animations give their first frame, 16-bit
    images their high byte, CMYK is converted, transparent pixels turn white.

    Raises:
        ImageError: for every image that is not whole and sane. Pillow does not notice bytes
            changed within the pixel data of a JPEG; `damaged` does.
    """
    return np.array(_decode(data, key))


def decode_resized(
    data: bytes, *, size: tuple[int, int], resize_filter: str, mode: str, key: Hashable
) -> np.ndarray:
    """Decodes and resizes an image to uint8 RGB (H, W, 3).

    Args:
        data: as for `decode`.
        size: (H, W) of the result.
        resize_filter: a key of FILTERS.
        mode: "exact": equal to `decode` and `resize` | "scaled": a JPEG that stays large enough
            (ENOUGH) is reduced by 2, 4 or 8 while it is decoded and then resized by the bilinear
            filter, which is about three times as fast and changes pixels; any other image is
            exact. A JPEG with damaged pixel data raises in this mode.
        key: of the image, for messages.

    Raises:
        ImageError: as `decode`.
    """
    if mode == "scaled":
        image = _jpeg(data, size, key)
        if image is not None:
            return image if image.shape[:2] == size else resize(image, size, resize_filter)
    image = _decode(data, key)
    height, width = size
    if image.size != (width, height):
        image = image.resize((width, height), FILTERS[resize_filter])
    return np.asarray(image)


def damaged(data: bytes) -> str | None:
    """What libjpeg has to complain of in a JPEG, also where it can go on; None if nothing.

    Pillow hides these warnings: pixels are then grey or shifted. Needs the extra `fast`; without
    it, and for other formats, the answer is None.
    """
    if data[:3] != _JPEG_START or importlib.util.find_spec("simplejpeg") is None:
        return None
    simplejpeg = _fast("simplejpeg")
    try:
        simplejpeg.decode_jpeg_header(data)
    except ValueError:  # of no kind that it knows
        return None
    try:
        simplejpeg.decode_jpeg(data, colorspace="GRAY", strict=True)
    except ValueError as error:
        return str(error)
    return None


def _jpeg(data: bytes, size: tuple[int, int], key: Hashable) -> np.ndarray | None:
    """Decodes an upright RGB or grey JPEG, reduced and of `size`, or whole; None for others."""
    if data[:3] != _JPEG_START:
        return None
    simplejpeg = _fast("simplejpeg")
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    sane = min(height, width) >= MIN_SIDE and height * width <= MAX_PIXELS
    turned = _has_exif(data) and _upright(image := _open(data, key)) is not image
    if not sane or turned or colour not in ("YCbCr", "Gray", "RGB"):
        return None
    factor = _reduction(height, width, size)
    least = {"min_height": -(-height // factor), "min_width": -(-width // factor)}
    try:
        image = simplejpeg.decode_jpeg(
            data, colorspace="RGB", strict=True, min_factor=factor, **least
        )
    except ValueError as error:
        reason = "truncated" if _END_MISSING in str(error) else "broken"
        raise ImageError(reason, key, str(error)) from error
    return image if factor == 1 else _bilinear(image, size)


def _has_exif(data: bytes) -> bool:
    """Whether a JPEG has an EXIF block, or a header that is too odd to tell."""
    start = 2
    while data[start : start + 1] == b"\xff":
        kind = data[start + 1 : start + 2]
        if kind == _SCAN:
            return False
        if kind == _APPLICATION and data[start + 4 : start + 9] == b"Exif\0":
            return True
        start += 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    return True


def _reduction(height: int, width: int, size: tuple[int, int]) -> int:
    """The largest of 8, 4, 2 and 1 that leaves ENOUGH pixels, and on each side half as many."""

    def enough(factor: int) -> bool:
        rows, columns = -(-height // factor), -(-width // factor)
        sides = min(rows / size[0], columns / size[1])
        return rows * columns >= ENOUGH * size[0] * size[1] and sides >= ENOUGH / 2

    return next((factor for factor in (8, 4, 2) if enough(factor)), 1)


def _bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    cv2 = _fast("cv2")
    height, width = size
    # Two taps are enough to halve a side; a side that shrinks more is averaged first.
    few_rows = height if image.shape[0] > 2 * height else image.shape[0]
    few_columns = width if image.shape[1] > 2 * width else image.shape[1]
    if (few_rows, few_columns) != image.shape[:2]:
        image = cv2.resize(image, (few_columns, few_rows), interpolation=cv2.INTER_AREA)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


@functools.cache
def _fast(name: str):
    """A package of the extra `fast`; OpenCV without its own threads, as readers have theirs."""
    package = importlib.import_module(name)
    if name == "cv2":
        package.setNumThreads(0)
    return package


def _decode(data: bytes, key: Hashable) -> Image.Image:
    if not data:
        raise ImageError("empty", key, "it has no bytes")
    try:
        image = _open(data, key)
        image.load()
        return _to_rgb(_upright(image))
    except ImageError:
        raise
    # Pillow's decoders raise a dozen unrelated types on hostile input.
    except Exception as error:
        short = "truncated" in str(error).lower() or isinstance(error, EOFError)
        reason = "truncated" if short or _is_cut(data) else "broken"
        raise ImageError(reason, key, f"{type(error).__name__}: {error}") from error


def _open(data: bytes, key: Hashable) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        detail = f"its first bytes are {data[:12]!r}"
        raise ImageError("not-an-image", key, detail) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("too-large", key, str(error)) from error
    width, height = image.size
    if image.format not in FORMATS:
        raise ImageError("format", key, f"{image.format} is none of {', '.join(FORMATS)}")
    # Pillow takes a PNG that stops after its last pixel.
    if image.format == "PNG" and _is_cut(data):
        raise ImageError("truncated", key, "its end is missing")
    if width * height > MAX_PIXELS:
        detail = f"{width} x {height} pixels are more than {MAX_PIXELS:,}"
        raise ImageError("too-large", key, detail)
    if min(width, height) < MIN_SIDE:
        detail = f"{width} x {height} pixels; a side needs at least {MIN_SIDE}"
        raise ImageError("too-small", key, detail)
    return image


def _is_cut(data: bytes) -> bool:
    """Whether a PNG has lost its end chunk or a WEBP is shorter than its header says."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    return data[:4] == b"\x89PNG" and data.rfind(b"IEND") < 0


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        pixels = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(ground, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # convert copies in any case


def resize(image: np.ndarray, size: tuple[int, int], filter: str) -> np.ndarray:
    """Resizes all of a uint8 (h, w, 3) image to (H, W), ignoring the aspect, with antialiasing.

    `filter` is a key of FILTERS. An image of that size is returned as it is.
    """
    if filter not in FILTERS:
        raise ValueError(f"the resize filter is {filter!r}; choose one of {tuple(FILTERS)}")
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    return np.array(Image.fromarray(image).resize((width, height), FILTERS[filter]))


def augment(
    image: np.ndarray,
    *,
    size: tuple[int, int],
    resize_filter: str,
    pad: int,
    flip: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """The official training view: resize, pad with black, random crop, random horizontal flip.

    Args:
        image: uint8 (h, w, 3).
        size: (H, W) of the result.
        resize_filter: "bicubic" (official) | "bilinear".
        pad: black pixels on each side before the crop.
        flip: probability of the flip.
        rng: the only source of randomness; the number of draws never changes.

    Returns:
        uint8 (H, W, 3), contiguous.
    """
    return crop_and_flip(resize(image, size, resize_filter), pad=pad, flip=flip, rng=rng)


def crop_and_flip(
    image: np.ndarray, *, pad: int, flip: float, rng: np.random.Generator
) -> np.ndarray:
    """The random part of `augment`: a new view of a resized uint8 (H, W, 3) image, as large."""
    view = np.empty_like(image)
    write_view(image, draw_view(pad=pad, flip=flip, rng=rng), view)
    return view


def draw_view(*, pad: int, flip: float, rng: np.random.Generator) -> View:
    """A random crop of a padded image and a random flip; `augment` has the arguments."""
    return drawn_views(rng.random((1, 3)), pad=pad, flip=flip)[0]


def drawn_views(chances: np.ndarray, *, pad: int, flip: float) -> list[View]:
    """The views that numbers in [0, 1) stand for, float64 (n, 3): for top, left and the flip."""
    moved = (chances[:, :2] * (2 * pad + 1)).astype(int) - pad  # (n, 2)
    flipped = chances[:, 2] < flip
    return [View(*view) for view in zip(*moved.T.tolist(), flipped.tolist(), strict=True)]


def write_view(image: np.ndarray, view: View, out: np.ndarray) -> None:
    """Writes a view of a uint8 (H, W, 3) image into `out`, as large; the rest of it turns black."""
    (rows_in, rows), (columns_in, columns) = (
        _overlap(offset, length)
        for offset, length in zip((view.top, view.left), image.shape, strict=False)
    )
    target = out[:, ::-1] if view.flipped else out
    target[: rows.start] = target[rows.stop :] = 0
    target[:, : columns.start] = target[:, columns.stop :] = 0
    if view.flipped:
        for channel in range(image.shape[2]):  # one by one: 4 x as fast
            target[rows, columns, channel] = image[rows_in, columns_in, channel]
    else:
        target[rows, columns] = image[rows_in, columns_in]


def _overlap(offset: int, length: int) -> tuple[slice, slice]:
    """Where a window of this length, moved by offset, meets the image: source and target rows."""
    moved = min(abs(offset), length)
    inner, outer = slice(moved, length), slice(0, length - moved)
    return (inner, outer) if offset >= 0 else (outer, inner)


def evaluation_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The official test view: uint8 (h, w, 3) resized to (H, W) by the bilinear filter."""
    return resize(image, size, "bilinear")
