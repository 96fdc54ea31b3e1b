"""What all pictures are drawn on: final pixels, two themes, and Pillow's own font."""

import math
import unicodedata
from bisect import bisect_right
from functools import cache

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

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Point = tuple[float, float]


class Canvas:
    """A picture addressed in final pixels; colours are names of the theme or as given."""

    def __init__(self, width: int, height: int, theme: str) -> None:
        if theme not in _THEMES:
            raise ValueError(f"theme must be one of {sorted(_THEMES)}, got {theme!r}")
        self.colors = _THEMES[theme]
        self.picture = Image.new("RGB", _scaled((width, height)), self.colors["background"])
        self.draw = ImageDraw.Draw(self.picture)

    def finish(self) -> Image.Image:
        """The picture in its final size."""
        return self.picture.reduce(_SCALE)

    def text_width(self, text: str, size: float) -> float:
        """Pixels that a text of a size (of its letters, in pixels) takes."""
        return _font(size).getlength(_plain(text)) / _SCALE

    def text(
        self, at: Point, text: str, size: float, color: str, *, anchor: str = "la", bold=False
    ) -> None:
        """One line of text; anchors are those of Pillow."""
        fill, stroke = self.colors.get(color, color), 0.6 if bold else 0
        self.draw.text(_scaled(at), _plain(text), fill, _font(size), anchor, stroke_width=stroke)

    def paragraph(
        self, at: Point, text: str, width: float, height: float, *, bold: bool = False
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

    def line(self, points: list[Point], color: str, width: float) -> None:
        """A line through all points."""
        fill = self.colors.get(color, color)
        self.draw.line([_scaled(p) for p in points], fill, round(width * _SCALE), joint="curve")

    def rectangle(self, at: Point, size: Point, color: str) -> None:
        """A filled rectangle by its left upper corner."""
        (x, y), (w, h) = _scaled(at), _scaled(size)
        self.draw.rectangle((x, y, x + w - 1, y + h - 1), self.colors.get(color, color))

    def disc(self, center: Point, radius: float, color: str) -> None:
        """A filled circle."""
        fill = self.colors.get(color, color)
        self.draw.circle(_scaled(center), radius * _SCALE, fill)

    def photo(self, image: Image.Image, at: Point, size: Point) -> None:
        """Pastes the photo undistorted: slightly cropped if that fills the box, else whole."""
        box = _scaled(size)
        crop = abs(math.log(image.width / image.height * box[1] / box[0])) < 0.15
        photo, panel = image.convert("RGB"), self.colors["panel"]
        photo = ImageOps.fit(photo, box) if crop else ImageOps.pad(photo, box, color=panel)
        self.picture.paste(photo, _scaled(at))

    def badge(self, center: Point, radius: float, match: bool) -> None:
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


def _scaled(pair: Point) -> tuple[int, int]:
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
