"""Encoded bytes become uint8 RGB arrays of the size the model sees; NumPy and Pillow only.

Decoding is strict: what is not a whole, sane JPEG, PNG or WEBP raises ImageError with a reason.
"""

from __future__ import annotations

import io
from collections.abc import Hashable

import numpy as np
from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 50_000_000
MIN_SIDE = 4  # pixels; smaller images are the placeholders of removed photos
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

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


class ImageError(ValueError):
    """An image that cannot be used; `reason` is one word to count by, `key` says which image.

    Reasons: "empty", "not-an-image", "format", "too-large", "too-small", "truncated", "broken".
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
    images their high byte, transparent pixels turn white.

    Raises:
        ImageError: for every image that is not whole and sane.
    """
    if not data:
        raise ImageError("empty", key, "it has no bytes")
    try:
        image = _open(data, key)
        image.load()
        return np.array(_to_rgb(_upright(image)))
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
    return image.convert("RGB")


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
    top, left = rng.integers(0, 2 * pad + 1, 2) - pad
    flipped = rng.random() < flip
    (rows_in, rows_out), (columns_in, columns_out) = (
        _overlap(int(offset), length)
        for offset, length in zip((top, left), image.shape, strict=False)
    )
    view = np.zeros_like(image)
    view[rows_out, columns_out] = image[rows_in, columns_in]
    return np.ascontiguousarray(view[:, ::-1]) if flipped else view


def _overlap(offset: int, length: int) -> tuple[slice, slice]:
    """Where a window of this length, moved by offset, meets the image: source and target rows."""
    moved = min(abs(offset), length)
    inner, outer = slice(moved, length), slice(0, length - moved)
    return (inner, outer) if offset >= 0 else (outer, inner)


def evaluation_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The official test view: uint8 (h, w, 3) resized to (H, W) by the bilinear filter."""
    return resize(image, size, "bilinear")
