"""Pictures: their sizes, and the colours and marks where a reader looks for them."""

import numpy as np
import pytest
from PIL import Image

from ivt_jax.reporting.sheet import line_chart
from ivt_jax.retrieval.canvas import Canvas
from ivt_jax.retrieval.figures import StripResult, StripRow, ranking_strip

GREY, BLUE = (128, 128, 128), (20, 40, 200)
GREEN = {"light": (13, 148, 97), "dark": (43, 181, 131)}
RED = {"light": (212, 61, 42), "dark": (240, 96, 74)}


def photo(color=GREY, size=(50, 120)):
    return Image.new("RGB", size, color)


def row(matches, *, caption="a woman in a red coat", query=None, label=""):
    results = [StripResult(photo(), 0.9 - 0.1 * i, match) for i, match in enumerate(matches)]
    return StripRow(caption, query, results, label)


def mask(picture, color):
    """Where the picture has exactly this colour, (height, width)."""
    return (np.asarray(picture) == np.array(color)).all(axis=-1)


def runs(line):
    """Lengths of the stretches of True in a line."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(int), [0]])))
    return (edges[1::2] - edges[::2]).tolist()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_frames_are_green_and_red_in_order(theme):
    picture = ranking_strip([row([True, False, False, True])], k=4, width=800, theme=theme)
    assert picture.mode == "RGB" and picture.width == 800
    green, red = mask(picture, GREEN[theme]), mask(picture, RED[theme])
    bottom = np.flatnonzero((green | red).sum(axis=1) > 300)[-1]  # lower edge of the frames
    assert len(runs(green[bottom])) == 2 and len(runs(red[bottom])) == 2
    starts = [np.flatnonzero(line)[[0, -1]] for line in (green[bottom], red[bottom])]
    assert starts[0][0] < starts[1][0] < starts[1][1] < starts[0][1]


def test_photos_are_shown_undistorted():
    tall, wide = photo(BLUE, (50, 120)), photo(BLUE, (100, 100))
    for image, ratio in ((tall, 2.4), (wide, 1.0)):
        picture = ranking_strip(
            [StripRow("a", None, [StripResult(image, 1.0, True)])], k=1, width=400
        )
        rows, columns = np.nonzero(mask(picture, BLUE))
        assert np.ptp(rows) / np.ptp(columns) == pytest.approx(ratio, abs=0.1)


def test_marks_differ_by_shape():
    """In black and white, the badge of a right photo is not that of a wrong one."""

    def badge(match):
        picture = ranking_strip([row([match])], k=1, width=400)
        color = GREEN["light"] if match else RED["light"]
        ys, xs = np.nonzero(mask(picture, color))
        ys, xs = ys[ys > 100], xs[ys > 100]
        corner = np.asarray(picture)[ys.min() : ys.min() + 50, xs.max() - 50 : xs.max()]
        return (corner == 255).all(axis=-1)

    right, wrong = badge(True), badge(False)
    assert right.sum() > 20 and wrong.sum() > 20
    assert (right != wrong).mean() > 0.02


def test_query_photo_is_optional():
    assert not mask(ranking_strip([row([True])]), BLUE).any()
    shown = ranking_strip([row([True], query=photo(BLUE))])
    assert mask(shown, BLUE).sum() > 5000


def test_same_query_is_drawn_once_for_two_models():
    image = photo(BLUE)
    one = row([False] * 10, query=image, label="pretrained only")
    two = row([True] * 10, query=image, label="fine-tuned")
    other = row([True] * 10, query=image, caption="a man in a green hat")
    single, pair = ranking_strip([one]), ranking_strip([one, two])
    assert mask(pair, BLUE).sum() == mask(single, BLUE).sum()
    assert mask(ranking_strip([one, other]), BLUE).sum() == 2 * mask(single, BLUE).sum()
    assert pair.height > 1.6 * single.height


def test_only_k_photos_and_short_rows():
    five = ranking_strip([row([True] * 9)], k=5)
    assert mask(five, GREY).sum() == mask(ranking_strip([row([True] * 5)], k=5), GREY).sum()
    assert mask(ranking_strip([row([True] * 2)], k=5), GREY).sum() < 0.5 * mask(five, GREY).sum()


def column_of_text(picture, width=1600):
    """Pixels that are not background in the caption's column, below the headings."""
    column = np.asarray(picture)[112:, : 28 + round(0.19 * width) + 12]
    return np.min(column, axis=2) < 200


@pytest.mark.parametrize(
    "caption",
    [
        "word " * 2000,
        "x" * 5000,
        "",
        "two\nlines\tand\x00more",
        "\u6f22\u5b57 \U0001f600 e\u0301" * 40,
    ],
)
def test_any_caption_stays_in_its_column(caption):
    picture = ranking_strip([row([True] * 10, caption=caption, query=photo(BLUE))])
    assert picture.size == ranking_strip([row([True] * 10, query=photo(BLUE))]).size
    text = column_of_text(picture)
    assert text.any() == bool(caption)
    assert not text[:, -10:].any()
    assert not text[-18:].any()


def test_long_caption_shrinks_instead_of_losing_words():
    start = "a woman in a red coat " * 22
    one, other = (ranking_strip([row([True], caption=start + end)]) for end in ("hat", "bag"))
    assert (column_of_text(one) != column_of_text(other)).any()


def test_accents_are_written_without():
    plain = ranking_strip([row([True], caption='a "cafe" man - Nandu')])
    accented = ranking_strip(
        [row([True], caption="a \u201ccaf\u00e9\u201d man \u2013 \u00d1and\u00fa")]
    )
    np.testing.assert_array_equal(plain, accented)


def test_strip_errors():
    with pytest.raises(ValueError, match="at least 1"):
        ranking_strip([])
    with pytest.raises(ValueError, match="at least 1"):
        ranking_strip([row([True])], k=0)
    with pytest.raises(ValueError, match="do not fit"):
        ranking_strip([row([True])], k=10, width=300)
    with pytest.raises(ValueError, match="dark"):
        ranking_strip([row([True])], theme="blue")


def chart(series, *, theme="light"):
    canvas = Canvas(1000, 560)
    line_chart(canvas, (0, 0, 1000, 560), series, title="t", x_label="step")
    return canvas.finish(theme)


FIRST = {"light": (0, 103, 168), "dark": (86, 180, 233)}
SECOND = {"light": (201, 79, 0), "dark": (240, 138, 60)}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_lines_rise_and_fall(theme):
    steps = list(range(0, 1001, 10))
    falling, rising = [10 - s / 200 for s in steps], [s / 250 for s in steps]
    picture = chart({"a": (steps, falling), "b": (steps, rising)}, theme=theme)
    for color, sign in ((FIRST[theme], 1), (SECOND[theme], -1)):
        ys, xs = np.nonzero(mask(picture, color)[:, :900])
        assert np.corrcoef(xs, ys)[0, 1] * sign > 0.95


def test_value_lands_on_its_grid_line():
    """A constant 5 in a chart that reaches from 0 to 10 lies half way between both."""
    picture = chart({" ": ([0, 1], [5, 5]), "  ": ([0, 1], [0, 10])})  # names without ink
    middle = np.flatnonzero(mask(picture, FIRST["light"]).sum(axis=1) > 300)
    ys = np.nonzero(mask(picture, SECOND["light"]))[0]
    assert middle.mean() == pytest.approx((ys.min() + ys.max()) / 2, abs=3)
    assert np.ptp(ys) > 350


@pytest.mark.parametrize("end", [0, 5, 10])
def test_names_do_not_overlap(end):
    """Six lines that end in one point: six names beside the chart, each its own rows of pixels."""
    picture = chart({f"line {i}": ([0, 0.5, 1], [0, 10, end]) for i in range(6)})
    labels = np.asarray(picture)[:, -30:].min(axis=(1, 2)) < 200
    assert len(runs(labels)) == 6
    assert np.flatnonzero(labels)[0] > 20 and np.flatnonzero(labels)[-1] < 525


@pytest.mark.parametrize(
    "points",
    [([5], [0.0003]), ([0, 1], [0, 0]), ([3, 3], [-2, -7]), ([0, 2e6], [1e-5, 1e12])],
)
def test_odd_ranges(points):
    assert mask(chart({"a": points}), FIRST["light"]).any()
