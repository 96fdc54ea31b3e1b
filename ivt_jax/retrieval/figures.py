"""Pictures drawn with Pillow alone: strips of ranked photos, and timelines."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image

from ivt_jax.retrieval.axes import Axes, draw_x_axis
from ivt_jax.retrieval.canvas import Canvas, Point

_FRAMES = {True: "right", False: "wrong", None: "rule"}
_LEGEND = (("another person", False), ("the person described", True))


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
    canvas = Canvas(width, y + layout.margin - 8)
    judged = any(result.match is not None for row in rows for result in row.results)
    _draw_header(canvas, layout, title, _LEGEND if judged else ())
    for row, repeats, top in zip(rows, repeated, tops, strict=True):
        if top > layout.header and not repeats:
            canvas.line([(layout.margin, top - 18), (width - layout.margin, top - 18)], "rule", 1)
        _draw_row(canvas, layout, row, top, repeats=repeats)
    return canvas.finish(theme)


def timeline(
    rows: Sequence[tuple[str, Sequence[tuple[float, float, str]]]],
    colors: Mapping[str, str],
    *,
    title: str,
    x_label: str,
    width: int = 1000,
) -> Canvas:
    """Draws what happened when: a bar a row, cut into coloured spans.

    Args:
        rows: (label, spans), a span being (start, end, name of its kind) on one time axis.
        colors: kind -> colour, "#rrggbb" or a name of the theme; its order is that of the legend.
        title: above the chart.
        x_label: below the time axis, with its unit.
        width: of the picture in pixels; the height follows.

    Raises:
        ValueError: no span at all.
    """
    times = [time for _, spans in rows for start, end, _ in spans for time in (start, end)]
    if not times:
        raise ValueError("a timeline needs a span")
    legend = _rows_of_legend(colors, width - 56)
    top = 84 + 30 * len(legend)
    bottom = top + 44 * len(rows)
    canvas = Canvas(width, bottom + 76)
    canvas.text((28, 26), title, 24, "ink", bold=True)
    for number, kinds in enumerate(legend):
        x = 28.0
        for kind in kinds:
            canvas.rectangle((x, 76 + 30 * number), (16, 16), colors[kind])
            canvas.text((x + 24, 84 + 30 * number), kind, 15, "ink", anchor="lm")
            x += _LEGEND_WIDTH
    left = 44 + max(canvas.text_width(label, 15) for label, _ in rows)
    axes = Axes((min(times), max(times)), {}, left, width - 28, top, bottom)
    for number, (label, spans) in enumerate(rows):
        y = top + 44 * number + 6
        canvas.text((left - 14, y + 16), label, 15, "muted", anchor="rm")
        for start, end, kind in spans:
            x = axes.x(start)
            canvas.rectangle((x, y), (max(axes.x(end) - x, 0.5), 32), colors[kind])
    draw_x_axis(canvas, axes)
    canvas.text(((left + width - 28) / 2, bottom + 40), x_label, 15, "muted", anchor="ma")
    canvas.body = (26, 66, width - 52, canvas.height - 66)
    return canvas


_LEGEND_WIDTH = 150  # pixels a kind


def _rows_of_legend(kinds: Iterable[str], width: int) -> list[list[str]]:
    each, names = max(width // _LEGEND_WIDTH, 1), list(kinds)
    return [names[start : start + each] for start in range(0, len(names), each)]


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


def _draw_header(canvas: Canvas, layout: _Layout, title: str, legend: Sequence) -> None:
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


def _draw_row(canvas: Canvas, layout: _Layout, row: StripRow, top: int, *, repeats: bool) -> None:
    size = (layout.photo_width, layout.photo_height)
    left, width = layout.margin, layout.caption_width
    y = 4 * bool(row.label)
    y += canvas.paragraph((left, top), row.label, width, size[1] / 3, bold=True)
    if not repeats:
        canvas.paragraph((left, y), row.caption, width, top + layout.row_height - y)
        if row.query_image is not None:
            canvas.photo(row.query_image, (layout.query_left, top), size)
    draw_results(
        canvas,
        row.results[: layout.k],
        (layout.results_left, top),
        size=size,
        gap=layout.gap,
        frame=layout.frame,
        letters=max(9.0, min(15.0, 0.16 * size[0])),
    )


def draw_results(
    canvas: Canvas,
    results: Sequence[StripResult],
    at: Point,
    *,
    size: Point,
    gap: float,
    frame: float | Mapping[bool | None, float],
    letters: float,
    decimals: int = 3,
) -> None:
    """Framed photos side by side, marks in their corners, rank and score below, `letters` high.

    `frame` is the width of all frames, or match -> width.
    """
    top, radius = at[1], max(6.0, 0.13 * size[0])
    for i, result in enumerate(results):
        x = at[0] + i * (size[0] + gap)
        canvas.rectangle((x, top), size, _FRAMES[result.match])
        wide = frame[result.match] if isinstance(frame, Mapping) else frame
        inner = (size[0] - 2 * wide, size[1] - 2 * wide)
        canvas.photo(result.image, (x + wide, top + wide), inner)
        if result.match is not None:
            canvas.badge((x + size[0] - radius - 1, top + radius + 1), radius, result.match)
        note = top + size[1] + 6
        canvas.text((x, note), str(i + 1), letters, "muted")
        canvas.text(
            (x + size[0], note), f"{result.score:.{decimals}f}", letters, "ink", anchor="ra"
        )
