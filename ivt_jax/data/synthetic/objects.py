"""Things that stand in scenes, each drawn 100 units high on (0, 0), its ground point.

Clothes and bags are the ones that drawn people wear, so words learned here are useful there.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ivt_jax.data.synthetic import accessories, figure, garments
from ivt_jax.data.synthetic.attributes import ATTRIBUTES, COLOURS
from ivt_jax.data.synthetic.drawing import (
    RGB,
    Canvas,
    Fabric,
    darker,
    generator,
    lighter,
    smooth,
)

WOOD: RGB = (156, 112, 78)
_METAL: RGB = (104, 110, 122)


@dataclass(frozen=True)
class Item:
    """One kind of thing in a scene, `count` times."""

    kind: str
    colour: str
    pattern: str = "plain"
    accent: str = "none"
    count: int = 1
    style: int = 0  # small choices that no caption names

    def fabric(self) -> Fabric:
        """Its colour and pattern."""
        return Fabric(COLOURS[self.colour], self.pattern, COLOURS.get(self.accent, (255, 255, 255)))


def draw_item(canvas: Canvas, item: Item, x: float, base: float, height: float) -> None:
    """Draws one thing `height` stored pixels high, standing on (x, base)."""
    if item.kind in _WORN:
        _draw_worn(canvas, item, x, base, height)
        return
    canvas.place(x, base, height / 100)
    if item.kind not in ("balloon", "bird", "kite"):
        canvas.shadow(0, 0, 46, 8, 0.5)
    _DRAWN[item.kind](canvas, item)


def _house(c: Canvas, item: Item) -> None:
    wall = item.fabric()
    c.cloth(
        [(-42, 0), (42, 0), (42, -58), (-42, -58)],
        wall,
        [(14, 0), (42, 0), (42, -58), (14, -58)],
        16,
    )
    c.polygon([(-50, -56), (0, -100), (50, -56)], (148, 84, 70))
    c.polygon([(6, -95), (0, -100), (50, -56), (36, -56)], (124, 68, 62))
    c.box(-9, -34, 9, 0, (110, 76, 56), 2)
    for x in (-27, 27):
        c.box(x - 8, -44, x + 8, -26, (250, 250, 244), 1)
        c.box(x - 6, -42, x + 6, -28, (178, 214, 234))


def _tree(c: Canvas, item: Item) -> None:
    leaf = item.fabric().colour
    c.polygon([(-6, 0), (6, 0), (4, -52), (-4, -52)], WOOD)
    for x, y, r, tone in (
        (-16, -54, 20, darker(leaf, 0.1)),
        (16, -56, 20, leaf),
        (0, -72, 27, leaf),
        (8, -80, 14, lighter(leaf, 0.18)),
    ):
        c.ellipse(x, y, r, r, tone)


def _car(c: Canvas, item: Item) -> None:
    colour = item.fabric().colour
    c.polygon(smooth([(-56, -50), (-34, -96), (30, -96), (62, -50)], 4), colour)
    c.polygon([(-42, -52), (-28, -86), (-4, -86), (-4, -52)], (206, 226, 236))
    c.polygon([(4, -52), (4, -86), (24, -86), (44, -52)], (206, 226, 236))
    c.box(-88, -58, 88, -16, colour, 14)
    c.box(-88, -28, 88, -16, darker(colour, 0.25), 6)
    c.box(78, -50, 88, -38, (255, 236, 170), 3)
    c.box(-88, -50, -80, -38, (214, 70, 66), 3)
    for x in (-50, 50):
        c.ellipse(x, -18, 19, 19, (44, 44, 52))
        c.ellipse(x, -18, 9, 9, (204, 206, 210))


def _bus(c: Canvas, item: Item) -> None:
    colour = item.fabric().colour
    c.box(-80, -96, 80, -12, colour, 9)
    c.box(-80, -36, 80, -26, lighter(colour, 0.45))
    for x in (-66, -36, -6, 24):
        c.box(x, -84, x + 24, -52, (202, 226, 238), 3)
    c.box(56, -84, 76, -16, (180, 208, 222), 3)
    for x in (-46, 40):
        c.ellipse(x, -14, 14, 14, (44, 44, 52))
        c.ellipse(x, -14, 6, 6, (204, 206, 210))


def _boat(c: Canvas, item: Item) -> None:
    cloth = item.fabric()
    c.line([(0, -20), (0, -98)], WOOD, 4)
    c.cloth([(5, -96), (52, -32), (5, -32)], cloth, period=15)
    c.polygon([(-5, -86), (-38, -32), (-5, -32)], (250, 248, 240))
    c.polygon([(-60, -26), (60, -26), (40, 0), (-44, 0)], darker(cloth.colour, 0.25))
    c.polygon([(-60, -26), (60, -26), (57, -20), (-57, -20)], lighter(cloth.colour, 0.5))


def _bicycle(c: Canvas, item: Item) -> None:
    colour = item.fabric().colour
    for x in (-44, 44):
        c.arc(x, -32, (32, 32), (0, 360), (50, 50, 58), 5)
        c.arc(x, -32, (27, 27), (0, 360), (190, 194, 200), 1.5)
    c.line([(-44, -32), (-20, -78), (28, -78), (-4, -32), (-44, -32)], colour, 6)
    c.line([(-4, -32), (-24, -88)], colour, 6)
    c.line([(44, -32), (26, -92), (40, -96)], colour, 6)
    c.line([(-36, -90), (-12, -90)], (60, 48, 44), 7)


def _bench(c: Canvas, item: Item) -> None:
    colour = item.fabric().colour
    for x in (-62, 62):
        c.box(x - 4, -96, x + 4, 0, (72, 72, 80), 2)
    for y in (-94, -76):
        c.box(-80, y, 80, y + 13, colour, 3)
    c.box(-84, -52, 84, -40, lighter(colour, 0.15), 3)
    c.box(-84, -42, 84, -36, darker(colour, 0.25), 2)


def _cat(c: Canvas, item: Item) -> None:
    cloth = item.fabric()
    coat = cloth.colour
    c.line([(26, -8), (44, -12), (46, -36), (38, -46)], coat, 8)
    c.cloth(
        smooth([(-24, 0), (24, 0), (27, -24), (14, -58), (-14, -58), (-27, -24)]), cloth, period=16
    )
    for d in (-1, 1):
        c.polygon([(d * 7, -88), (d * 21, -100), (d * 21, -74)], coat)
        c.ellipse(d * 10, -3, 9, 5, lighter(coat, 0.25))
    c.ellipse(0, -70, 24, 20, coat)
    for d in (-1, 1):
        c.ellipse(d * 9, -72, 4, 5, (236, 226, 120))
        c.ellipse(d * 9, -72, 1.8, 4, (24, 24, 24))
    c.polygon([(-3, -64), (3, -64), (0, -60)], (226, 130, 130))


def _dog(c: Canvas, item: Item) -> None:
    coat = item.fabric().colour
    dark = darker(coat, 0.3)
    c.line([(-44, -52), (-60, -76)], coat, 8)
    for x in (-38, -24, 18, 32):
        c.box(x - 6, -30, x + 6, 0, darker(coat, 0.12) if x in (-24, 18) else coat, 4)
    c.box(-48, -62, 40, -24, coat, 18)
    c.ellipse(44, -74, 22, 20, coat)
    c.ellipse(62, -67, 13, 9, lighter(coat, 0.2))
    c.ellipse(72, -71, 4.5, 4, (30, 26, 28))
    c.ellipse(50, -80, 3.4, 3.8, (30, 26, 28))
    c.polygon(smooth([(26, -90), (38, -90), (36, -62), (26, -56)]), dark)
    c.line([(26, -56), (40, -54)], (206, 60, 60), 6)


def _bird(c: Canvas, item: Item) -> None:
    coat = item.fabric().colour
    c.polygon([(-30, -40), (-70, -58), (-66, -30)], darker(coat, 0.2))
    c.ellipse(0, -42, 40, 28, coat)
    c.ellipse(32, -72, 21, 20, coat)
    c.polygon([(50, -76), (72, -68), (50, -64)], (240, 168, 60))
    c.ellipse(38, -77, 4, 4, (26, 26, 30))
    c.polygon(smooth([(-24, -50), (14, -58), (8, -28), (-30, -26)]), darker(coat, 0.26))
    for x in (-6, 10):
        c.line([(x, -16), (x, 0)], (220, 150, 60), 4)


def _ball(c: Canvas, item: Item) -> None:
    circle = [(50 * np.cos(a), -50 + 50 * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 40)]
    c.cloth(circle, item.fabric(), period=28)
    c.ellipse(-18, -72, 10, 7, lighter(item.fabric().colour, 0.55))


def _cup(c: Canvas, item: Item) -> None:
    cloth = item.fabric()
    c.arc(46, -48, (22, 24), (-90, 90), darker(cloth.colour, 0.15), 10)
    c.cloth(
        [(-46, -94), (46, -94), (38, -2), (-38, -2)],
        cloth,
        [(16, -94), (46, -94), (38, 0), (14, 0)],
        26,
    )
    c.ellipse(0, -94, 46, 8, lighter(cloth.colour, 0.35))
    c.ellipse(0, -93, 39, 5.5, (98, 66, 48))


def _flower(c: Canvas, item: Item) -> None:
    colour = item.fabric().colour
    c.line([(0, 0), (0, -62)], (84, 140, 80), 6)
    c.polygon(smooth([(0, -18), (16, -40), (32, -42), (22, -22)]), (96, 156, 88))
    c.polygon(smooth([(0, -10), (-16, -30), (-32, -32), (-22, -12)]), (84, 140, 80))
    for k in range(6):
        c.ellipse(19 * np.cos(k * np.pi / 3), -72 + 19 * np.sin(k * np.pi / 3), 14, 14, colour)
    heart = (250, 210, 90) if item.colour not in ("yellow", "orange") else (120, 76, 50)
    c.ellipse(0, -72, 12, 12, heart)


def _lamp(c: Canvas, item: Item) -> None:
    cloth = item.fabric()
    c.ellipse(0, -3, 24, 5, _METAL)
    c.box(-3, -56, 3, -3, _METAL)
    c.ellipse(0, -54, 30, 6, (255, 240, 190))
    c.cloth([(-20, -100), (20, -100), (36, -54), (-36, -54)], cloth, period=18)


def _balloon(c: Canvas, item: Item) -> None:
    c.line([(0, -34), (3, -16), (-2, 0)], (120, 120, 128), 2.2)
    round_ = [(31 * np.cos(a), -67 + 35 * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 36)]
    c.cloth(round_, item.fabric(), period=20)
    c.polygon([(0, -34), (-6, -27), (6, -27)], darker(item.fabric().colour, 0.2))
    c.ellipse(-12, -82, 6, 8, lighter(item.fabric().colour, 0.55))


def _kite(c: Canvas, item: Item) -> None:
    cloth = item.fabric()
    c.line([(0, -30), (10, -18), (-6, -10), (4, 0)], darker(cloth.colour, 0.2), 3)
    c.cloth(
        [(0, -100), (32, -66), (0, -26), (-32, -66)], cloth, [(0, -100), (32, -66), (0, -26)], 18
    )


def _chair(c: Canvas, item: Item) -> None:
    colour = item.fabric().colour
    for x in (-28, 28):
        c.box(x - 4, -44, x + 4, 0, darker(WOOD, 0.2), 1)
    c.box(-32, -100, 32, -56, colour, 9)
    c.box(-36, -54, 36, -40, lighter(colour, 0.12), 6)


def _book(c: Canvas, item: Item) -> None:
    cloth = item.fabric()
    c.cloth([(-36, -98), (36, -98), (36, -4), (-36, -4)], cloth, period=22)
    c.box(-36, -98, -28, -4, darker(cloth.colour, 0.3))
    c.box(-16, -82, 24, -62, (250, 246, 232), 2)
    c.box(-33, -6, 36, 0, (246, 242, 230), 1)


def _sign(c: Canvas, item: Item) -> None:
    colour = item.fabric().colour
    c.box(-3, -60, 3, 0, _METAL)
    if item.style % 2:
        c.ellipse(0, -72, 28, 28, (250, 250, 246))
        c.ellipse(0, -72, 25, 25, colour)
    else:
        c.box(-30, -98, 30, -48, (250, 250, 246), 5)
        c.box(-27, -95, 27, -51, colour, 4)
    c.box(-14, -76, 14, -68, lighter(colour, 0.85), 1)


_DRAWN: dict[str, Callable[[Canvas, Item], None]] = {
    "house": _house,
    "tree": _tree,
    "car": _car,
    "bus": _bus,
    "boat": _boat,
    "bicycle": _bicycle,
    "bench": _bench,
    "cat": _cat,
    "dog": _dog,
    "bird": _bird,
    "ball": _ball,
    "mug": _cup,
    "flower": _flower,
    "lamp": _lamp,
    "balloon": _balloon,
    "kite": _kite,
    "chair": _chair,
    "notebook": _book,
    "sign": _sign,
}
# Clothes: which attribute they are and where they lie on a figure: middle x, top y, bottom y.
_WORN: dict[str, tuple[str, float, float, float]] = {
    **{k: ("upper", 0, 14, 55) for k in ("t-shirt", "shirt", "sweater", "jacket", "hoodie")},
    **{k: ("upper", 0, 14, 76) for k in ("coat", "dress")},
    **{k: ("lower", 0, 42, 96) for k in ("trousers", "jeans")},
    **{k: ("lower", 0, 42, 73) for k in ("shorts", "skirt")},
    **{k: ("shoes", 0, 84, 101) for k in ("sneakers", "boots", "leather shoes")},
    **{k: ("hat", 0, -6, 7) for k in ("cap", "beanie", "brimmed hat")},
    "backpack": ("bag", 0, 17, 47),
    "shoulder bag": ("bag", 9.6, 30, 58),
    "handbag": ("bag", 11.4, 50, 67),
    "suitcase": ("bag", 17.5, 62, 100),
    "umbrella": ("umbrella", 6, -20, 24),
    "scarf": ("scarf", 0, 12, 37),
}


def dressed(attributes: dict[str, str], style: int) -> figure.Figure:
    """A figure with nobody in it: the clothes lie or hang as if worn."""
    rng = generator(style, 77)
    body = figure.Figure(
        attributes=attributes,
        facing="front",
        skin=(226, 222, 216),
        build=1.04,
        style=style,
        tint=figure.worn_colours(attributes, rng),
    )
    figure.pose(body, {-1: "down", 1: "down"}, stride=0.0, bend=9.0)
    return body


def draw_clothes(canvas: Canvas, body: figure.Figure) -> None:
    """All that the figure's attributes name, without a body; a backpack is not drawn."""
    worn = body.attributes
    accessories.draw_umbrella(canvas, body)
    if worn["bag"] == "suitcase":
        accessories.draw_suitcase(canvas, body)
    for d in (-1, 1):
        garments.draw_shod_leg(canvas, body, d)
    garments.draw_pelvis(canvas, body)
    if worn["upper"] != "none":
        for d in (-1, 1):
            garments.draw_sleeve(canvas, body, d, 0.08)
        garments.draw_torso(canvas, body)
    if worn["bag"] in ("handbag", "shoulder bag"):
        accessories.draw_small_bag(canvas, body)
    accessories.draw_scarf(canvas, body)
    accessories.draw_hat(canvas, body)


def draw_upright_backpack(canvas: Canvas, body: figure.Figure) -> None:
    """A backpack as seen on somebody's back."""
    body.facing = "back"
    accessories.draw_backpack(canvas, body)
    body.facing = "front"


def _draw_worn(canvas: Canvas, item: Item, x: float, base: float, height: float) -> None:
    name, middle, top, bottom = _WORN[item.kind]
    attributes = dict.fromkeys(ATTRIBUTES, "none")
    attributes |= {"gender": ("man", "woman")[item.style % 2], "bag_side": "left"}
    if name in ("umbrella", "scarf"):
        attributes[name] = item.colour
    else:
        attributes |= {name: item.kind, f"{name}_colour": item.colour}
    if name == "upper":
        attributes |= {"pattern": item.pattern, "pattern_colour": item.accent}
        attributes["inner_colour"] = "white" if item.colour != "white" else "gray"
    scale = height / (bottom - top)
    canvas.place(x - middle * scale, base - bottom * scale, scale)
    body = dressed(attributes, item.style)
    if name == "umbrella":
        body.arms[-1] = ((0, 0), (12, 4), (12, 20))
    if name == "bag" and item.kind != "backpack":
        canvas.shadow(middle, bottom, 8, 1.6)
    draw_clothes(canvas, body)
    if item.kind == "backpack":
        draw_upright_backpack(canvas, body)
