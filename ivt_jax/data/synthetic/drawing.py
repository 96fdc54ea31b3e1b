"""A small vector canvas over Pillow: shapes in local units, drawn large, reduced for smooth edges.

Every shape also widens the box of the part that is being drawn, so annotations come for free.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 72, 192  # of a stored image, in pixels
SCALE = 3  # drawn pixels per stored pixel

RGB = tuple[int, int, int]
Point = tuple[float, float]
T = TypeVar("T")


class Fabric(NamedTuple):
    """A cloth: its colour, the name of its pattern and the pattern's colour."""

    colour: RGB
    pattern: str = "plain"
    accent: RGB = (255, 255, 255)


def generator(*numbers: int) -> np.random.Generator:
    """The random stream that belongs to a tuple of non-negative integers, on every machine."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(numbers)))


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    """One of the items, all equally likely."""
    return items[int(rng.integers(len(items)))]


def weighted(rng: np.random.Generator, weights: dict[str, float]) -> str:
    """One of the keys, drawn in proportion to its weight."""
    mark = rng.random() * sum(weights.values())
    for name, weight in weights.items():
        mark -= weight
        if mark < 0:
            return name
    return next(reversed(weights))


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """The colour a share of the way from the first to the second."""
    return (
        round(first[0] + (second[0] - first[0]) * share),
        round(first[1] + (second[1] - first[1]) * share),
        round(first[2] + (second[2] - first[2]) * share),
    )


def darker(colour: RGB, share: float = 0.16) -> RGB:
    """The colour in shade: towards a cool dark, which looks better than towards black."""
    return mix(colour, (24, 22, 48), share)


def lighter(colour: RGB, share: float = 0.2) -> RGB:
    """The colour towards white."""
    return mix(colour, (255, 255, 255), share)


def smooth(points: Sequence[Point], steps: int = 5) -> list[Point]:
    """A closed Catmull-Rom curve through the points."""
    curve = []
    count = len(points)
    for i in range(count):
        p0, p1, p2, p3 = (points[(i + k - 1) % count] for k in range(4))
        for k in range(steps):
            t = k / steps
            a, b = -0.5 * t + t * t - 0.5 * t**3, 1 - 2.5 * t * t + 1.5 * t**3
            c, d = 0.5 * t + 2 * t * t - 1.5 * t**3, -0.5 * t * t + 0.5 * t**3
            curve.append(
                (
                    a * p0[0] + b * p1[0] + c * p2[0] + d * p3[0],
                    a * p0[1] + b * p1[1] + c * p2[1] + d * p3[1],
                )
            )
    return curve


@functools.lru_cache(maxsize=64)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's built-in font at a size in pixels."""
    return ImageFont.load_default(size=size)


@functools.lru_cache(maxsize=1)
def _soft_disc() -> Image.Image:
    """A blurred white disc on black, from which every soft shadow is stretched."""
    fall = [max(0, 255 - 2 * v) for v in range(256)]
    return Image.radial_gradient("L").resize((64, 64)).point(fall)


class Canvas:
    """A picture being drawn; shapes are given in units that `place` maps to stored pixels."""

    def __init__(self, image: Image.Image):
        self.image = image
        self.draw = ImageDraw.Draw(image)
        self.boxes: dict[str, list[float]] = {}
        self._part = ""
        self.place(0, 0)

    def place(self, x: float, y: float, scale: float = 1.0, mirror: int = 1) -> None:
        """Puts the local origin at stored pixel (x, y); `mirror` -1 flips left and right."""
        factor = self.image.width / WIDTH
        self._x, self._y = x * factor, y * factor
        self._sx, self._sy = scale * factor * mirror, scale * factor

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Everything drawn inside belongs to the named part's box."""
        before, self._part = self._part, name
        yield
        self._part = before

    def pixels(self, points: Sequence[Point]) -> list[Point]:
        """Local units to drawn pixels, widening the current part's box."""
        x, y, sx, sy = self._x, self._y, self._sx, self._sy
        out = [(x + sx * px, y + sy * py) for px, py in points]
        if self._part:
            xs, ys = [p[0] for p in out], [p[1] for p in out]
            box = self.boxes.setdefault(self._part, [math.inf, math.inf, -math.inf, -math.inf])
            box[:] = min(box[0], *xs), min(box[1], *ys), max(box[2], *xs), max(box[3], *ys)
        return out

    def polygon(self, points: Sequence[Point], colour: RGB) -> None:
        """A filled polygon."""
        self.draw.polygon(self.pixels(points), fill=colour)

    def blob(self, points: Sequence[Point], colour: RGB) -> None:
        """A filled closed curve through the points."""
        self.draw.polygon(self.pixels(smooth(points)), fill=colour)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: RGB) -> None:
        """A filled ellipse around (x, y)."""
        (x0, y0), (x1, y1) = self.pixels([(x - rx, y - ry), (x + rx, y + ry)])
        self.draw.ellipse([min(x0, x1), y0, max(x0, x1), y1], fill=colour)

    def arc(
        self, x: float, y: float, r: Point, angles: Point, colour: RGB, width: float = 1.0
    ) -> None:
        """Part of an ellipse's outline; angles in degrees, clockwise from three o'clock."""
        (x0, y0), (x1, y1) = self.pixels([(x - r[0], y - r[1]), (x + r[0], y + r[1])])
        start, end = angles if self._sx > 0 else (180 - angles[1], 180 - angles[0])
        thick = max(1, round(width * self._sy))
        self.draw.arc([min(x0, x1), y0, max(x0, x1), y1], start, end, fill=colour, width=thick)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: RGB, r: float = 0.0) -> None:
        """A filled rectangle with corners of radius r."""
        (xa, ya), (xb, yb) = self.pixels([(x0, y0), (x1, y1)])
        corners = [min(xa, xb), ya, max(xa, xb), yb]
        self.draw.rounded_rectangle(corners, radius=r * self._sy, fill=colour)

    def line(self, points: Sequence[Point], colour: RGB, width: float) -> None:
        """A line of the given width with round ends and joints."""
        for start, end in zip(points, points[1:], strict=False):
            self.limb(start, end, width, width, colour)

    def limb(self, start: Point, end: Point, w0: float, w1: float, colour: RGB) -> None:
        """A rod from w0 wide at the start to w1 wide at the end, with round ends."""
        self.polygon(limb_outline(start, end, w0, w1), colour)

    def cloth(
        self,
        outline: Sequence[Point],
        fabric: Fabric,
        shade: Sequence[Point] = (),
        period: float = 4.4,
    ) -> None:
        """A filled polygon with the fabric's pattern, and a darker area where `shade` covers it."""
        points = self.pixels(outline)
        plain = fabric.pattern not in _PATTERNS
        if plain and not shade:
            self.draw.polygon(points, fill=fabric.colour)
            return
        x0, y0 = (math.floor(min(p[i] for p in points)) for i in (0, 1))
        x1, y1 = (math.ceil(max(p[i] for p in points)) + 1 for i in (0, 1))
        mask = Image.new("L", (x1 - x0, y1 - y0))
        ImageDraw.Draw(mask).polygon([(x - x0, y - y0) for x, y in points], fill=255)
        tile = Image.new("RGB", mask.size, fabric.colour)
        draw = ImageDraw.Draw(tile)
        if not plain:
            _PATTERNS[fabric.pattern](draw, mask.size, fabric, period * self._sy)
        if shade:
            dark = Image.new("L", mask.size)
            local = [(x - x0, y - y0) for x, y in self.pixels(shade)]
            ImageDraw.Draw(dark).polygon(local, fill=46)
            tile.paste((24, 22, 48), (0, 0), dark)
        self.image.paste(tile, (x0, y0), mask)

    def shadow(self, x: float, y: float, rx: float, ry: float, strength: float = 0.4) -> None:
        """A soft dark ellipse on the ground."""
        part, self._part = self._part, ""
        (x0, y0), (x1, y1) = self.pixels([(x - rx, y - ry), (x + rx, y + ry)])
        self._part = part
        size = max(1, round(abs(x1 - x0))), max(1, round(y1 - y0))
        mask = _soft_disc().resize(size).point([int(v * strength) for v in range(256)])
        self.image.paste((16, 18, 38), (round(min(x0, x1)), round(y0)), mask)

    def text(self, x: float, y: float, words: str, size: float, colour: RGB) -> None:
        """Words centred at (x, y), never mirrored."""
        ((px, py),) = self.pixels([(x, y)])
        letters = font(max(6, round(size * self._sy)))
        self.draw.text((px, py), words, fill=colour, font=letters, anchor="mm")

    def normalised_boxes(self) -> dict[str, list[float]]:
        """The parts' boxes (x0, y0, x1, y1) in 0..1 of the picture; parts outside are left out."""
        width, height = self.image.size
        found = {}
        for name, box in self.boxes.items():
            sides = [v / (width, height)[i % 2] for i, v in enumerate(box)]
            sides = [round(min(1.0, max(0.0, v)), 4) for v in sides]
            if sides[0] < sides[2] and sides[1] < sides[3]:
                found[name] = sides
        return found


def limb_outline(start: Point, end: Point, w0: float, w1: float) -> list[Point]:
    """The outline of a rod with round ends."""
    angle = math.atan2(end[1] - start[1], end[0] - start[0])
    points = []
    for centre, width, first in ((start, w0, 90), (end, w1, -90)):
        for k in range(9):
            turn = angle + math.radians(first + k * 22.5)
            points.append(
                (centre[0] + width / 2 * math.cos(turn), centre[1] + width / 2 * math.sin(turn))
            )
    return points


# Every pattern leaves more than half of the cloth in the colour that captions name it by; else a
# red shirt with white stripes would look like a white one with red stripes.
def _stripes(draw, size, fabric: Fabric, period: float) -> None:
    y = 0.45 * period
    while y < size[1]:
        draw.rectangle([0, y, size[0], y + 0.26 * period], fill=fabric.accent)
        y += period


def _checks(draw, size, fabric: Fabric, period: float) -> None:
    half = mix(fabric.colour, fabric.accent, 0.75)
    period *= 1.25
    for axis in (0, 1):
        for k in range(int(size[axis] / period) + 1):
            at = (k + 0.3) * period
            ends = at + 0.22 * period
            draw.rectangle(
                [at, 0, ends, size[1]] if axis == 0 else [0, at, size[0], ends], fill=half
            )
    for i in range(int(size[0] / period) + 1):
        for k in range(int(size[1] / period) + 1):
            x, y = (i + 0.3) * period, (k + 0.3) * period
            draw.rectangle([x, y, x + 0.22 * period, y + 0.22 * period], fill=fabric.accent)


def _dots(draw, size, fabric: Fabric, period: float) -> None:
    r = 0.27 * period
    for k in range(int(size[1] / (0.8 * period)) + 2):
        y = (k + 0.35) * 0.8 * period
        for i in range(int(size[0] / period) + 2):
            x = (i + 0.25 + 0.5 * (k % 2)) * period
            draw.ellipse([x - r, y - r, x + r, y + r], fill=fabric.accent)


_PATTERNS = {"striped": _stripes, "checked": _checks, "dotted": _dots}
