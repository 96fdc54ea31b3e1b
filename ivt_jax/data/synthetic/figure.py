"""The body of a drawn person in one pose, and the garments on it.

Units are hundredths of the body's height: the top of the head is at y = 0, the ground at y = 100,
x = 0 is the middle of the body. Profiles are drawn facing right and mirrored by the canvas.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from ivt_jax.data.synthetic.attributes import COLOURS
from ivt_jax.data.synthetic.drawing import (
    RGB,
    Canvas,
    Fabric,
    Point,
    darker,
    lighter,
    limb_outline,
    mix,
)

SKINS: tuple[RGB, ...] = (
    (250, 214, 186),
    (238, 190, 154),
    (214, 158, 118),
    (164, 110, 76),
    (112, 74, 54),
)
LONG_SLEEVES = ("shirt", "sweater", "jacket", "coat", "hoodie")
WRITINGS = ("TEAM", "CITY", "SURF", "ROCK", "88", "YES")


@dataclass
class Figure:
    """A body in a pose: who wears what, seen from where, and where the joints are."""

    attributes: dict[str, str]
    facing: str  # "front" | "back" | "left" | "right"
    skin: RGB
    build: float  # width of the body, about 0.92 to 1.12
    style: int  # small choices that no attribute names, such as the word of a writing
    tint: dict[str, RGB]  # attribute name -> its colour as worn by this person
    arms: dict[int, tuple[Point, Point, Point]] = field(default_factory=dict)  # by screen side
    legs: dict[int, tuple[Point, Point, Point]] = field(default_factory=dict)

    @property
    def profile(self) -> bool:
        """Whether the person is seen from the side."""
        return self.facing in ("left", "right")

    def side(self, body_side: str) -> int:
        """Screen side, -1 or 1, of the body's left or right; in a profile 1 is the near side."""
        if self.profile:
            return 1 if body_side == self.facing else -1
        return 1 if (body_side == "left") == (self.facing == "front") else -1


def worn_colours(attributes: dict[str, str], rng: np.random.Generator) -> dict[str, RGB]:
    """The colours of one person's things: each named colour in a slightly own shade."""
    worn = {}
    for name in sorted(attributes):
        value = attributes[name]
        shift = rng.integers(-9, 10, 3)
        if value in COLOURS and name != "hair_colour":
            r, g, b = np.clip(np.array(COLOURS[value]) + shift, 8, 252)
            worn[name] = (int(r), int(g), int(b))
    return worn


def pose(figure: Figure, actions: dict[int, str], *, stride: float, bend: float) -> None:
    """Sets the joints. `actions` names what each arm does; `stride` is in degrees, signed."""
    if figure.profile:
        _pose_profile(figure, actions, stride)
    else:
        _pose_frontal(figure, actions, stride, bend)


def _pose_frontal(figure: Figure, actions: dict[int, str], stride: float, bend: float) -> None:
    shoulder = (10.4 if figure.attributes["gender"] == "man" else 9.0) * figure.build
    for d in (-1, 1):
        s = (d * shoulder, 22.0)
        action = actions[d]
        if action == "hip":
            arm = (s, _turn(s, 15, d * 36), (d * 9.5 * figure.build, 47.0))
        elif action == "up":
            e = _turn(s, 13.5, d * 22)
            arm = (s, e, (e[0] + d * 0.5, e[1] - 12.5))
        elif action == "hold":
            arm = (s, _turn(s, 14.5, d * 14), (d * 4.5, 31.0))
        else:
            e = _turn(s, 15.0, d * (8 + bend))
            arm = (s, e, _turn(e, 14.0, d * (bend * 0.5 - 1)))
        figure.arms[d] = arm
        lift = max(0.0, d * stride) * 0.13
        hip = (d * 4.3 * figure.build, 51.0)
        knee = (hip[0] + d * 0.6, 73.5 - lift * 0.4)
        figure.legs[d] = (hip, knee, (knee[0] + d * (0.2 + 0.04 * abs(stride)), 94.0 - lift))


def _pose_profile(figure: Figure, actions: dict[int, str], stride: float) -> None:
    for d in (-1, 1):
        swing = d * stride
        thigh = swing * 0.9 + 2
        knee_bend = 6 + max(0.0, -swing) * 0.9
        knee = _turn((0.0, 51.0), 22.5, thigh)
        figure.legs[d] = ((0.0, 51.0), knee, _turn(knee, 21.0, thigh - knee_bend))
        s = (-0.6, 22.5)
        if actions[d] == "up":
            e = _turn(s, 13.5, 24)
            arm = (s, e, (e[0] + 6.0, e[1] - 11.0))
        elif actions[d] == "hold":
            e = _turn(s, 14.5, 6)
            arm = (s, e, (e[0] + 12.0, e[1] - 5.0))
        elif actions[d] == "trail":
            arm = (s, _turn(s, 15, -16), _turn(_turn(s, 15, -16), 14, -12))
        elif actions[d] == "carry":
            arm = (s, _turn(s, 15, 3), _turn(_turn(s, 15, 3), 14, 5))
        else:
            e = _turn(s, 15.0, -swing * 0.8 - 3)
            arm = (s, e, _turn(e, 14.0, -swing * 0.8 + 14))
        figure.arms[d] = arm
    drop = 94.0 - max(leg[2][1] for leg in figure.legs.values())
    for d, leg in figure.legs.items():
        hip, knee, ankle = leg
        figure.legs[d] = (hip, (knee[0], knee[1] + drop * 0.6), (ankle[0], ankle[1] + drop))


def _turn(start: Point, length: float, degrees: float) -> Point:
    """The end of a rod hanging from `start`, turned by degrees towards +x."""
    angle = math.radians(degrees)
    return start[0] + length * math.sin(angle), start[1] + length * math.cos(angle)


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
            end = (hip[0] + 0.92 * (knee[0] - hip[0]), hip[1] + 0.92 * (knee[1] - hip[1]))
            canvas.polygon(limb_outline(hip, end, 9.8 * width, 9.2 * width), colour)
            return
        slim = 0.88 if lower == "jeans" else 1.0
        foot = (ankle[0], ankle[1] + (1.4 if lower == "trousers" else -0.5))
        canvas.limb(hip, knee, 9.4 * width, 7.8 * slim, colour)
        canvas.limb(knee, foot, 7.8 * slim, 7.0 * slim, colour)
        if lower == "jeans":
            canvas.box(
                foot[0] - 3.3, foot[1] - 2.2, foot[0] + 3.3, foot[1] + 1, lighter(colour, 0.32), 0.8
            )
            seam = 3.2 * (1 if d > 0 else -1) if not figure.profile else 0.0
            points = [(hip[0] + seam, hip[1] + 4), (knee[0] + seam * 0.7, knee[1])]
            canvas.line(points, lighter(colour, 0.3), 0.6)


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
            for x in (-0.4, 0.15):
                canvas.line([(x * hip, 54), (x * flare, 70)], darker(colour, 0.14), 0.7)
            return
        canvas.polygon([(-hip, 43), (hip, 43), (hip + 0.3, 53), (0, 58), (-hip - 0.3, 53)], colour)


def torso_outline(figure: Figure) -> list[Point]:
    """The outline of the upper garment without its sleeves."""
    kind, w = figure.attributes["upper"], figure.build
    man = figure.attributes["gender"] == "man"
    loose = {"t-shirt": 0.3, "shirt": 0.4, "dress": 0.0}.get(kind, 1.1)
    hem = {"t-shirt": 51.5, "shirt": 53.5, "coat": 75.0, "dress": 69.0}.get(kind, 53.0)
    flare = {"coat": 3.4, "dress": 5.5}.get(kind, 0.3)
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
    kind, cloth = figure.attributes["upper"], fabric(figure)
    outline = torso_outline(figure)
    right = max(x for x, _ in outline)
    low = max(y for _, y in outline)
    shade = [(right * 0.45, 14), (right + 1, 14), (right + 1, low + 1), (right * 0.62, low + 1)]
    if figure.profile:
        shade = [(-x * 0.8, y) for x, y in shade]
    with canvas.part("upper"):
        canvas.cloth(outline, cloth, shade)
        if figure.facing == "front":
            _front_details(canvas, figure, cloth, low)
        elif kind == "hoodie":
            colour = darker(cloth.colour, 0.12)
            x = -4.5 if figure.profile else 0.0
            canvas.ellipse(x, 19.5, 3.2 if figure.profile else 6.4, 4.2, colour)
        elif kind in ("jacket", "coat") and figure.profile:
            canvas.box(0.5, 44, 4.5, 45.2, darker(cloth.colour, 0.3))
        if kind in ("sweater", "hoodie", "jacket"):
            edge = darker(cloth.colour, 0.22)
            canvas.box(min(x for x, _ in outline) + 0.4, low - 2, right - 0.4, low, edge, 0.8)
        if kind in ("coat", "dress"):
            waist = (5.6 if figure.profile else 8.6) * figure.build
            y = 41.5 if kind == "coat" else 40.0
            canvas.box(-waist, y, waist, y + 2, darker(cloth.colour, 0.3), 0.6)


def _front_details(canvas: Canvas, figure: Figure, cloth: Fabric, low: float) -> None:
    kind, dark = figure.attributes["upper"], darker(cloth.colour, 0.3)
    if kind in ("jacket", "coat"):
        inner = figure.tint["inner_colour"]
        end = low if kind == "jacket" else 41.0
        canvas.polygon([(-3.4, 16.2), (3.4, 16.2), (2.6, end), (-2.6, end)], inner)
        for d in (-1, 1):
            lapel = [(d * 3.0, 16), (d * 6.4, 19.5), (d * 5.4, 27), (d * 2.6, 32)]
            canvas.polygon(lapel, darker(cloth.colour, 0.18))
            canvas.line([(d * 2.9, 24), (d * 2.7, end)], dark, 0.6)
    elif kind == "shirt":
        canvas.line([(0, 18), (0, low)], dark, 0.7)
        for y in range(23, int(low), 6):
            canvas.ellipse(0, y, 0.75, 0.75, lighter(cloth.colour, 0.75))
        for d in (-1, 1):
            canvas.polygon(
                [(0, 19), (d * 4.2, 15.2), (d * 5.2, 19.8), (d * 2, 22)],
                lighter(cloth.colour, 0.25),
            )
    elif kind == "hoodie":
        canvas.ellipse(0, 17.6, 6.6, 3.4, darker(cloth.colour, 0.2))
        canvas.polygon([(-5.6, 52), (-3.8, 41), (3.8, 41), (5.6, 52)], darker(cloth.colour, 0.14))
        for d in (-1, 1):
            canvas.line([(d * 1.6, 20), (d * 1.8, 27)], lighter(cloth.colour, 0.7), 0.7)
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
    canvas.ellipse(*_beyond(elbow, wrist, 1.7), 2.3, 2.5, skin)
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
        if kind in LONG_SLEEVES:
            thick = bulk * (1.12 if kind in ("jacket", "coat", "hoodie", "sweater") else 1.0)
            canvas.cloth(limb_outline(elbow, wrist, 5.4 * thick, 4.7 * thick), sleeve)
            canvas.cloth(limb_outline(shoulder, elbow, 6.6 * thick, 5.5 * thick), sleeve)
            return
        part = 0.55 if kind == "t-shirt" else 0.3
        end = tuple(a + part * (b - a) for a, b in zip(shoulder, elbow, strict=True))
        canvas.cloth(limb_outline(shoulder, (end[0], end[1]), 7.0 * bulk, 7.4 * bulk), sleeve)


def _beyond(start: Point, end: Point, length: float) -> Point:
    """The point `length` beyond the end of a rod."""
    size = math.dist(start, end) or 1.0
    return (
        end[0] + (end[0] - start[0]) / size * length,
        end[1] + (end[1] - start[1]) / size * length,
    )


def hand(figure: Figure, d: int) -> Point:
    """Where the hand of a screen side is."""
    return _beyond(figure.arms[d][1], figure.arms[d][2], 1.7)
