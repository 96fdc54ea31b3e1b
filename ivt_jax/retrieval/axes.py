"""A chart's frame: round numbers on its axes, and where a value lies between them."""

import math
from dataclasses import dataclass
from itertools import pairwise

from ivt_jax.retrieval.canvas import Canvas, Point


@dataclass(frozen=True)
class Axes:
    """A chart's frame in pixels and the values it spans."""

    x_range: Point
    y_ticks: dict[float, str]
    left: float
    right: float
    top: float
    bottom: float

    def x(self, value: float) -> float:
        """Pixels from the left."""
        low, high = self.x_range
        share = (value - low) / (high - low) if high > low else 0.5
        return self.left + share * (self.right - self.left)

    def y(self, value: float) -> float:
        """Pixels from above."""
        low, *_, high = self.y_ticks
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)


def draw_axes(canvas: Canvas, axes: Axes, *, size: float, count: int) -> None:
    """Both axes with their numbers in letters of a size, and a rule at each number in height."""
    for tick, text in axes.y_ticks.items():
        y = axes.y(tick)
        canvas.line([(axes.left, y), (axes.right, y)], "rule", 1)
        canvas.text((axes.left - 10, y), text, size, "muted", anchor="rm")
    draw_x_axis(canvas, axes, size=size, count=count)


def draw_x_axis(canvas: Canvas, axes: Axes, *, size: float = 15, count: int = 7) -> None:
    """The lower axis alone, with about `count` numbers."""
    for tick, text in ticks(*axes.x_range, count, outside=False).items():
        x = axes.x(tick)
        canvas.line([(x, axes.bottom), (x, axes.bottom + 6)], "muted", 1)
        canvas.text((x, axes.bottom + 12), text, size, "muted", anchor="ma")
    canvas.line([(axes.left, axes.bottom), (axes.right, axes.bottom)], "muted", 1)


def height_ticks(values: list[float], count: int) -> dict[float, str]:
    """Ticks of a vertical axis; zero belongs to it unless the values are far away from it."""
    low = min(values) if min(values) > 0.5 * max(values) else min(0, *values)
    return ticks(low, max(values), count, outside=True)


def ticks(low: float, high: float, count: int, *, outside: bool) -> dict[float, str]:
    """Round numbers, about `count`: just around [low, high] if `outside`, otherwise within it."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * count >= span)
    low, high, slack = low / step, high / step, 1e-9
    first = math.floor(low + slack) if outside else math.ceil(low - slack)
    last = max(math.ceil(high - slack), first + 1) if outside else math.floor(high + slack)
    decimals = max(0, -math.floor(math.log10(step) + slack))
    return {i * step: f"{i * step:,.{decimals}f}" for i in range(first, last + 1)}


def spread(heights: list[float], distance: float, bottom: float) -> list[float]:
    """Moves heights apart to at least `distance`, keeping their order and staying above bottom."""
    order, moved = sorted(range(len(heights)), key=heights.__getitem__), list(heights)
    for above, below in pairwise(order):
        moved[below] = max(moved[below], moved[above] + distance)
    limit = bottom
    for index in reversed(order):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - distance
    return moved
