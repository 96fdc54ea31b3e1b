"""Garments and shoes on the limbs and the torso of a drawn person.

Each kind of garment has a trim of its own that shows from all sides, as its seams and collar would
on a larger photo: 96 x 48 pixels cannot show a button.
"""

import math
from collections.abc import Sequence

from ivt_jax.data.synthetic.drawing import (
    RGB,
    Canvas,
    Fabric,
    Point,
    darker,
    limb_outline,
    mix,
)
from ivt_jax.data.synthetic.figure import Figure, beyond

LONG_SLEEVES = ("shirt", "sweater", "jacket", "coat", "hoodie")
WRITINGS = ("TEAM", "CITY", "SURF", "ROCK", "88", "YES")
TRIMS: dict[str, RGB] = {  # of cuffs, hems and what else shows the kind; no garment's own colour
    "t-shirt": (150, 248, 186),
    "shirt": (146, 206, 255),
    "sweater": (190, 160, 250),
    "jacket": (178, 236, 52),
    "coat": (222, 34, 148),
    "hoodie": (46, 206, 206),
    "dress": (46, 206, 206),
    "trousers": (46, 206, 206),
    "jeans": (222, 34, 148),
    "shorts": (178, 236, 52),
    "skirt": (190, 160, 250),
}


def _cut(outline: Sequence[Point], top: float, bottom: float) -> list[Point]:
    """The part of a polygon between two heights."""
    outline = list(outline)
    for height, sign in ((top, 1), (bottom, -1)):
        kept = []
        for (x0, y0), (x1, y1) in zip(outline, outline[1:] + outline[:1], strict=True):
            if sign * (y0 - height) >= 0:
                kept.append((x0, y0))
            if (y0 - height) * (y1 - height) < 0:
                kept.append((x0 + (x1 - x0) * (height - y0) / (y1 - y0), height))
        outline = kept
    return outline


def _band(start: Point, end: Point, w0: float, w1: float) -> list[Point]:
    """A piece of a limb, cut straight at both ends."""
    long = math.dist(start, end) or 1.0
    x, y = (end[1] - start[1]) / long / 2, (start[0] - end[0]) / long / 2
    ends = ((start, w0), (end, w1), (end, -w1), (start, -w0))
    return [(p[0] + w * x, p[1] + w * y) for p, w in ends]


def _along(start: Point, end: Point, share: float) -> Point:
    return start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])


def fabric(figure: Figure) -> Fabric:
    """The cloth of the upper garment."""
    accent = figure.tint.get("pattern_colour", (255, 255, 255))
    return Fabric(figure.tint["upper_colour"], figure.attributes["pattern"], accent)


def draw_leg(canvas: Canvas, figure: Figure, d: int) -> None:
    """One leg with what is worn on it: skin, trouser leg and shoe."""
    hip, knee, ankle = figure.legs[d]
    shade = 0.2 if figure.profile and d < 0 else 0.05 if d > 0 else 0.0
    lower, width = figure.attributes["lower"], figure.build
    if lower not in ("trousers", "jeans"):
        skin = darker(figure.skin, shade)
        canvas.limb(hip, knee, 8.2 * width, 5.6, skin)
        canvas.limb(knee, ankle, 5.6, 4.0, skin)
    draw_shod_leg(canvas, figure, d, shade)


def draw_shod_leg(canvas: Canvas, figure: Figure, d: int, shade: float = 0.0) -> None:
    """Shoe and trouser leg: boots are worn over it, other shoes under it."""
    boots = figure.attributes["shoes"] == "boots"
    if not boots and figure.attributes["shoes"] != "none":
        draw_shoe(canvas, figure, d, shade)
    if figure.attributes["lower"] not in ("none", "skirt"):
        draw_trouser_leg(canvas, figure, d, shade)
    if boots:
        draw_shoe(canvas, figure, d, shade)


def draw_trouser_leg(canvas: Canvas, figure: Figure, d: int, shade: float = 0.0) -> None:
    """One leg of trousers, jeans or shorts."""
    hip, knee, ankle = figure.legs[d]
    lower, width = figure.attributes["lower"], figure.build
    with canvas.part("lower"):
        colour = darker(figure.tint["lower_colour"], shade)
        if lower == "shorts":
            end = _along(hip, knee, 0.76)
            canvas.polygon(limb_outline(hip, end, 9.8 * width, 9.8 * width), colour)
            low = _band(_along(hip, knee, 0.66), _along(hip, knee, 1.0), 10 * width, 10 * width)
            canvas.polygon(low, darker(TRIMS[lower], shade))
            return
        slim = 0.88 if lower == "jeans" else 1.0
        foot = (ankle[0], ankle[1] + (1.4 if lower == "trousers" else -0.5))
        canvas.limb(hip, knee, 9.4 * width, 7.8 * slim, colour)
        canvas.limb(knee, foot, 7.8 * slim, 7.0 * slim, colour)
        turned = darker(TRIMS[lower], shade)
        ends = _along(foot, knee, 0.32), _along(foot, knee, -0.16)
        canvas.polygon(_band(*ends, 8.6 * slim, 8.4 * slim), turned)
        if lower == "jeans":
            seam = 3.2 * (1 if d > 0 else -1) if not figure.profile else 0.0
            points = [(hip[0] + seam, hip[1] + 4), (knee[0] + seam * 0.7, knee[1])]
            canvas.line(points, turned, 0.9)


def draw_shoe(canvas: Canvas, figure: Figure, d: int, shade: float = 0.0) -> None:
    """The shoe at the end of a leg."""
    kind, (x, y) = figure.attributes["shoes"], figure.legs[d][2]
    colour = darker(figure.tint["shoes_colour"], shade)
    sole = darker(mix((238, 238, 232), (70, 60, 56), float(kind != "sneakers")), shade)
    with canvas.part("shoes"):
        if figure.profile:
            canvas.blob(
                [(x - 4, y + 5), (x - 3.8, y - 1), (x + 2.4, y - 1.6), (x + 5.2, y + 1.2)]
                + [(x + 9, y + 2.6), (x + 9.2, y + 5.4)],
                colour,
            )
            if kind == "boots":
                canvas.box(x - 3.9, y - 9.5, x + 3.4, y + 2, colour, 1)
            canvas.box(x - 4.2, y + 4.2, x + 9.6, y + 6, sole, 0.8)
            if kind == "sneakers":
                canvas.line([(x + 2.2, y + 0.6), (x + 4.8, y + 2.2)], sole, 1.0)
            return
        top = y - 9.5 if kind == "boots" else y - 1.2
        toe = x + d * 1.0
        canvas.box(x - 3.5, top, x + 3.5, y + 4, colour, 1.4)
        canvas.ellipse(toe, y + 3, 4.5, 3.4, colour)
        canvas.box(toe - 4.4, y + 4.4, toe + 4.4, y + 6.2, sole, 0.8)
        if kind == "sneakers" and figure.facing == "front":
            canvas.line([(toe - 1.8, y + 1.2), (toe + 1.8, y + 1.2)], sole, 0.9)


def draw_pelvis(canvas: Canvas, figure: Figure) -> None:
    """The top of the lower garment, or the whole of a skirt."""
    lower, width = figure.attributes["lower"], figure.build
    if lower == "none":
        return
    colour = figure.tint["lower_colour"]
    hip = (6.2 if figure.profile else 8.7) * width
    with canvas.part("lower"):
        if lower == "skirt":
            flare = hip + 4.6
            reach = max(abs(leg[1][0]) for leg in figure.legs.values())
            flare = max(flare, reach + 4)
            points = [(-hip * 0.85, 42), (hip * 0.85, 42), (hip + 1.2, 50), (flare, 71)]
            points += [(flare * 0.5, 72.4), (-flare * 0.5, 72.4), (-flare, 71), (-hip - 1.2, 50)]
            canvas.cloth(
                points,
                Fabric(colour),
                [(hip * 0.3, 42), (hip, 42), (flare, 71), (flare, 73), (flare * 0.55, 73)],
            )
            canvas.polygon(_cut(points, 65.5, 73), TRIMS[lower])
            return
        canvas.polygon([(-hip, 43), (hip, 43), (hip + 0.3, 53), (0, 58), (-hip - 0.3, 53)], colour)


def torso_outline(figure: Figure) -> list[Point]:
    """The outline of the upper garment without its sleeves."""
    kind, w = figure.attributes["upper"], figure.build
    man = figure.attributes["gender"] == "man"
    loose = {"t-shirt": 0.3, "shirt": 0.4, "dress": 0.0}.get(kind, 1.1)
    hem = {"t-shirt": 51.5, "shirt": 53.5, "coat": 77.0, "dress": 73.0}.get(kind, 53.0)
    flare = {"coat": 3.4, "dress": 7.0}.get(kind, 0.3)
    if figure.profile:
        chest, back = (6.4 if man else 6.8) * w + loose, -5.4 * w - loose
        waist = (5.6 if man else 4.6) * w + loose
        low = 6.0 * w + loose
        reach = [leg[1][0] for leg in figure.legs.values()] if hem > 60 else [0.0]
        front, rear = max(low + flare, max(reach) + 4), min(-low - flare, min(reach) - 4)
        points = [(2.6, 16.8), (5.0, 20), (chest, 28), (waist, 40), (low, 49), (front, hem)]
        points += [(rear, hem), (-low, 49), (-waist, 40), (back, 28), (back + 0.6, 21), (-3, 16.8)]
        return points
    shoulder = (11.2 if man else 9.8) * w + loose * 0.6
    waist = (9.0 if man else 7.0) * w + loose
    hip = (8.8 if man else 9.0) * w + loose
    half = [(3.4, 16.6), (shoulder - 2.0, 18.8), (shoulder, 22), (shoulder - 1.0, 29)]
    half += [(waist, 39), (hip, 49), (hip + flare, hem)]
    return half + [(-x, y) for x, y in reversed(half)]


def draw_torso(canvas: Canvas, figure: Figure) -> None:
    """The upper garment's body with its collar, hood, opening, logo or writing."""
    cloth, outline = fabric(figure), torso_outline(figure)
    right = max(x for x, _ in outline)
    low = max(y for _, y in outline)
    shade = [(right * 0.45, 14), (right + 1, 14), (right + 1, low + 1), (right * 0.62, low + 1)]
    if figure.profile:
        shade = [(-x * 0.8, y) for x, y in shade]
    with canvas.part("upper"):
        canvas.cloth(outline, cloth, shade)
        _trimmings(canvas, figure, outline, low)
        if figure.facing == "front":
            _front_details(canvas, figure, cloth)


def _trimmings(canvas: Canvas, figure: Figure, outline: list[Point], low: float) -> None:
    """What shows the kind of an upper garment from every side: its hem and one thing more."""
    kind = figure.attributes["upper"]
    colour = TRIMS[kind]
    canvas.polygon(_cut(outline, low - 5.0, low), colour)
    middle = 0.0 if not figure.profile else 4.6
    if kind == "shirt":
        canvas.box(middle - 2.0, 18, middle + 2.0, low, colour)
        canvas.polygon(_cut(outline, 16.0, 20.5), colour)
    elif kind == "sweater":
        canvas.polygon(_cut(outline, 25.0, 31.5), colour)
    elif kind in ("coat", "dress"):
        canvas.polygon(_cut(outline, 40.0, 44.0), colour)
    elif kind == "jacket":
        canvas.polygon(_cut(outline, 16.0, 20.5), colour)
    elif kind == "hoodie" and figure.facing == "front":
        canvas.ellipse(0, 18.0, 7.6, 4.4, colour)
        canvas.polygon([(-7, 49), (-5, 39), (5, 39), (7, 49)], colour)
    elif kind == "hoodie":
        x = -5.0 if figure.profile else 0.0
        hood = [(x - 6, 16), (x + 6, 16), (x + 5, 27), (x, 32), (x - 5, 27)]
        canvas.polygon(hood, colour)


def _front_details(canvas: Canvas, figure: Figure, cloth: Fabric) -> None:
    kind, dark = figure.attributes["upper"], darker(cloth.colour, 0.3)
    if kind in ("jacket", "coat"):
        inner = figure.tint["inner_colour"]
        end = 53.0 if kind == "jacket" else 40.0
        canvas.polygon([(-3.4, 16.2), (3.4, 16.2), (2.6, end), (-2.6, end)], inner)
        for d in (-1, 1):
            lapel = [(d * 3.0, 16), (d * 6.4, 19.5), (d * 5.4, 27), (d * 2.6, 32)]
            canvas.polygon(lapel, darker(cloth.colour, 0.18))
            canvas.line([(d * 2.9, 24), (d * 2.7, end)], dark, 0.6)
    elif kind == "shirt":
        for y in range(23, 53, 6):
            canvas.ellipse(0, y, 0.75, 0.75, dark)
    elif kind == "hoodie":
        canvas.ellipse(0, 16.8, 3.8, 2.6, darker(cloth.colour, 0.3))
        for d in (-1, 1):
            canvas.line([(d * 1.8, 21), (d * 2.0, 30)], TRIMS[kind], 0.9)
    else:
        canvas.ellipse(0, 16.6, 3.5, 2.4, figure.skin)
        canvas.arc(0, 16.6, (4.1, 3.2), (10, 170), dark, 0.8)
    if cloth.pattern == "logo":
        _logo(canvas, cloth.accent, figure.style)
    elif cloth.pattern == "writing":
        writing = WRITINGS[figure.style % len(WRITINGS)]
        canvas.text(0, 32, writing, 5.8 if len(writing) > 3 else 7.2, cloth.accent)


def _logo(canvas: Canvas, colour: RGB, style: int) -> None:
    if style % 3 == 0:
        canvas.ellipse(0, 31, 4.6, 4.6, colour)
    elif style % 3 == 1:
        star = [
            (
                0.0 + (5.6 if k % 2 == 0 else 2.4) * math.sin(k * math.pi / 5),
                31.5 - (5.6 if k % 2 == 0 else 2.4) * math.cos(k * math.pi / 5),
            )
            for k in range(10)
        ]
        canvas.polygon(star, colour)
    else:
        canvas.blob(
            [
                (0, 29),
                (2.4, 26.6),
                (5, 28.6),
                (3.6, 32),
                (0, 36),
                (-3.6, 32),
                (-5, 28.6),
                (-2.4, 26.6),
            ],
            colour,
        )


def draw_arm(canvas: Canvas, figure: Figure, d: int) -> None:
    """One arm with its sleeve and hand."""
    shoulder, elbow, wrist = figure.arms[d]
    shade = 0.24 if figure.profile and d < 0 else 0.1 if d > 0 else 0.04
    skin = darker(figure.skin, shade * 0.6)
    bulk = figure.build * (1.0 if figure.attributes["gender"] == "man" else 0.88)
    canvas.ellipse(*beyond(elbow, wrist, 1.7), 2.3, 2.5, skin)
    if figure.attributes["upper"] not in LONG_SLEEVES:
        canvas.limb(shoulder, elbow, 5.2 * bulk, 4.2 * bulk, skin)
        canvas.limb(elbow, wrist, 4.2 * bulk, 3.2, skin)
    draw_sleeve(canvas, figure, d, shade)


def draw_sleeve(canvas: Canvas, figure: Figure, d: int, shade: float = 0.0) -> None:
    """The upper garment on one arm."""
    shoulder, elbow, wrist = figure.arms[d]
    kind, cloth = figure.attributes["upper"], fabric(figure)
    bulk = figure.build * (1.0 if figure.attributes["gender"] == "man" else 0.88)
    with canvas.part("upper"):
        sleeve = cloth._replace(
            colour=darker(cloth.colour, shade), accent=darker(cloth.accent, shade)
        )
        if sleeve.pattern in ("logo", "writing"):
            sleeve = sleeve._replace(pattern="plain")
        colour = darker(TRIMS[kind], shade)
        if kind in LONG_SLEEVES:
            thick = bulk * (1.12 if kind in ("jacket", "coat", "hoodie", "sweater") else 1.0)
            canvas.cloth(limb_outline(elbow, wrist, 5.4 * thick, 4.7 * thick), sleeve)
            canvas.cloth(limb_outline(shoulder, elbow, 6.6 * thick, 5.5 * thick), sleeve)
            cuff = _along(elbow, wrist, 0.6), _along(elbow, wrist, 1.1)
            canvas.polygon(_band(*cuff, 5.8 * thick, 5.5 * thick), colour)
            if kind == "jacket":
                ends = _along(shoulder, elbow, 0.35), _along(shoulder, elbow, 0.7)
                canvas.polygon(_band(*ends, 6.7 * thick, 6.5 * thick), colour)
            return
        part = 0.55 if kind == "t-shirt" else 0.3
        end = _along(shoulder, elbow, part)
        canvas.cloth(limb_outline(shoulder, end, 7.0 * bulk, 7.4 * bulk), sleeve)
        if kind == "t-shirt":
            edge = _along(shoulder, elbow, 0.4), _along(shoulder, elbow, 0.75)
            canvas.polygon(_band(*edge, 7.6 * bulk, 7.6 * bulk), colour)
