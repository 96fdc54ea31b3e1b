"""A figure's sheet: 640 pixels are 169 mm in print, so letters of 11 pixels have 8 points."""

from collections.abc import Mapping, Sequence

from ivt_jax.retrieval.axes import Axes, draw_axes, height_ticks, spread
from ivt_jax.retrieval.canvas import SERIES, Canvas

WIDTH = 640
MARGIN = 16
SMALL, BODY = 11.0, 12.5
Series = Mapping[str, tuple[Sequence[float], Sequence[float | None]]]
Box = tuple[float, float, float, float]  # left, top, width, height


def begin(title: str) -> tuple[Canvas, float]:
    """A sheet with its title, and where the rest begins."""
    canvas = Canvas(WIDTH, 0)
    canvas.text((MARGIN, 14), title, 15, "ink", bold=True)
    return canvas, 44


def end(canvas: Canvas, y: float, note: str) -> Canvas:
    """Writes the note at the foot; the sheet ends below it."""
    canvas.body = (MARGIN - 2, 38, WIDTH - 2 * MARGIN + 4, y - 44)
    y = paragraph(canvas, (MARGIN, y), note, WIDTH - 2 * MARGIN, size=SMALL, color="muted")
    canvas.height = round(y + 12)
    return canvas


def paragraph(
    canvas: Canvas,
    at: tuple[float, float],
    text: str,
    width: float,
    *,
    size: float = BODY,
    lines: int = 20,
    color: str = "ink",
) -> float:
    """Wraps text, cut with dots after so many lines; returns where it ends."""
    height = (lines + 0.5) * 1.35 * size
    return canvas.paragraph(at, text, width, height, sizes=(size,), color=color)


def line_chart(
    canvas: Canvas,
    box: Box,
    series: Series,
    *,
    title: str,
    x_label: str,
    x_range: tuple[float, float] | None = None,
    y_values: Sequence[float] = (),
    marks: bool = False,
) -> Axes:
    """Draws lines into a box; a wide one names them at their ends, a narrow one above.

    Args:
        box: left, top, width and height in pixels.
        series: name -> (x, y), at most six lines; None leaves a gap.
        title: what is shown, with its unit.
        x_label: below the axis.
        x_range: first and last value there; None = those of the lines.
        y_values: more values that the other axis has to hold.
        marks: whether each point is marked.

    Returns:
        The axes, to draw more on them.
    """
    left, top, width, height = box
    values = [y for _, ys in series.values() for y in ys if y is not None]
    values += y_values
    places = [x for xs, _ in series.values() for x in xs]
    canvas.text((left, top), title, BODY, "ink", bold=True)
    several, wide = len(series) > 1, width > 400
    names = max(canvas.text_width(name, SMALL) for name in series) + 16 if several and wide else 4
    y_ticks = height_ticks(values, 5)
    numbers = max(canvas.text_width(tick, SMALL) for tick in y_ticks.values())
    axes = Axes(
        x_range=x_range or (min(places), max(places)),
        y_ticks=y_ticks,
        left=left + numbers + 12,
        right=left + width - names,
        top=top + (48 if several and not wide else 30),
        bottom=top + height - 44,
    )
    draw_axes(canvas, axes, size=SMALL, count=7 if wide else 4)
    middle = (axes.left + axes.right) / 2
    canvas.text((middle, top + height - 14), x_label, SMALL, "muted", anchor="ma")
    for color, (xs, ys) in zip(SERIES, series.values(), strict=False):
        _draw_line(canvas, axes, xs, ys, color, marks)
    if several:
        (_name_ends if wide else _name_above)(canvas, axes, series, left, top + 20)
    return axes


def _draw_line(canvas: Canvas, axes: Axes, xs, ys, color: str, marks: bool) -> None:
    stretch: list[tuple[float, float]] = []
    for x, y in [*zip(xs, ys, strict=True), (0.0, None)]:
        if y is not None:
            stretch.append((axes.x(x), axes.y(y)))
            continue
        if len(stretch) > 1:
            canvas.line(stretch, color, 2)
        for place in stretch if marks or len(stretch) == 1 else ():
            canvas.disc(place, 3.5, color)
        stretch = []


def _name_ends(canvas: Canvas, axes: Axes, series: Series, _left: float, _top: float) -> None:
    ends = [next(y for y in reversed(ys) if y is not None) for _, ys in series.values()]
    heights = spread([axes.y(end) for end in ends], 16, axes.bottom)
    for name, height, color in zip(series, heights, SERIES, strict=False):
        canvas.text((axes.right + 10, height), name, SMALL, color, anchor="lm")


def _name_above(canvas: Canvas, _axes: Axes, series: Series, left: float, top: float) -> None:
    x = left
    for name, color in zip(series, SERIES, strict=False):
        canvas.disc((x + 5, top + 7), 4, color)
        canvas.text((x + 14, top + 7), name, SMALL, "ink", anchor="lm")
        x += 14 + canvas.text_width(name, SMALL) + 14
