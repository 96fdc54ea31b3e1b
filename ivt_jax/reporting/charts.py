"""The charts of a run: training curves, R@k, where errors come from, R1 against masking."""

from collections.abc import Mapping, Sequence
from statistics import mean

from ivt_jax.reporting.numbers import thinned
from ivt_jax.reporting.sheet import (
    BODY,
    MARGIN,
    SMALL,
    WIDTH,
    Series,
    begin,
    end,
    line_chart,
)
from ivt_jax.retrieval.axes import Axes, draw_x_axis
from ivt_jax.retrieval.canvas import SERIES, Canvas

_ROW = 20  # pixels of a row of captions of one kind
_NAMES = 132  # pixels for the names of rows


def training_panels(lines: Sequence[dict]) -> dict[str, Series]:
    """What the lines of a run's metrics.jsonl let one draw: title of a panel -> its lines.

    The loss and its parts, retrieval scores, learning rate and gradient norm; a part is a metric
    whose name ends in "loss".
    """
    train = [line for line in lines if line["kind"] == "train"]
    steps = [line["step"] for line in train]
    names = sorted({name for line in train for name in line if name.endswith("loss")})
    panels: dict[str, dict] = {"Loss": {}, "Retrieval (percent)": {}}
    for name in names:
        panels["Loss"][name.replace("_", " ")] = thinned(steps, [x.get(name) for x in train])
    for kind in sorted({line["kind"] for line in lines} - {"train"}):
        scored = [line for line in lines if line["kind"] == kind]
        for metric in ("R1", "mAP"):
            values = [line.get(metric) for line in scored]
            panels["Retrieval (percent)"][f"{kind} {metric}"] = (
                [line["step"] for line in scored],
                values,
            )
    for name in ("learning_rate", "gradient_norm"):
        title = name.replace("_", " ").capitalize()
        panels[title] = {name: thinned(steps, [line.get(name) for line in train])}
    return {
        title: known
        for title, panel in panels.items()
        if (known := {n: xy for n, xy in panel.items() if any(y is not None for y in xy[1])})
    }


def training_chart(panels: Mapping[str, Series], *, title: str, note: str) -> Canvas:
    """Two panels a row, all over the steps."""
    canvas, top = begin(title)
    width, height = (WIDTH - 2 * MARGIN - 28) / 2, 220
    steps = [step for series in panels.values() for xs, _ in series.values() for step in xs]
    for number, (name, series) in enumerate(panels.items()):
        left = MARGIN + number % 2 * (width + 28)
        place = (left, top + number // 2 * (height + 22), width, height)
        marks = name.startswith("Retrieval")
        span = (0, max(steps))
        line_chart(canvas, place, series, title=name, x_label="step", x_range=span, marks=marks)
    rows = -(-len(panels) // 2)
    return end(canvas, top + rows * (height + 22), note)


def recall_chart(curves: Mapping[str, Mapping], *, title: str, note: str) -> Canvas:
    """R@k over k, a line a run; `curves`: name -> what `recall_curve` gives."""
    canvas, top = begin(title)
    series = {name: (curve["k"], curve["percent"]) for name, curve in curves.items()}
    place = (MARGIN, top, WIDTH - 2 * MARGIN, 330)
    line_chart(canvas, place, series, title="percent of captions", x_label="k")
    return end(canvas, top + 344, note)


def groups_chart(
    tables: Mapping[str, Sequence[tuple[str, Sequence[dict]]]],
    *,
    overall: Mapping[str, float],
    title: str,
    note: str,
) -> Canvas:
    """R1 of kinds of captions as dots with 95 % intervals, one table below the other.

    Args:
        tables: heading -> rows of a name and what `group` gives for each run; rows that have
            "other_value" get bars of it at the right.
        overall: name of a run -> R1 of all captions, a line each.
        title, note: above and below.
    """
    canvas, y = begin(title)
    if len(overall) > 1:
        x = float(MARGIN)
        for name, color in zip(overall, SERIES, strict=False):
            canvas.disc((x + 5, y + 7), 4, color)
            canvas.text((x + 14, y + 7), name, SMALL, "ink", anchor="lm")
            x += 30 + canvas.text_width(name, SMALL)
        y += 24
    for heading, rows in tables.items():
        y = _draw_table(canvas, y, heading, rows, list(overall.values()))
    return end(canvas, y, note)


def _draw_table(canvas: Canvas, y: float, heading: str, rows, overall: Sequence[float]) -> float:
    bars = "other_value" in rows[0][1][0]
    right = 372 if bars else WIDTH - MARGIN - 60
    top = y + 26
    bottom = top + _ROW * len(rows)
    canvas.text((MARGIN, y), heading, BODY, "ink", bold=True)
    ticks = {0.0: "", 1.0: ""}
    axes = Axes((0, 100), ticks, MARGIN + _NAMES, right, top, bottom)
    draw_x_axis(canvas, axes, size=SMALL, count=5)
    middle = (axes.left + axes.right) / 2
    canvas.text((middle, bottom + 30), "R1 (percent)", SMALL, "muted", anchor="ma")
    canvas.text((right + 58, y + 2), "captions", SMALL, "muted", anchor="ra")
    for value, color in zip(overall, SERIES, strict=False):
        canvas.line([(axes.x(value), top), (axes.x(value), bottom)], color, 1)
    wrong = Axes((0, 100), ticks, right + 84, WIDTH - MARGIN - 34, top, bottom)
    if bars:
        canvas.text((wrong.left, y + 2), "first photo shows another", SMALL, "muted")
        draw_x_axis(canvas, wrong, size=SMALL, count=2)
        canvas.text((wrong.left, bottom + 30), "percent of those captions", SMALL, "muted")
    for number, (name, found) in enumerate(rows):
        middle = top + (number + 0.5) * _ROW
        canvas.text((axes.left - 12, middle), name, SMALL, "ink", anchor="rm")
        canvas.text((right + 58, middle), f"{found[0]['captions']:,}", SMALL, "muted", anchor="rm")
        _draw_group(canvas, axes, middle, found)
        if bars:
            _draw_bars(canvas, wrong, middle, found)
    return bottom + 56


def _draw_group(canvas: Canvas, axes: Axes, middle: float, found: Sequence[dict]) -> None:
    apart = 5.0 if len(found) > 1 else 0.0
    for number, (group, color) in enumerate(zip(found, SERIES, strict=False)):
        y = middle + (number - (len(found) - 1) / 2) * apart
        canvas.line([(axes.x(group["low"]), y), (axes.x(group["high"]), y)], color, 1.5)
        canvas.disc((axes.x(group["R1"]), y), 3.5, color)


def _draw_bars(canvas: Canvas, axes: Axes, middle: float, found: Sequence[dict]) -> None:
    height = 12 / len(found)
    for number, (group, color) in enumerate(zip(found, SERIES, strict=False)):
        y, value = middle - 6 + number * height, group["other_value"]
        width = max(axes.x(value) - axes.left, 0.5)
        canvas.rectangle((axes.left, y), (width, height - 0.5), color)
    reach = axes.x(max(group["other_value"] for group in found))
    canvas.text(
        (reach + 6, middle), f"{found[0]['other_value']:.0f}", SMALL, SERIES[0], anchor="lm"
    )


def masking_chart(points: Sequence[dict], *, title: str, note: str) -> Canvas:
    """R1 and mAP of runs over their share of masked tokens, a line through the means of a share.

    `points` have "ratio", "R1" and "mAP".
    """
    canvas, top = begin(title)
    ratios = sorted({point["ratio"] for point in points})
    series = {
        name: (ratios, [mean([p[name] for p in points if p["ratio"] == r]) for r in ratios])
        for name in ("R1", "mAP")
    }
    axes = line_chart(
        canvas,
        (MARGIN, top, WIDTH - 2 * MARGIN, 310),
        series,
        title="percent",
        x_label="share of tokens masked in training",
        x_range=(0, max(ratios)),
        y_values=[point[name] for name in series for point in points],
    )
    for name, color in zip(series, SERIES, strict=False):
        for point in points:
            canvas.disc((axes.x(point["ratio"]), axes.y(point[name])), 4, color)
    return end(canvas, top + 324, note)
