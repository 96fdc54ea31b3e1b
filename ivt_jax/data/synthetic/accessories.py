"""Head, hair and everything carried: drawn on a Figure in its units."""

from ivt_jax.data.synthetic.attributes import COLOURS, HAIR_COLOURS, bag_hidden
from ivt_jax.data.synthetic.drawing import RGB, Canvas, darker, lighter, mix, smooth
from ivt_jax.data.synthetic.figure import Figure, hand

_INK: RGB = (44, 36, 44)


def _hair(figure: Figure) -> RGB:
    return HAIR_COLOURS.get(figure.attributes["hair_colour"], (90, 70, 60))


def draw_back_hair(canvas: Canvas, figure: Figure) -> None:
    """Hair that falls behind the neck and the shoulders."""
    style, colour = figure.attributes["hair_style"], darker(_hair(figure), 0.18)
    with canvas.part("hair"):
        if style == "long" and figure.facing == "front":
            canvas.blob(
                [
                    (-6, 4),
                    (0, 1),
                    (6, 4),
                    (7.6, 14),
                    (8.2, 26),
                    (3, 27),
                    (-3, 27),
                    (-8.2, 26),
                    (-7.6, 14),
                ],
                colour,
            )
        elif style == "ponytail" and figure.facing == "front":
            canvas.blob([(3, 4), (8, 5), (9.2, 12), (7.6, 20), (6, 12)], colour)
        elif style == "long" and figure.profile:
            canvas.blob([(-5, 3), (0, 4), (0, 14), (-2.5, 26), (-9, 27), (-8, 12)], colour)


def draw_head(canvas: Canvas, figure: Figure) -> None:
    """Neck, head, face and glasses."""
    skin, style = figure.skin, figure.attributes["hair_style"]
    canvas.box(-2.5, 11, 2.5, 18.5, darker(skin, 0.14), 1.5)
    with canvas.part("head"):
        if figure.profile:
            canvas.ellipse(0.3, 8, 5.4, 6.6, skin)
            canvas.polygon([(5.0, 7.0), (7.0, 9.3), (5.2, 10.2)], skin)
            canvas.ellipse(3.3, 7.4, 0.65, 0.85, _INK)
            canvas.ellipse(2.6, 10.2, 1.1, 0.8, mix(skin, (238, 142, 128), 0.6))
            canvas.line([(3.4, 11.8), (4.9, 11.5)], darker(skin, 0.45), 0.6)
        else:
            canvas.ellipse(0, 8, 5.3, 6.7, skin)
            for d in (-1, 1):
                canvas.ellipse(d * 5.2, 8.6, 1.1, 1.5, darker(skin, 0.08))
        if figure.facing == "front":
            for d in (-1, 1):
                canvas.ellipse(d * 2.2, 7.8, 0.65, 0.8, _INK)
                canvas.ellipse(d * 3.2, 10.2, 1.1, 0.7, mix(skin, (238, 142, 128), 0.7))
            canvas.arc(0, 10.6, (1.7, 1.4), (25, 155), darker(skin, 0.55), 0.6)
    if style != "bald":
        with canvas.part("hair"):
            _draw_hair(canvas, figure, style, _hair(figure))
    if figure.facing != "back" and figure.attributes["glasses"] != "none":
        with canvas.part("glasses"):
            _draw_glasses(canvas, figure)


def _draw_hair(canvas: Canvas, figure: Figure, style: str, colour: RGB) -> None:
    if style == "curly":
        spots = _CURLS[figure.facing if figure.facing in _CURLS else "profile"]
        for x, y in spots:
            canvas.ellipse(x, y, 2.9, 2.8, colour)
    elif figure.profile:
        _hair_profile(canvas, style, colour)
    elif figure.facing == "back":
        _hair_back(canvas, style, colour)
    else:
        _hair_front(canvas, style, colour)


_FRINGE = ((-4.6, 4), (-2.6, 1.4), (0.4, 0.4), (3.2, 1.6), (4.8, 4.2), (-5.6, 7.2), (5.6, 7.4))
_CURLS = {
    "front": _FRINGE,
    "back": (*_FRINGE, (-4, 11), (0, 12), (4, 11), (0, 6), (-3, 8), (3, 8)),
    "profile": ((-6, 4), (-4, 1.4), (-1, 0.4), (1.8, 1.6), (3.4, 4.2), (-5.6, 8), (-4.6, 11)),
}


def _hair_profile(canvas: Canvas, style: str, colour: RGB) -> None:
    cap = [(4.6, 4), (3, 0.4), (-2, -0.2), (-6, 3.4), (-6, 9), (-4, 13), (-2, 11), (-1, 7)]
    canvas.blob([*cap, (1.4, 5)], colour)
    dark = darker(colour, 0.2)
    if style == "long":
        fall = [(-5, 4), (-1.4, 6), (-1.6, 15), (-3, 25), (-8, 25), (-7.6, 13)]
        canvas.blob(fall, colour)
    elif style == "ponytail":
        canvas.blob([(-5, 2.4), (-9, 4), (-11.4, 12), (-9.4, 20), (-8, 12)], dark)
    elif style == "bun":
        canvas.ellipse(-7.2, 2.6, 3.3, 3.1, dark)


def _hair_back(canvas: Canvas, style: str, colour: RGB) -> None:
    low = {"long": 27.0, "short": 14.0}.get(style, 13.0)
    wide = 8.0 if style == "long" else 5.0
    fall = [(wide, low - 3), (wide / 2, low), (-wide / 2, low), (-wide, low - 3)]
    canvas.blob([(-5.8, 6), (-4, 1), (0, -0.6), (4, 1), (5.8, 6), *fall], colour)
    dark = darker(colour, 0.2)
    if style == "ponytail":
        canvas.blob([(-1.4, 5), (1.4, 5), (3, 14), (1.2, 25), (-1.2, 25), (-3, 14)], dark)
        canvas.ellipse(0, 5.4, 1.8, 1.2, lighter(dark, 0.4))
    elif style == "bun":
        canvas.ellipse(0, 1.2, 3.8, 3.4, dark)


def _hair_front(canvas: Canvas, style: str, colour: RGB) -> None:
    if style == "bun":
        canvas.ellipse(0, -1.4, 3.4, 2.9, darker(colour, 0.2))
    crown = [(-5.8, 8.4), (-5.6, 3), (-2.6, -0.2), (2.6, -0.2), (5.6, 3), (5.8, 8.4)]
    canvas.blob([*crown, (4.4, 5), (1, 4.4), (-2.6, 5), (-4.4, 5.2)], colour)
    if style == "long":
        for d in (-1, 1):
            fall = [(4.4, 4), (6.2, 6), (7.4, 16), (7.4, 25), (4.6, 25), (5, 14)]
            canvas.blob([(d * x, y) for x, y in fall], colour)


def _draw_glasses(canvas: Canvas, figure: Figure) -> None:
    dark = figure.attributes["glasses"] == "sunglasses"
    spots = ((3.6, 7.6),) if figure.profile else ((-2.4, 7.8), (2.4, 7.8))
    for x, y in spots:
        canvas.ellipse(x, y, 2.2, 1.9, (26, 26, 32))
        if not dark:
            canvas.ellipse(x, y, 1.5, 1.2, (206, 228, 240))
            canvas.ellipse(x, y, 0.6, 0.7, _INK)
    canvas.line([(-4.6 if not figure.profile else -1.5, 7.2), (4.6, 7.2)], (26, 26, 32), 0.7)


def draw_hat(canvas: Canvas, figure: Figure) -> None:
    """Cap, beanie or brimmed hat."""
    kind = figure.attributes["hat"]
    if kind == "none":
        return
    colour = figure.tint["hat_colour"]
    dark = darker(colour, 0.25)
    with canvas.part("hat"):
        if kind == "brimmed hat":
            canvas.blob([(-5, 4), (-4.6, -2.4), (0, -3.6), (4.6, -2.4), (5, 4)], colour)
            canvas.box(-5.2, 1, 5.2, 3, dark, 0.4)
            canvas.ellipse(0, 4, 11.4, 2.0, colour)
            return
        dome = [(-6.2, 4.8), (-5.4, -0.4), (-2.4, -2.8), (2.4, -2.8), (5.4, -0.4), (6.2, 4.8)]
        canvas.polygon(smooth_top(dome), colour)
        if kind == "beanie":
            canvas.box(-6.6, 2.4, 6.6, 5.6, dark, 1.4)
            canvas.ellipse(0, -3.6, 2.4, 2.2, lighter(colour, 0.45))
        elif figure.profile:
            canvas.blob([(3, 3), (11, 4), (11.4, 5.4), (4, 5.2)], dark)
        elif figure.facing == "front":
            canvas.ellipse(0, 4.8, 6.6, 1.9, dark)
        else:
            canvas.ellipse(0, 4.4, 2.4, 1.6, dark)


def smooth_top(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """A dome: the points as a curve, with its two ends joined by a straight edge."""
    first, last = points[0], points[-1]
    return [p for p in smooth([*points, last, first]) if p[1] <= max(first[1], last[1])]


def draw_scarf(canvas: Canvas, figure: Figure) -> None:
    """A scarf around the neck with one hanging end."""
    if figure.attributes["scarf"] == "none":
        return
    colour = figure.tint["scarf"]
    with canvas.part("scarf"):
        if figure.facing != "back":
            x = 2.4 if figure.profile else -2.4
            canvas.limb((x, 18), (x + 0.4, 33), 4.4, 4.8, darker(colour, 0.14))
            canvas.box(x - 2, 32.4, x + 2.8, 35.2, lighter(colour, 0.3))
        canvas.limb((-4.2, 16.4), (4.2, 16.8), 5.4, 5.4, colour)


def draw_bag_behind(canvas: Canvas, figure: Figure) -> None:
    """The parts of a bag that the body covers."""
    kind = figure.attributes["bag"]
    if kind == "backpack" and figure.profile:
        draw_backpack(canvas, figure)
    elif kind == "suitcase":
        draw_suitcase(canvas, figure)
    elif kind in ("handbag", "shoulder bag") and bag_hidden(figure.attributes, figure.facing):
        draw_small_bag(canvas, figure)


def draw_bag_front(canvas: Canvas, figure: Figure) -> None:
    """The parts of a bag that cover the body."""
    kind = figure.attributes["bag"]
    if kind == "backpack" and not figure.profile:
        draw_backpack(canvas, figure)
    elif kind == "backpack":
        with canvas.part("bag"):
            canvas.line(
                [(-3.4, 20), (2.0, 23), (1.0, 33), (-5, 38)], darker(figure.tint["bag_colour"]), 2
            )
    elif kind in ("handbag", "shoulder bag") and not bag_hidden(figure.attributes, figure.facing):
        draw_small_bag(canvas, figure)


def draw_backpack(canvas: Canvas, figure: Figure) -> None:
    """A backpack: on the back, in profile, or only its straps from the front."""
    colour = figure.tint["bag_colour"]
    dark, light = darker(colour, 0.28), lighter(colour, 0.16)
    with canvas.part("bag"):
        if figure.facing == "front":
            for d in (-1, 1):
                canvas.line([(d * 6.4, 19), (d * 6.8, 34)], dark, 2.4)
        elif figure.facing == "back":
            canvas.box(-8.4, 20, 8.4, 46, colour, 4.5)
            canvas.box(-6.4, 33, 6.4, 43.5, dark, 2)
            canvas.box(-6.0, 35.6, 6.0, 43, light, 1.6)
            canvas.line([(-5.4, 26), (5.4, 26)], dark, 0.9)
            canvas.arc(0, 20, (2.6, 2.6), (180, 360), dark, 1.0)
        else:
            canvas.box(-15, 21, -3, 46, colour, 4)
            canvas.box(-17, 33, -10, 44, dark, 2)


def draw_small_bag(canvas: Canvas, figure: Figure) -> None:
    """A handbag in the hand or a shoulder bag with its strap across the body."""
    colour = figure.tint["bag_colour"]
    dark = darker(colour, 0.3)
    d = figure.side(figure.attributes["bag_side"])
    with canvas.part("bag"):
        if figure.attributes["bag"] == "handbag":
            x, y = hand(figure, d)
            canvas.arc(x, y + 5, (3.4, 6), (180, 360), dark, 1.2)
            canvas.polygon(
                [(x - 5.4, y + 4), (x + 5.4, y + 4), (x + 6.6, y + 14), (x - 6.6, y + 14)], colour
            )
            canvas.box(x - 5.5, y + 4, x + 5.5, y + 6.6, dark, 0.6)
            canvas.ellipse(x, y + 7.4, 0.9, 0.9, (240, 214, 130))
            return
        if figure.profile:
            canvas.line([(-1, 18.5), (1.5, 30), (0, 46)], dark, 1.7)
            x, y = 0.0, 44.0
        else:
            x, y = d * 9.6 * figure.build, 45.0
            canvas.line([(-d * 5.4, 18.6), (d * 2, 33), (x, y + 1)], dark, 1.7)
        canvas.box(x - 6.2, y, x + 6.2, y + 12.5, colour, 2)
        canvas.box(x - 6.2, y, x + 6.2, y + 6, dark, 2)
        canvas.box(x - 1, y + 4.6, x + 1, y + 7.4, (236, 214, 140), 0.4)


def draw_suitcase(canvas: Canvas, figure: Figure) -> None:
    """A suitcase on wheels beside or behind the body."""
    colour = figure.tint["bag_colour"]
    dark = darker(colour, 0.26)
    d = figure.side(figure.attributes["bag_side"])
    x = -17.0 if figure.profile else d * 17.5
    hx, hy = hand(figure, d)
    with canvas.part("bag"):
        for dx in (-2.2, 2.2):
            canvas.line([(x + dx, 72), ((x + hx) / 2 + dx * 0.6, hy)], (120, 124, 132), 0.9)
        canvas.box(x - 7.6, 70, x + 7.6, 96.5, colour, 2.4)
        for dx in (-3.6, 0, 3.6):
            canvas.line([(x + dx, 73), (x + dx, 93.5)], dark, 0.9)
        for dx in (-5.2, 5.2):
            canvas.ellipse(x + dx, 97.6, 1.7, 1.7, (50, 50, 56))


def draw_umbrella(canvas: Canvas, figure: Figure) -> None:
    """An open umbrella held above the head."""
    if figure.attributes["umbrella"] == "none":
        return
    colour = figure.tint["umbrella"]
    x, y = hand(figure, umbrella_hand(figure))
    top = x * 0.5
    with canvas.part("umbrella"):
        canvas.line([(x, y + 3), (x * 0.75, -4)], (96, 84, 80), 1.1)
        dome = [(top - 21, -3)]
        dome += [
            (top + 21 * a, -3 - 15 * b)
            for a, b in (
                (-0.94, 0.36),
                (-0.72, 0.7),
                (-0.38, 0.94),
                (0, 1.02),
                (0.38, 0.94),
                (0.72, 0.7),
                (0.94, 0.36),
            )
        ]
        dome.append((top + 21, -3))
        canvas.polygon(dome, colour)
        canvas.polygon(
            [(top - 7, -3), (top - 2.6, -17.8), (top, -18.3), (top + 2.6, -17.8), (top + 7, -3)],
            lighter(colour, 0.18),
        )
        canvas.polygon(
            [(top + 7, -3), (top + 2.6, -17.8), (top + 12, -15.2), (top + 18, -10), (top + 21, -3)],
            darker(colour, 0.14),
        )
        for k in (-14, 0, 14):
            canvas.ellipse(top + k, -2.6, 7, 1.5, darker(colour, 0.34))
        canvas.line([(top, -18), (top, -20)], (96, 84, 80), 1.0)


def umbrella_hand(figure: Figure) -> int:
    """Screen side of the hand that holds the umbrella or the small thing: away from the bag."""
    if figure.profile:
        return 1 if figure.attributes["bag_side"] != figure.facing else -1
    return -figure.side(figure.attributes["bag_side"])


def draw_held(canvas: Canvas, figure: Figure) -> None:
    """A phone, a cup or a book in the raised hand."""
    kind = figure.attributes["held"]
    if kind == "none" or figure.facing == "back":
        return
    x, y = hand(figure, umbrella_hand(figure))
    with canvas.part("held"):
        if kind == "phone":
            canvas.box(x - 1.8, y - 4.6, x + 1.8, y + 2.2, (30, 30, 36), 0.7)
            canvas.box(x - 1.2, y - 3.8, x + 1.2, y + 1.2, (130, 200, 236), 0.3)
        elif kind == "cup":
            canvas.polygon(
                [(x - 2.6, y - 5), (x + 2.6, y - 5), (x + 1.9, y + 2.6), (x - 1.9, y + 2.6)],
                (250, 248, 242),
            )
            canvas.box(x - 2.3, y - 2.8, x + 2.3, y + 0.4, (150, 104, 70))
            canvas.box(x - 2.9, y - 6.2, x + 2.9, y - 4.8, (90, 66, 52), 0.4)
        else:
            canvas.box(x - 4, y - 5.4, x + 4, y + 3.6, COLOURS["red"], 0.5)
            canvas.box(x - 3.2, y - 5.0, x + 4, y + 2.6, (252, 250, 240))
            canvas.box(x - 4, y - 5.8, x + 3.4, y + 2.6, (172, 52, 60), 0.5)
            canvas.box(x - 2, y - 3.6, x + 1.6, y - 2.2, (250, 232, 190))
