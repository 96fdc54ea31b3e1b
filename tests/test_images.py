"""Decoding of good and bad images, and the training view against Pillow itself."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from ivt_jax.data import images


def picture(height=40, width=30, mode="RGB"):
    rows, columns = np.mgrid[:height, :width]
    stack = [rows * 255 // height, columns * 255 // width, (rows + columns) % 256]
    return Image.fromarray(np.stack(stack, -1).astype(np.uint8)).convert(mode)


def encoded(image, format="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def png_header(width, height):
    """A PNG that claims a size and holds no pixels: what a decompression bomb looks like."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


JPEG = encoded(picture(), "JPEG", quality=95)
BAD = {
    "no bytes": (b"", "empty"),
    "a web page": (b"<!DOCTYPE html><html><body>404</body></html>", "not-an-image"),
    "half a JPEG": (JPEG[: len(JPEG) // 2], "truncated"),
    "half a PNG": (encoded(picture())[:60], "truncated"),
    "a PNG without its end": (encoded(picture())[:-12], "truncated"),
    "half a WEBP": (encoded(picture(), "WEBP")[:100], "truncated"),
    "an animated GIF": (
        encoded(picture(), "GIF", save_all=True, append_images=[picture(mode="L")]),
        "format",
    ),
    "one pixel": (encoded(Image.new("RGB", (1, 1))), "too-small"),
    "a bomb": (png_header(15_000, 15_000), "too-large"),
    "just too large": (png_header(7_001, 7_200), "too-large"),
    "a damaged PNG": (encoded(picture()).replace(b"IDAT", b"IDAT\xff\xff", 1), "broken"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_images_raise_with_reason_and_key(kind):
    data, reason = BAD[kind]
    with pytest.raises(images.ImageError) as caught:
        images.decode(data, key="photo 7")
    assert caught.value.reason == reason
    assert caught.value.key == "photo 7" and "photo 7" in str(caught.value)


def test_flipped_bytes_never_escape_as_another_error():
    """Formats without checksums may still decode; nothing but ImageError may be raised."""
    rng = np.random.default_rng(0)
    outcomes = set()
    for data in (JPEG, encoded(picture()), encoded(picture(), "WEBP")):
        for _ in range(60):
            damaged = bytearray(data)
            for place in rng.integers(0, len(data), 4):
                damaged[place] ^= 0xFF
            try:
                decoded = images.decode(bytes(damaged), key=0)
                assert decoded.dtype == np.uint8 and decoded.shape[2] == 3
                outcomes.add("decoded")
            except images.ImageError as error:
                outcomes.add(error.reason)
    assert {"broken", "truncated", "decoded"} <= outcomes


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "LA", "1"])
def test_png_modes_become_rgb(mode):
    image = picture(mode=mode)
    decoded = images.decode(encoded(image), key=0)
    assert decoded.shape == (40, 30, 3) and decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, np.asarray(image.convert("RGB")))


def test_formats_equal_pillow():
    for format in ("JPEG", "PNG", "WEBP"):
        data = encoded(picture(), format)
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(images.decode(data, key=0), expected)


def test_cmyk_becomes_rgb():
    decoded = images.decode(encoded(picture(mode="CMYK"), "JPEG", quality=98), key=0)
    assert np.abs(decoded.astype(int) - np.asarray(picture())).mean() < 8


def test_sixteen_bit_gives_the_high_byte():
    values = (np.arange(40 * 30).reshape(40, 30) * 50).astype(np.uint16)
    decoded = images.decode(encoded(Image.fromarray(values)), key=0)
    np.testing.assert_array_equal(decoded, np.repeat((values >> 8)[..., None], 3, -1))


def test_transparency_turns_white():
    image = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    assert (images.decode(encoded(image), key=0) == 255).all()


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_animations_give_their_first_frame(format):
    frames = [Image.new("RGB", (16, 12), colour) for colour in ("red", "blue")]
    options = {"save_all": True, "append_images": frames[1:]}
    data = encoded(frames[0], format, **options, **({"lossless": True} if format == "WEBP" else {}))
    assert Image.open(io.BytesIO(data)).n_frames == 2  # type: ignore[attr-defined]
    assert (images.decode(data, key=0) == (255, 0, 0)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(), "JPEG", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(images.decode(data, key=0), np.asarray(upright))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_broken_exif_block_is_no_reason_to_refuse():
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert images.decode(data, key=0).shape == (40, 30, 3)


@pytest.mark.parametrize("filter", images.FILTERS)
def test_resize_equals_pillow(filter):
    image = np.asarray(picture(50, 70))
    expected = picture(50, 70).resize((16, 48), getattr(Image.Resampling, filter.upper()))
    np.testing.assert_array_equal(images.resize(image, (48, 16), filter), np.asarray(expected))
    assert images.resize(image, (50, 70), filter) is image
    with pytest.raises(ValueError, match="filter"):
        images.resize(image, (48, 16), "nearest")


def fitted(data, *, mode, size=(24, 16), resize_filter="bicubic"):
    return images.decode_resized(data, size=size, resize_filter=resize_filter, mode=mode, key=7)


@pytest.mark.parametrize("size", [(24, 16), (90, 30), (40, 30)])
def test_exact_is_decode_then_resize(size):
    for data in (JPEG, encoded(picture(mode="LA")), encoded(picture(mode="CMYK"), "JPEG")):
        expected = images.resize(images.decode(data, key=0), size, "bicubic")
        np.testing.assert_array_equal(fitted(data, mode="exact", size=size), expected)


@pytest.mark.parametrize("options", [{"subsampling": n} for n in range(3)] + [{"progressive": 1}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_scaled_is_exact_for_jpegs_too_small_to_reduce(mode, options):
    pytest.importorskip("simplejpeg")
    data = encoded(picture(41, 31, mode), "JPEG", **options)
    for size in ((41, 31), (48, 32)):
        exact = fitted(data, mode="exact", size=size)
        np.testing.assert_array_equal(fitted(data, mode="scaled", size=size), exact)


@pytest.mark.parametrize("shape", [(375, 500), (480, 640), (500, 375), (100, 200), (1200, 900)])
def test_scaled_stays_near_exact(shape):
    """On a smooth photo; the reference is Pillow's antialiased resize of all pixels."""
    pytest.importorskip("cv2")
    noise = np.random.default_rng(1).integers(0, 256, (12, 12, 3), np.uint8)
    photo = Image.fromarray(noise).resize(shape[::-1], Image.Resampling.BICUBIC)
    data = encoded(photo, "JPEG", quality=90)
    exact, scaled = (fitted(data, mode=m, size=(96, 32)).astype(float) for m in ("exact", "scaled"))
    assert scaled.shape == exact.shape and not np.array_equal(scaled, exact)
    assert 10 * np.log10(255**2 / np.square(scaled - exact).mean()) > 32


def test_the_reduction_leaves_enough_pixels():
    assert images._reduction(375, 500, (384, 128)) == 2
    assert images._reduction(246, 90, (384, 128)) == 1
    assert images._reduction(3000, 4000, (384, 128)) == 8
    assert images._reduction(1519, 100, (96, 32)) == 4  # by 8, 13 columns would be left
    assert images._reduction(500, 200, (384, 128)) == 1


@pytest.mark.parametrize("orientation", [1, 6])
def test_scaled_obeys_exif_orientation(orientation):
    pytest.importorskip("cv2")
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(200, 300), "JPEG", exif=exif)
    # Another block may come first, and may hold what looks like the start of the pixels.
    block = b"ICC_PROFILE\0" + b"\xff\xda" * 10
    behind = data[:2] + b"\xff\xe2" + (len(block) + 2).to_bytes(2, "big") + block + data[2:]
    for encoding in (data, behind):
        exact, scaled = (fitted(encoding, mode=m).astype(int) for m in ("exact", "scaled"))
        assert np.abs(exact - scaled).mean() < 4


@pytest.mark.parametrize("kind", BAD)
def test_scaled_refuses_what_exact_refuses(kind):
    pytest.importorskip("simplejpeg")
    data, reason = BAD[kind]
    with pytest.raises(images.ImageError) as caught:
        fitted(data, mode="scaled")
    assert caught.value.reason == reason and caught.value.key == 7


def test_damage_that_pillow_hides():
    """Two bytes changed within the pixel data: Pillow goes on, libjpeg's warning tells."""
    pytest.importorskip("simplejpeg")
    data = bytearray(encoded(picture(200, 300), "JPEG", quality=95))
    data[len(data) // 2 : len(data) // 2 + 2] = b"\xff\xd5"
    assert images.decode(bytes(data), key=0).shape == (200, 300, 3)
    assert "Corrupt JPEG data" in str(images.damaged(bytes(data)))
    with pytest.raises(images.ImageError, match="broken"):
        fitted(bytes(data), mode="scaled")
    whole = [JPEG, encoded(picture(mode="CMYK"), "JPEG"), encoded(picture()), b"", b"\xff\xd8\xff"]
    assert [images.damaged(data) for data in whole] == [None] * 5


def test_a_photo_with_more_pictures_behind_it_is_a_jpeg():
    second = Image.new("RGB", (30, 40), "red")
    data = encoded(picture(), "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    first = np.asarray(picture()).astype(int)
    assert np.abs(images.decode(data, key=0) - first).mean() < 8


def view(image, rng, *, pad=3, flip=0.0, size=(24, 12), resize_filter="bicubic"):
    return images.augment(
        image, size=size, resize_filter=resize_filter, pad=pad, flip=flip, rng=rng
    )


def test_without_pad_and_flip_augment_is_resize():
    image = np.asarray(picture())
    expected = picture().resize((12, 24), Image.Resampling.BICUBIC)
    result = view(image, np.random.default_rng(0), pad=0)
    np.testing.assert_array_equal(result, np.asarray(expected))
    bilinear = images.evaluation_image(image, (24, 12))
    np.testing.assert_array_equal(
        bilinear, np.asarray(picture().resize((12, 24), Image.Resampling.BILINEAR))
    )
    always = view(image, np.random.default_rng(0), pad=0, flip=1.0)
    np.testing.assert_array_equal(always, np.asarray(expected)[:, ::-1])


def test_crops_are_all_windows_of_the_padded_image():
    image = np.asarray(picture(24, 12)) // 2 + 100  # no black of its own
    padded = np.pad(image, ((3, 3), (3, 3), (0, 0)))
    windows = {padded[y : y + 24, x : x + 12].tobytes(): (y, x) for y in range(7) for x in range(7)}
    rng = np.random.default_rng(0)
    seen = [windows[view(image, rng).tobytes()] for _ in range(1500)]
    counts = np.zeros((7, 7))
    for offset in seen:
        counts[offset] += 1
    assert (counts > 0).all()
    np.testing.assert_allclose(counts.sum(0) / 1500, 1 / 7, atol=0.04)
    np.testing.assert_allclose(counts.sum(1) / 1500, 1 / 7, atol=0.04)


def test_a_pad_larger_than_the_image_is_possible():
    image = np.full((4, 4, 3), 9, np.uint8)
    rng = np.random.default_rng(0)
    sums = {int(view(image, rng, pad=6, size=(4, 4)).sum()) for _ in range(300)}
    assert 0 in sums and 4 * 4 * 3 * 9 in sums


def test_flips_come_at_their_rate_and_views_repeat_from_a_seed():
    image = np.asarray(picture(24, 12))
    rng = np.random.default_rng(1)
    flipped = [(view(image, rng, pad=0, flip=0.3) != image).any() for _ in range(2000)]
    assert abs(np.mean(flipped) - 0.3) < 0.04
    one, two = (view(image, np.random.default_rng(5), flip=0.5) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert one.flags["C_CONTIGUOUS"] and one.dtype == np.uint8
