"""Pictures drawn with Pillow alone: strips of ranked photos, and line charts of a run."""

import math
import unicodedata
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from PIL import Image, ImageDraw, ImageFont, ImageOps

_SCALE = 2  # pictures are drawn this much larger and reduced, which smooths lines and shapes
_THEMES = {
    "light": {
        "background": "#ffffff",
        "panel": "#eef1f4",
        "ink": "#1c2126",
        "muted": "#626b75",
        "rule": "#dfe3e8",
        "right": "#0d9461",
        "wrong": "#d43d2a",
        "series": ("#0067a8", "#c94f00", "#00855f", "#a8447f", "#a87400", "#4a5560"),
    },
    "dark": {
        "background": "#15191e",
        "panel": "#222830",
        "ink": "#eceff2",
        "muted": "#9aa4af",
        "rule": "#2f363e",
        "right": "#2bb583",
        "wrong": "#f0604a",
        "series": ("#56b4e9", "#f08a3c", "#2fc497", "#dc8cbc", "#e6b43c", "#aab4be"),
    },
}

_FRAMES = {True: "right", False: "wrong", None: "rule"}
_LEGEND = (("another person", False), ("the person described", True))
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_Point = tuple[float, float]
_Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]


@dataclass(frozen=True)
class StripResult:
    """One ranked gallery photo: score, and whether it shows the person queried; None = unknown."""

    image: Image.Image
    score: float
    match: bool | None


@dataclass(frozen=True)
class StripRow:
    """One query and its ranking, best first.

    A row with the caption and the photo of the row above is drawn as another answer to the same
    query, for instance by a second model, which `label` names.
    """

    caption: str
    query_image: Image.Image | None
    results: list[StripResult]
    label: str = ""


def ranking_strip(
    rows: Sequence[StripRow],
    *,
    k: int = 10,
    title: str = "",
    width: int = 1600,
    theme: str = "light",
) -> Image.Image:
    """Draws captions with their best gallery photos, right and wrong ones framed and marked.

    Args:
        rows: one line of photos each; a row with fewer than k results leaves room.
        k: photos a row.
        title: a few words at the top left, beside the legend.
        width: of the picture in pixels; the height follows.
        theme: "light" or "dark".

    Returns:
        An RGB picture. The font is Pillow's own, which has ASCII only: accents are dropped.

    Raises:
        ValueError: no rows, k below 1, a picture too narrow for k photos, or an unknown theme.
    """
    if not rows or k < 1:
        raise ValueError(f"a strip needs a row and k of at least 1, got {len(rows)} rows, k={k}")
    layout = _Layout(width, k, any(row.query_image is not None for row in rows))
    if layout.photo_width < 24:
        raise ValueError(f"{k} photos do not fit into {width} pixels; take fewer or widen it")
    queries = [(row.caption, row.query_image) for row in rows]
    repeated = [False, *(above == query for above, query in pairwise(queries))]
    tops, y = [], layout.header
    for repeats in repeated:
        y += 0 if not tops else 12 if repeats else 36
        tops.append(y)
        y += layout.row_height
    canvas = _Canvas(width, y + layout.margin - 8, theme)
    judged = any(result.match is not None for row in rows for result in row.results)
    _draw_header(canvas, layout, title, _LEGEND if judged else ())
    for row, repeats, top in zip(rows, repeated, tops, strict=True):
        if top > layout.header and not repeats:
            canvas.line([(layout.margin, top - 18), (width - layout.margin, top - 18)], "rule", 1)
        _draw_row(canvas, layout, row, top, repeats=repeats)
    return canvas.finish()


def curves(
    series: _Series,
    *,
    title: str,
    x_label: str,
    y_label: str,
    width: int = 1000,
    height: int = 560,
    theme: str = "light",
) -> Image.Image:
    """Draws a line chart whose lines are named at their right ends.

    Args:
        series: up to six lines, name -> (x, y) of equal length; x rising, for instance steps.
        title: above the chart.
        x_label: below the horizontal axis, with its unit.
        y_label: above the vertical axis, with its unit.
        width, height: of the picture in pixels.
        theme: "light" or "dark".

    Returns:
        An RGB picture.

    Raises:
        ValueError: no line or too many, an empty or uneven one, a value that is not finite, or an
            unknown theme.
    """
    canvas = _Canvas(width, height, theme)
    _check_series(series, most=len(canvas.colors["series"]))
    x_values = [x for xs, _ in series.values() for x in xs]
    y_values = [y for _, ys in series.values() for y in ys]
    # Zero belongs to the picture unless the values are far away from it.
    y_low = min(y_values) if min(y_values) > 0.5 * max(y_values) else min(0, *y_values)
    y_ticks = _ticks(y_low, max(y_values), 8, outside=True)
    names_width = max(canvas.text_width(name, 17) for name in series)
    ticks_width = max(canvas.text_width(tick, 15) for tick in y_ticks.values())
    axes = _Axes(
        x_range=(min(x_values), max(x_values)),
        y_ticks=y_ticks,
        left=38 + ticks_width,
        right=width - 42 - names_width,
        top=112,
        bottom=height - 76,
    )
    canvas.text((28, 26), title, 24, "ink", bold=True)
    canvas.text((28, axes.top - 38), y_label, 15, "muted")
    canvas.text(((axes.left + axes.right) / 2, height - 36), x_label, 15, "muted", anchor="ma")
    _draw_axes(canvas, axes)
    _draw_series(canvas, axes, series)
    return canvas.finish()


class _Layout:
    """Places on a strip, in pixels: the caption, perhaps the query's photo, k results."""

    margin, gap, frame, header = 28, 12, 5, 112

    def __init__(self, width: int, k: int, photo: bool) -> None:
        self.width, self.k, self.photo = width, k, photo
        self.caption_width = round(0.19 * width)
        gaps = (k + 1 + 3 * photo) * self.gap
        free = width - 2 * self.margin - self.caption_width - gaps
        self.photo_width = free // (k + photo)
        self.photo_height = round(2.4 * self.photo_width)
        self.row_height = self.photo_height + 28
        results_width = k * self.photo_width + (k - 1) * self.gap
        self.results_left = width - self.margin - results_width
        self.query_left = self.results_left - 3 * self.gap - self.photo_width


def _draw_header(canvas: "_Canvas", layout: _Layout, title: str, legend: Sequence) -> None:
    canvas.text((layout.margin, 26), title, 24, "ink", bold=True)
    right = layout.width - layout.margin
    for words, match in legend:
        canvas.text((right, 41), words, 16, "ink", anchor="rm")
        right -= canvas.text_width(words, 16) + 18
        canvas.badge((right, 41), 10, match)
        right -= 34
    y = layout.header - 14
    canvas.text((layout.margin, y), "Description", 15, "muted", anchor="ls")
    if layout.photo:
        canvas.text((layout.query_left, y), "True photo", 15, "muted", anchor="ls")
    words = "Photos found, best first, with rank and score"
    canvas.text((layout.results_left, y), words, 15, "muted", anchor="ls")


def _draw_row(
    canvas: "_Canvas", layout: _Layout, row: StripRow, top: int, *, repeats: bool
) -> None:
    size = (layout.photo_width, layout.photo_height)
    left, width = layout.margin, layout.caption_width
    y = 4 * bool(row.label)
    y += canvas.paragraph((left, top), row.label, width, size[1] / 3, bold=True)
    if not repeats:
        canvas.paragraph((left, y), row.caption, width, top + layout.row_height - y)
        if row.query_image is not None:
            canvas.photo(row.query_image, (layout.query_left, top), size)
    for i, result in enumerate(row.results[: layout.k]):
        x = layout.results_left + i * (size[0] + layout.gap)
        canvas.rectangle((x, top), size, _FRAMES[result.match])
        inner = (size[0] - 2 * layout.frame, size[1] - 2 * layout.frame)
        canvas.photo(result.image, (x + layout.frame, top + layout.frame), inner)
        radius, note_size = max(6.0, 0.13 * size[0]), max(9.0, min(15.0, 0.16 * size[0]))
        if result.match is not None:
            canvas.badge((x + size[0] - radius - 1, top + radius + 1), radius, result.match)
        note = top + size[1] + 6
        canvas.text((x, note), str(i + 1), note_size, "muted")
        canvas.text((x + size[0], note), f"{result.score:.3f}", note_size, "ink", anchor="ra")


@dataclass(frozen=True)
class _Axes:
    """A chart's frame in pixels and the values it spans."""

    x_range: _Point
    y_ticks: dict[float, str]
    left: float
    right: float
    top: float
    bottom: float

    def x(self, value: float) -> float:
        low, high = self.x_range
        share = (value - low) / (high - low) if high > low else 0.5
        return self.left + share * (self.right - self.left)

    def y(self, value: float) -> float:
        low, *_, high = self.y_ticks
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)


def _draw_axes(canvas: "_Canvas", axes: _Axes) -> None:
    for tick, text in axes.y_ticks.items():
        y = axes.y(tick)
        canvas.line([(axes.left, y), (axes.right, y)], "rule", 1)
        canvas.text((axes.left - 10, y), text, 15, "muted", anchor="rm")
    for tick, text in _ticks(*axes.x_range, 7, outside=False).items():
        x = axes.x(tick)
        canvas.line([(x, axes.bottom), (x, axes.bottom + 6)], "muted", 1)
        canvas.text((x, axes.bottom + 12), text, 15, "muted", anchor="ma")
    canvas.line([(axes.left, axes.bottom), (axes.right, axes.bottom)], "muted", 1)


def _draw_series(canvas: "_Canvas", axes: _Axes, series: _Series) -> None:
    lines = [[(axes.x(x), axes.y(y)) for x, y in zip(*s, strict=True)] for s in series.values()]
    heights = _spread([line[-1][1] for line in lines], 22, axes.bottom)
    colors = canvas.colors["series"]
    for name, line, height, color in zip(series, lines, heights, colors, strict=False):
        canvas.line(line, color, 2.5)
        canvas.disc(line[-1], 4, color)
        canvas.text((axes.right + 14, height), name, 17, color, anchor="lm")


def _check_series(series: _Series, *, most: int) -> None:
    if not 1 <= len(series) <= most:
        raise ValueError(f"a chart shows 1 to {most} lines, got {len(series)}")
    for name, (xs, ys) in series.items():
        if len(xs) != len(ys) or not len(xs):
            raise ValueError(f"line {name!r} has {len(xs)} x and {len(ys)} y values")
        if not all(map(math.isfinite, (*xs, *ys))):
            raise ValueError(f"line {name!r} contains NaN or infinity, which cannot be drawn")


def _ticks(low: float, high: float, count: int, *, outside: bool) -> dict[float, str]:
    """Round numbers, about `count`: just around [low, high] if `outside`, otherwise within it."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * count >= span)
    low, high, slack = low / step, high / step, 1e-9
    first = math.floor(low + slack) if outside else math.ceil(low - slack)
    last = max(math.ceil(high - slack), first + 1) if outside else math.floor(high + slack)
    decimals = max(0, -math.floor(math.log10(step) + slack))
    return {i * step: f"{i * step:,.{decimals}f}" for i in range(first, last + 1)}


def _spread(heights: list[float], distance: float, bottom: float) -> list[float]:
    """Moves heights apart to at least `distance`, keeping their order and staying above bottom."""
    order, moved = sorted(range(len(heights)), key=heights.__getitem__), list(heights)
    for above, below in pairwise(order):
        moved[below] = max(moved[below], moved[above] + distance)
    limit = bottom
    for index in reversed(order):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - distance
    return moved


class _Canvas:
    """A picture addressed in final pixels; colours are names of the theme or as given."""

    def __init__(self, width: int, height: int, theme: str) -> None:
        if theme not in _THEMES:
            raise ValueError(f"theme must be one of {sorted(_THEMES)}, got {theme!r}")
        self.colors = _THEMES[theme]
        self.picture = Image.new("RGB", _scaled((width, height)), self.colors["background"])
        self.draw = ImageDraw.Draw(self.picture)

    def finish(self) -> Image.Image:
        return self.picture.reduce(_SCALE)

    def text_width(self, text: str, size: float) -> float:
        return _font(size).getlength(_plain(text)) / _SCALE

    def text(
        self, at: _Point, text: str, size: float, color: str, *, anchor: str = "la", bold=False
    ) -> None:
        fill, stroke = self.colors.get(color, color), 0.6 if bold else 0
        self.draw.text(_scaled(at), _plain(text), fill, _font(size), anchor, stroke_width=stroke)

    def paragraph(
        self, at: _Point, text: str, width: float, height: float, *, bold: bool = False
    ) -> float:
        """Wraps text into the box, as large as fits, or cut with dots; returns where it ends."""
        for size in (18, 17, 16, 15, 14, 13):
            most = max(1, int(height / (1.35 * size)))
            lines = _wrap(_plain(text), width * _SCALE, _font(size), most)
            if len(lines) <= most:
                break
        else:
            lines[most - 1 :] = [lines[most - 1] + "..."]
        for i, line in enumerate(lines):
            self.text((at[0], at[1] + i * 1.35 * size), line, size, "ink", bold=bold)
        return at[1] + len(lines) * 1.35 * size

    def line(self, points: list[_Point], color: str, width: float) -> None:
        fill = self.colors.get(color, color)
        self.draw.line([_scaled(p) for p in points], fill, round(width * _SCALE), joint="curve")

    def rectangle(self, at: _Point, size: _Point, color: str) -> None:
        (x, y), (w, h) = _scaled(at), _scaled(size)
        self.draw.rectangle((x, y, x + w - 1, y + h - 1), self.colors[color])

    def disc(self, center: _Point, radius: float, color: str) -> None:
        self.draw.circle(_scaled(center), radius * _SCALE, self.colors.get(color, color))

    def photo(self, image: Image.Image, at: _Point, size: _Point) -> None:
        """Pastes the photo undistorted: slightly cropped if that fills the box, else whole."""
        box = _scaled(size)
        crop = abs(math.log(image.width / image.height * box[1] / box[0])) < 0.15
        photo, panel = image.convert("RGB"), self.colors["panel"]
        photo = ImageOps.fit(photo, box) if crop else ImageOps.pad(photo, box, color=panel)
        self.picture.paste(photo, _scaled(at))

    def badge(self, center: _Point, radius: float, match: bool) -> None:
        """A disc with a check mark or a cross, so that colour is not the only sign."""
        x, y = center
        self.disc(center, radius, "right" if match else "wrong")
        for stroke in _CHECK if match else _CROSS:
            points = [(x + radius * a, y + radius * b) for a, b in stroke]
            self.line(points, "background", 0.24 * radius)


_SIGNS = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014", "''\"\"--")
_CHECK = [[(-0.46, 0.04), (-0.12, 0.38), (0.48, -0.34)]]
_CROSS = [[(-0.36, -0.36), (0.36, 0.36)], [(-0.36, 0.36), (0.36, -0.36)]]


@cache
def _font(size: float) -> _Font:
    return ImageFont.load_default(size * _SCALE)


def _scaled(pair: _Point) -> tuple[int, int]:
    return round(pair[0] * _SCALE), round(pair[1] * _SCALE)


def _plain(text: str) -> str:
    """Text without accents and typographic quotes, which Pillow's font lacks."""
    signs = text.translate(_SIGNS)
    return "".join(c for c in unicodedata.normalize("NFKD", signs) if not unicodedata.combining(c))


def _wrap(text: str, width: float, font: _Font, most: int) -> list[str]:
    """Breaks text into lines of at most `width`; stops after one line more than `most`."""
    lines, line, words = [], "", text.split()[::-1]
    while words and len(lines) <= most:
        word = words.pop()
        joined = f"{line} {word}" if line else word
        if font.getlength(joined) <= width:
            line = joined
        elif line:
            lines.append(line)
            line = ""
            words.append(word)
        else:  # one word wider than the box
            fits = bisect_right(range(2, len(word)), width, key=lambda n: font.getlength(word[:n]))
            lines.append(word[: fits + 1])
            words.append(word[fits + 1 :])
    return [*lines, line] if line else lines
