"""What happens to each kind of bad input, from the file to the report: the exact words.

A person wants a photo that any viewer shows to be used, and to be told of every other one. So
CMYK, 16-bit, turned and animated images are decoded properly; the rest is left out by name.
"""

import io

import numpy as np
import pytest
from PIL import Image
from test_images import encoded, picture, png_header

from ivt_jax.data import images
from ivt_jax.data.builders.ingest import check

JPEG = encoded(picture(), "JPEG", quality=95)
TURNED = Image.Exif()
TURNED[0x0112] = 6  # a camera held upright: its rows are the photo's columns
DEEP = Image.fromarray((np.arange(1200).reshape(40, 30) * 50).astype(np.uint16))

# kind -> (bytes, reason, detail)
REFUSED = {
    "truncated": (
        JPEG[: len(JPEG) // 2],
        "truncated",
        "OSError: ",  # and Pillow's own words
    ),
    "empty": (b"", "empty", "it has no bytes"),
    "HTML as JPEG": (
        b"<!DOCTYPE html><html>not found</html>",
        "not-an-image",
        "its first bytes are b'<!DOCTYPE ht'",
    ),
    "1 x 1": (
        encoded(Image.new("RGB", (1, 1))),
        "too-small",
        "1 x 1 pixels; a side needs at least 4",
    ),
    "bomb": (
        png_header(7_072, 7_072),
        "too-large",
        "7072 x 7072 pixels are more than 50,000,000",
    ),
    "animated GIF": (
        encoded(picture(), "GIF", save_all=True, append_images=[picture(mode="L")]),
        "format",
        "GIF is none of JPEG, MPO, PNG, WEBP",
    ),
}
# kind -> (bytes, (height, width) as a viewer shows it)
DECODED = {
    "CMYK": (encoded(picture(mode="CMYK"), "JPEG"), (40, 30)),
    "16-bit": (encoded(DEEP), (40, 30)),
    "animated": (
        encoded(picture(), "WEBP", save_all=True, append_images=[picture(mode="L")]),
        (40, 30),
    ),
    "EXIF-rotated": (encoded(picture(), "JPEG", exif=TURNED), (30, 40)),
}


def found(**changes):
    record = {"image": JPEG, "captions": ["a man"], "identity": 3, "source": "x", "key": "a/b.jpg"}
    return check(lambda item: item, record | changes)


@pytest.mark.parametrize("kind", REFUSED)
def test_unusable_images_are_left_out_by_name(kind):
    data, reason, detail = REFUSED[kind]
    record, ((key, told, sentence),) = found(image=data)
    assert (record, key, told) == (None, "a/b.jpg", reason)
    assert sentence == detail or (kind == "truncated" and sentence.startswith(detail))


@pytest.mark.parametrize("kind", DECODED)
def test_unusual_images_are_used(kind):
    data, shape = DECODED[kind]
    record, faults = found(image=data)
    assert faults == [] and record is not None and record["image"] == data
    assert images.decode(data, key=0).shape == (*shape, 3)


def test_bombs_are_refused_before_a_pixel_is_decoded(monkeypatch):
    def loaded(*_):
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", loaded)
    assert found(image=REFUSED["bomb"][0]).faults[0][1] == "too-large"
    with pytest.raises(images.ImageError, match="pixels were decoded"):
        images.decode(encoded(picture()), key=0)


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("", "empty-caption"),
        (" \t\n", "empty-caption"),
        (b"\xff\xfe a man".decode("utf-8", "surrogateescape"), "invalid-caption"),
        ("a \0 man", "invalid-caption"),
        (None, "invalid-caption"),
        (7, "invalid-caption"),
    ],
)
def test_unusable_captions_are_left_out_by_name(caption, reason):
    record, faults = found(captions=["a man", caption])
    assert record is not None and record["captions"] == ["a man"]
    assert faults == [("a/b.jpg", reason, f"caption 1 is {caption!r}")]
    assert found(captions=[caption]).faults[-1] == ("a/b.jpg", "no-caption", "no caption is left")


def test_a_caption_of_4000_characters_is_kept_whole():
    """It is cut at data.text_length tokens, and counted, only when it is read for training."""
    caption = "red coat, " * 400
    record, faults = found(captions=[caption])
    assert len(caption) == 4000 and faults == []
    assert record is not None and record["captions"] == [caption.strip()]


def test_a_missing_file_is_left_out_by_name(tmp_path):
    def load(item):
        return {"image": (tmp_path / item["key"]).read_bytes()}

    assert check(load, {"key": "no.jpg"}).faults[0][:2] == ("no.jpg", "missing-file")


def test_bytes_behind_an_image_are_harmless():
    stream = io.BytesIO(JPEG + b"\0" * 100)
    assert images.decode(stream.getvalue(), key=0).shape == (40, 30, 3)
