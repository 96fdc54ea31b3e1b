"""A picture that shows the benchmark: pedestrians with a caption each, and scenes."""

import io

from PIL import Image, ImageDraw

from ivt_jax.data.synthetic.drawing import HEIGHT, RGB, WIDTH, font
from ivt_jax.data.synthetic.records import people_records, scene_records

_PAPER: RGB = (252, 252, 250)
_INK: RGB = (46, 50, 60)
_FAINT: RGB = (122, 128, 140)
_SHEET_WIDTH, _MARGIN, _GAP, _COLUMNS = 1600, 48, 8, 5


def contact_sheet(*, seed: int = 0, rows: int = 2, scenes: int = 13) -> Image.Image:
    """An RGB sheet 1600 pixels wide: `rows` rows of five test identities, and a row of scenes.

    The images of an identity stand side by side, with one of their captions below.
    """
    photos = 3 * WIDTH + 2 * _GAP
    column = (_SHEET_WIDTH - 2 * _MARGIN - photos) // (_COLUMNS - 1)
    block = HEIGHT + 118
    height = _MARGIN + rows * (block + 34) + HEIGHT + 150
    sheet = Image.new("RGB", (_SHEET_WIDTH, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    people = _several_images(seed, _COLUMNS * rows)
    for k, images in enumerate(people):
        x = _MARGIN + k % _COLUMNS * column
        y = _MARGIN + k // _COLUMNS * (block + 34)
        if k % _COLUMNS == 0:
            title = "Pedestrians: images of one identity and one caption" if k == 0 else ""
            draw.text((x, y - 18), title, fill=_INK, font=font(20), anchor="lm")
        for i, record in enumerate(images[:3]):
            _paste(sheet, record["image"], x + i * (WIDTH + _GAP), y + 6)
        _write(draw, images[0]["captions"][0], (x, y + HEIGHT + 16), photos + 30)
    top = _MARGIN + rows * (block + 34)
    draw.text((_MARGIN, top - 18), "Scenes for pretraining", fill=_INK, font=font(20), anchor="lm")
    records = scene_records("val", seed=seed)
    step = (_SHEET_WIDTH - 2 * _MARGIN - WIDTH) / max(1, scenes - 1)
    for i in range(scenes):
        record, x = records[i], round(_MARGIN + i * step)
        _paste(sheet, record["image"], x, top + 6)
        _write(draw, record["captions"][0], (x, top + HEIGHT + 14), WIDTH + 26, size=11, lines=7)
    return sheet


def _several_images(seed: int, count: int) -> list[list[dict]]:
    """The records of the first test identities that have at least three images."""
    records = people_records("test", seed=seed)
    found: dict[int, list[int]] = {}
    for i in range(len(records)):
        found.setdefault(records.describe(i)["identity"], []).append(i)
    chosen = [places for places in found.values() if len(places) >= 3][:count]
    return [[records[i] for i in places[:3]] for places in chosen]


def _paste(sheet: Image.Image, encoded: bytes, x: int, y: int) -> None:
    mask = Image.new("L", (WIDTH * 3, HEIGHT * 3))
    corners = [0, 0, WIDTH * 3 - 1, HEIGHT * 3 - 1]
    ImageDraw.Draw(mask).rounded_rectangle(corners, radius=18, fill=255)
    sheet.paste(Image.open(io.BytesIO(encoded)), (x, y), mask.reduce(3))


def _write(
    draw: ImageDraw.ImageDraw,
    caption: str,
    corner: tuple[int, int],
    width: int,
    *,
    size: int = 14,
    lines: int = 6,
) -> None:
    """The caption wrapped to a width in pixels; what does not fit ends in an ellipsis."""
    wrapped, letters = [""], font(size)
    for word in caption.split():
        longer = f"{wrapped[-1]} {word}".strip()
        if draw.textlength(longer, font=letters) <= width:
            wrapped[-1] = longer
        else:
            wrapped.append(word)
    if len(wrapped) > lines:
        wrapped = [*wrapped[: lines - 1], f"{wrapped[lines - 1]} …"]
    for i, line in enumerate(wrapped):
        at = (corner[0], corner[1] + i * (size + 4))
        draw.text(at, line, fill=_FAINT, font=letters)
