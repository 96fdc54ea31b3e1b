"""What all pictures are drawn on: shapes in final pixels, painted by Pillow or written as SVG."""

import math
import unicodedata
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont, ImageOps

_FINER = 2  # pictures are drawn this much larger and reduced, which smooths lines and shapes
THEMES = {
    "light": {
        "background": "#ffffff",
        "panel": "#eef1f4",
        "ink": "#1c2126",
        "muted": "#626b75",
        "rule": "#dfe3e8",
        "right": "#0d9461",
        "wrong": "#d43d2a",
    },
    "dark": {
        "background": "#15191e",
        "panel": "#222830",
        "ink": "#eceff2",
        "muted": "#9aa4af",
        "rule": "#2f363e",
        "right": "#2bb583",
        "wrong": "#f0604a",
    },
}
# Colours of lines, told apart also with a colour vision deficiency.
SERIES = tuple(f"series{number}" for number in range(6))
_LIGHT = ("#0067a8", "#c94f00", "#00855f", "#a8447f", "#a87400", "#4a5560")
_DARK = ("#56b4e9", "#f08a3c", "#2fc497", "#dc8cbc", "#e6b43c", "#aab4be")
THEMES["light"] |= dict(zip(SERIES, _LIGHT, strict=True))
THEMES["dark"] |= dict(zip(SERIES, _DARK, strict=True))

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Point = tuple[float, float]


@dataclass(frozen=True)
class Text:
    """One line of text; anchors are those of Pillow."""

    at: Point
    text: str
    size: float
    color: str
    anchor: str
    bold: bool


@dataclass(frozen=True)
class Line:
    """A line through all points."""

    points: list[Point]
    color: str
    width: float


@dataclass(frozen=True)
class Rectangle:
    """A filled rectangle by its left upper corner."""

    at: Point
    size: Point
    color: str


@dataclass(frozen=True)
class Disc:
    """A filled circle."""

    center: Point
    radius: float
    color: str


@dataclass(frozen=True)
class Photo:
    """An undistorted photo in a box: slightly cropped if that fills it, else whole."""

    image: Image.Image
    at: Point
    size: Point

    @property
    def cropped(self) -> bool:
        """Whether it fills its box."""
        shape = self.image.width / self.image.height * self.size[1] / self.size[0]
        return abs(math.log(shape)) < 0.15


class Canvas:
    """A picture addressed in final pixels; colours are names of the themes or as given."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.body = (0.0, 0.0, float(width), float(height))  # the box without title and note
        self.shapes: list[Text | Line | Rectangle | Disc | Photo] = []

    def finish(self, theme: str, *, scale: int = 1) -> Image.Image:
        """The picture, so many times its size; ValueError for an unknown theme."""
        return _Painter(self, theme, scale).picture.reduce(_FINER)

    def text_width(self, text: str, size: float) -> float:
        """Pixels that a text of a size (of its letters, in pixels) takes."""
        return font(size * _FINER).getlength(plain(text)) / _FINER

    def text(
        self, at: Point, text: str, size: float, color: str, *, anchor: str = "la", bold=False
    ) -> None:
        """One line of text; anchors are those of Pillow."""
        self.shapes.append(Text(at, text, size, color, anchor, bold))

    def paragraph(
        self,
        at: Point,
        text: str,
        width: float,
        height: float,
        *,
        bold: bool = False,
        sizes: tuple[float, ...] = (18, 17, 16, 15, 14, 13),
        color: str = "ink",
    ) -> float:
        """Wraps text into the box, as large as fits, or cut with dots; returns where it ends."""
        for size in sizes:
            most = max(1, int(height / (1.35 * size)))
            lines = _wrap(plain(text), width * _FINER, font(size * _FINER), most)
            if len(lines) <= most:
                break
        else:
            lines[most - 1 :] = [lines[most - 1] + "..."]
        for i, line in enumerate(lines):
            self.text((at[0], at[1] + i * 1.35 * size), line, size, color, bold=bold)
        return at[1] + len(lines) * 1.35 * size

    def line(self, points: list[Point], color: str, width: float) -> None:
        """A line through all points."""
        self.shapes.append(Line(points, color, width))

    def rectangle(self, at: Point, size: Point, color: str) -> None:
        """A filled rectangle by its left upper corner."""
        self.shapes.append(Rectangle(at, size, color))

    def disc(self, center: Point, radius: float, color: str) -> None:
        """A filled circle."""
        self.shapes.append(Disc(center, radius, color))

    def photo(self, image: Image.Image, at: Point, size: Point) -> None:
        """Pastes the photo undistorted: slightly cropped if that fills the box, else whole."""
        self.shapes.append(Photo(image.convert("RGB"), at, size))

    def badge(self, center: Point, radius: float, match: bool) -> None:
        """A disc with a check mark or a cross, so that colour is not the only sign."""
        x, y = center
        self.disc(center, radius, "right" if match else "wrong")
        for stroke in _CHECK if match else _CROSS:
            points = [(x + radius * a, y + radius * b) for a, b in stroke]
            self.line(points, "background", 0.24 * radius)


class _Painter:
    """Paints the shapes of a canvas with Pillow, finer than they will be."""

    def __init__(self, canvas: Canvas, theme: str, scale: int) -> None:
        if theme not in THEMES:
            raise ValueError(f"theme must be one of {sorted(THEMES)}, got {theme!r}")
        self.colors, self.finer = THEMES[theme], _FINER * scale
        size = self._scaled((canvas.width, canvas.height))
        self.picture = Image.new("RGB", size, self.colors["background"])
        self.draw = ImageDraw.Draw(self.picture)
        for shape in canvas.shapes:
            self._paint(shape)

    def _scaled(self, pair: Point) -> tuple[int, int]:
        return round(pair[0] * self.finer), round(pair[1] * self.finer)

    def _paint(self, shape) -> None:
        fill = self.colors.get(shape.color, shape.color) if hasattr(shape, "color") else ""
        match shape:
            case Text(at, text, size, _, anchor, bold):
                letters, stroke = font(size * self.finer), 0.2 * self.finer if bold else 0
                where = self._scaled(at)
                self.draw.text(where, plain(text), fill, letters, anchor, stroke_width=stroke)
            case Line(points, _, width):
                places = [self._scaled(point) for point in points]
                self.draw.line(places, fill, round(width * self.finer), joint="curve")
            case Rectangle(at, size):
                (x, y), (w, h) = self._scaled(at), self._scaled(size)
                self.draw.rectangle((x, y, x + w - 1, y + h - 1), fill)
            case Disc(center, radius):
                self.draw.circle(self._scaled(center), radius * self.finer, fill)
            case Photo(image, at, size):
                box, panel = self._scaled(size), self.colors["panel"]
                if shape.cropped:
                    photo = ImageOps.fit(image, box)
                else:
                    photo = ImageOps.pad(image, box, color=panel)
                self.picture.paste(photo, self._scaled(at))


_SIGNS = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014", "''\"\"--")
_CHECK = [[(-0.46, 0.04), (-0.12, 0.38), (0.48, -0.34)]]
_CROSS = [[(-0.36, -0.36), (0.36, 0.36)], [(-0.36, 0.36), (0.36, -0.36)]]


@cache
def font(size: float) -> Font:
    """Pillow's own font, with letters of a size in pixels."""
    return ImageFont.load_default(size)


def plain(text: str) -> str:
    """Text without accents and typographic quotes, which Pillow's font lacks."""
    signs = text.translate(_SIGNS)
    return "".join(c for c in unicodedata.normalize("NFKD", signs) if not unicodedata.combining(c))


def _wrap(text: str, width: float, font: Font, most: int) -> list[str]:
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
