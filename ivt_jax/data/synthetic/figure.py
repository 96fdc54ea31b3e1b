"""The body of a drawn person in one pose: who wears what, and where the joints are.

Units are hundredths of the body's height: the top of the head is at y = 0, the ground at y = 100,
x = 0 is the middle of the body. Profiles are drawn facing right and mirrored by the canvas.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from ivt_jax.data.synthetic.attributes import COLOURS
from ivt_jax.data.synthetic.drawing import RGB, Point

SKINS: tuple[RGB, ...] = (
    (250, 214, 186),
    (238, 190, 154),
    (214, 158, 118),
    (164, 110, 76),
    (112, 74, 54),
)


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


def beyond(start: Point, end: Point, length: float) -> Point:
    """The point `length` beyond the end of a rod."""
    size = math.dist(start, end) or 1.0
    return (
        end[0] + (end[0] - start[0]) / size * length,
        end[1] + (end[1] - start[1]) / size * length,
    )


def hand(figure: Figure, d: int) -> Point:
    """Where the hand of a screen side is."""
    return beyond(figure.arms[d][1], figure.arms[d][2], 1.7)
