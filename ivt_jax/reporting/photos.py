"""The sheets of photos: ranking strips, heat maps of sentences, and where each word is seen."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ivt_jax.reporting.sheet import MARGIN, SMALL, WIDTH, begin, end, paragraph
from ivt_jax.retrieval.canvas import Canvas
from ivt_jax.retrieval.figures import StripRow, draw_results

TOP = 10  # photos of a ranking
WORDS = 8  # maps in a row
_GAP = 6
_FRAMES = {True: 5.0, False: 2.0, None: 2.0}  # width: another sign of a right photo
# Warm colours over a pale grey photo, darker with the heat, so that brightness alone tells it.
_HEAT = np.array([[255, 205, 90], [228, 88, 30], [96, 8, 84]], float)


@dataclass(frozen=True)
class Ranking:
    """One query: a row for each run, and the rank of the first right photo there, 0 = nowhere."""

    rows: list[StripRow]
    first: list[int]


@dataclass(frozen=True)
class Heat:
    """A photo, its caption, and a map (R, C) with the name of each run."""

    image: Image.Image
    caption: str
    maps: list[tuple[str, np.ndarray]]


@dataclass(frozen=True)
class WordHeat:
    """A photo, its caption, some words with their maps (R, C), and what they add to the score."""

    image: Image.Image
    caption: str
    score: float
    words: list[tuple[str, np.ndarray, float]]


def ranking_sheet(rankings: Sequence[Ranking], *, title: str, note: str) -> Canvas:
    """Queries with the true photo first, then the best TOP photos of every run."""
    canvas, y = begin(title)
    width = (WIDTH - 2 * MARGIN - 18 - TOP * _GAP) // (TOP + 1)
    size = (width, round(2.4 * width))
    left = MARGIN + width + 18 + _GAP
    for ranking in rankings:
        y = paragraph(canvas, (MARGIN, y), ranking.rows[0].caption, WIDTH - 2 * MARGIN, lines=4) + 6
        for number, (row, first) in enumerate(zip(ranking.rows, ranking.first, strict=True)):
            words = f"first right photo at rank {first:,}" if first else "no right photo"
            label = f"{row.label}: {words}" if row.label else words
            canvas.text((left, y), label, SMALL, "muted")
            if number == 0:
                canvas.text((MARGIN, y), "true photo", SMALL, "muted")
                if row.query_image is not None:
                    canvas.photo(row.query_image, (MARGIN, y + 17), size)
            draw_results(
                canvas,
                row.results[:TOP],
                (left, y + 17),
                size=size,
                gap=_GAP,
                frame=_FRAMES,
                letters=SMALL,
                decimals=2,
            )
            y += 17 + size[1] + 28
        y += 10
    return end(canvas, y - 4, note)


def heat_sheet(heats: Sequence[Heat], *, title: str, note: str) -> Canvas:
    """Two pairs a row: the photo, the map of each run over it, and the sentence beside them."""
    canvas, top = begin(title)
    half, size = (WIDTH - 2 * MARGIN - 20) / 2, (58, 139)
    for number, heat in enumerate(heats):
        x = MARGIN + number % 2 * (half + 20)
        y = top + number // 2 * (size[1] + 38)
        canvas.text((x, y), "photo", SMALL, "muted")
        canvas.photo(heat.image, (x, y + 17), size)
        for name, values in heat.maps:
            x += size[0] + _GAP
            canvas.text((x, y), _cut(canvas, name, size[0]), SMALL, "muted")
            canvas.photo(warmed(heat.image, values, most=float(values.max())), (x, y + 17), size)
        x += size[0] + 10
        room = MARGIN + number % 2 * (half + 20) + half - x
        paragraph(canvas, (x, y + 17), heat.caption, room, size=SMALL, lines=9)
    rows = -(-len(heats) // 2)
    y = _scale(canvas, top + rows * (size[1] + 38), "the warmest patch of each map")
    return end(canvas, y, note)


def word_sheet(heats: Sequence[WordHeat], *, title: str, note: str) -> Canvas:
    """A pair a row: the sentence, the photo, and the map of each word over it."""
    canvas, y = begin(title)
    width = (WIDTH - 2 * MARGIN - WORDS * 8) // (WORDS + 1)
    size = (width, round(2.4 * width))
    for heat in heats:
        y = paragraph(canvas, (MARGIN, y), heat.caption, WIDTH - 2 * MARGIN, lines=4) + 6
        canvas.photo(heat.image, (MARGIN, y), size)
        canvas.text((MARGIN, y + size[1] + 6), "score", SMALL, "ink")
        canvas.text((MARGIN, y + size[1] + 20), f"{heat.score:.3f}", SMALL, "muted")
        most = max((float(values.max()) for _, values, _ in heat.words), default=0.0)
        for number, (word, values, adds) in enumerate(heat.words):
            x = MARGIN + (number + 1) * (width + 8)
            canvas.photo(warmed(heat.image, values, most=most), (x, y), size)
            canvas.text((x, y + size[1] + 6), _cut(canvas, word, width + 4), SMALL, "ink")
            canvas.text((x, y + size[1] + 20), f"{adds:+.3f}", SMALL, "muted")
        y += size[1] + 50
    y = _scale(canvas, y - 6, "the warmest patch of all words of a row")
    return end(canvas, y, note)


def warmed(image: Image.Image, heat: np.ndarray, *, most: float) -> Image.Image:
    """The photo in pale grey under the map's colours, smooth between its patches.

    Args:
        image: any size.
        heat: (R, C); 0 and less is left grey.
        most: the heat with the darkest colour; 0 or less leaves all grey.
    """
    share = np.clip(heat / most, 0, 1) if most > 0 else np.zeros_like(heat)
    small = Image.fromarray(share.astype(np.float32))
    smooth = np.asarray(small.resize(image.size, Image.Resampling.BILINEAR))
    grey = 110 + 0.55 * np.asarray(image.convert("L"), float)
    return Image.fromarray(_colored(smooth, grey).round().astype(np.uint8))


def _colored(share: np.ndarray, grey) -> np.ndarray:
    """Colours (..., 3) of shares from 0 to 1 over grey values."""
    colors = np.stack([np.interp(share, [0, 0.5, 1], column) for column in _HEAT.T], axis=-1)
    opaque = 0.9 * np.sqrt(share)[..., None]
    return np.asarray(grey, float)[..., None] * np.ones(3) * (1 - opaque) + colors * opaque


def _scale(canvas: Canvas, y: float, words: str) -> float:
    """The colours from 0 to the warmest; returns where the next line begins."""
    steps, width = 60, 120
    for number, color in enumerate(_colored(np.linspace(0, 1, steps), np.full(steps, 190.0))):
        written = "#" + "".join(f"{round(value):02x}" for value in color)
        x = MARGIN + 14 + number * width / steps
        canvas.rectangle((x, y), (width / steps + 0.5, 10), written)
    canvas.text((MARGIN, y + 5), "0", SMALL, "muted", anchor="lm")
    canvas.text((MARGIN + 22 + width, y + 5), words, SMALL, "muted", anchor="lm")
    return y + 22


def _cut(canvas: Canvas, text: str, width: float) -> str:
    """The text, or as much of it as fits, with dots."""
    if canvas.text_width(text, SMALL) <= width:
        return text
    while text and canvas.text_width(f"{text}..", SMALL) > width:
        text = text[:-1]
    return f"{text}.."
