"""Places: soft backdrops in stored pixels, and the things that stand in front of a person."""

import numpy as np
from PIL import Image, ImageFilter

from ivt_jax.data.synthetic.drawing import (
    HEIGHT,
    RGB,
    SCALE,
    WIDTH,
    Canvas,
    darker,
    lighter,
    mix,
    pick,
)

_WALLS: tuple[RGB, ...] = (
    (226, 214, 198),
    (204, 216, 216),
    (222, 204, 196),
    (196, 206, 190),
    (212, 208, 222),
    (232, 224, 206),
    (190, 202, 214),
    (214, 196, 176),
)
_SKIES: tuple[RGB, ...] = ((196, 222, 238), (214, 226, 232), (240, 222, 204), (206, 214, 232))
_GREENS: tuple[RGB, ...] = ((126, 168, 112), (104, 150, 108), (150, 178, 110), (96, 136, 100))
_THINGS: tuple[RGB, ...] = (
    (196, 108, 92),
    (96, 132, 172),
    (222, 180, 96),
    (126, 160, 132),
    (168, 132, 170),
    (230, 226, 216),
    (90, 98, 118),
)


def backdrop(place: str, rng: np.random.Generator, *, blur: float = 1.0) -> Image.Image:
    """A place as an RGB picture of drawing size; drawn smaller and blurred, like depth of field."""
    small = Image.new("RGB", (WIDTH * 3 // 2, HEIGHT * 3 // 2))
    canvas = Canvas(small)
    floor = float(rng.uniform(104, 148))
    _DRAW[place](canvas, rng, floor)
    if blur:
        small = small.filter(ImageFilter.BoxBlur(blur))
    return small.resize((WIDTH * SCALE, HEIGHT * SCALE), Image.Resampling.BILINEAR)


def _bands(canvas: Canvas, top: RGB, bottom: RGB, y0: float, y1: float) -> None:
    count = 10
    for k in range(count):
        y = y0 + (y1 - y0) * k / count
        canvas.polygon(
            [(0, y), (WIDTH, y), (WIDTH, y1), (0, y1)], mix(top, bottom, k / (count - 1))
        )


def tree(canvas: Canvas, x: float, base: float, size: float, green: RGB) -> None:
    """A round tree standing at (x, base)."""
    canvas.polygon(
        [
            (x - size * 0.07, base),
            (x + size * 0.07, base),
            (x + size * 0.05, base - size * 0.5),
            (x - size * 0.05, base - size * 0.5),
        ],
        (112, 84, 66),
    )
    y = base - size * 0.68
    canvas.ellipse(x, y, size * 0.34, size * 0.34, green)
    canvas.ellipse(x - size * 0.2, y + size * 0.12, size * 0.22, size * 0.2, darker(green, 0.1))
    canvas.ellipse(x + size * 0.12, y - size * 0.1, size * 0.2, size * 0.2, lighter(green, 0.16))


def _street(canvas: Canvas, rng: np.random.Generator, floor: float) -> None:
    sky = pick(rng, _SKIES)
    _bands(canvas, sky, lighter(sky, 0.5), 0, floor)
    x = float(rng.uniform(-20, 0))
    while x < WIDTH:
        width, top = float(rng.uniform(24, 46)), float(rng.uniform(-10, 50))
        wall = pick(rng, _WALLS)
        wall = darker(wall, float(rng.uniform(0, 0.25)))
        canvas.polygon([(x, top), (x + width, top), (x + width, floor), (x, floor)], wall)
        glass = mix(darker(wall, 0.3), (150, 180, 200), 0.5)
        for wy in np.arange(top + 8, floor - 26, 17):
            for wx in np.arange(x + 4, x + width - 8, 11):
                canvas.box(wx, wy, wx + 6.5, wy + 10, glass)
        shop = pick(rng, _THINGS)
        canvas.box(x + 3, floor - 24, x + width - 3, floor, darker(wall, 0.28))
        canvas.box(x + 1, floor - 28, x + width - 1, floor - 22, lighter(shop, 0.15))
        x += width
    stone = pick(rng, ((186, 184, 184), (198, 192, 184), (172, 176, 184)))
    _bands(canvas, darker(stone, 0.1), lighter(stone, 0.15), floor, HEIGHT)
    canvas.polygon(
        [(0, floor), (WIDTH, floor), (WIDTH, floor + 3), (0, floor + 3)], darker(stone, 0.25)
    )
    for k in range(1, 4):
        y = floor + (HEIGHT - floor) * (k / 4) ** 1.6
        canvas.line([(0, y), (WIDTH, y)], darker(stone, 0.12), 0.8)
    if rng.random() < 0.4:
        tree(
            canvas,
            float(rng.choice([rng.uniform(2, 20), rng.uniform(76, 94)])),
            floor + 6,
            float(rng.uniform(60, 95)),
            pick(rng, _GREENS),
        )
    if rng.random() < 0.35:
        car(canvas, float(rng.uniform(-5, 60)), floor + 10, 46, pick(rng, _THINGS))


def car(canvas: Canvas, x: float, base: float, width: float, colour: RGB) -> None:
    """A car in profile, its wheels on `base`."""
    u = width / 100
    canvas.shadow(x + 50 * u, base, 52 * u, 6 * u)
    canvas.blob(
        [
            (x + 18 * u, base - 30 * u),
            (x + 30 * u, base - 46 * u),
            (x + 62 * u, base - 46 * u),
            (x + 80 * u, base - 28 * u),
        ],
        colour,
    )
    canvas.polygon(
        [
            (x + 27 * u, base - 30 * u),
            (x + 35 * u, base - 42 * u),
            (x + 47 * u, base - 42 * u),
            (x + 47 * u, base - 30 * u),
        ],
        (206, 226, 236),
    )
    canvas.polygon(
        [
            (x + 51 * u, base - 30 * u),
            (x + 51 * u, base - 42 * u),
            (x + 61 * u, base - 42 * u),
            (x + 72 * u, base - 30 * u),
        ],
        (206, 226, 236),
    )
    canvas.box(x, base - 31 * u, x + 100 * u, base - 9 * u, colour, 8 * u)
    canvas.box(x, base - 15 * u, x + 100 * u, base - 9 * u, darker(colour, 0.25), 3 * u)
    canvas.box(x + 94 * u, base - 27 * u, x + 100 * u, base - 21 * u, (255, 236, 170), 2 * u)
    for wx in (22, 78):
        canvas.ellipse(x + wx * u, base - 9 * u, 10 * u, 10 * u, (44, 44, 52))
        canvas.ellipse(x + wx * u, base - 9 * u, 4.5 * u, 4.5 * u, (200, 202, 206))


def _park(canvas: Canvas, rng: np.random.Generator, floor: float) -> None:
    sky = pick(rng, _SKIES)
    _bands(canvas, sky, lighter(sky, 0.6), 0, floor)
    green = pick(rng, _GREENS)
    x = float(rng.uniform(-20, 30))
    canvas.ellipse(x, floor + 6, 60, 36, lighter(green, 0.4))
    canvas.ellipse(x + 70, floor + 10, 50, 30, lighter(green, 0.28))
    _bands(canvas, lighter(green, 0.12), green, floor, HEIGHT)
    end = float(rng.uniform(20, 76))
    canvas.polygon([(end - 5, floor), (end + 5, floor), (88, HEIGHT), (4, HEIGHT)], (222, 208, 176))
    for _ in range(int(rng.integers(2, 5))):
        tree(
            canvas,
            float(rng.uniform(-5, 101)),
            floor + float(rng.uniform(0, 12)),
            float(rng.uniform(50, 110)),
            darker(pick(rng, _GREENS), float(rng.uniform(0, 0.2))),
        )
    if rng.random() < 0.4:
        x = float(rng.choice([2, 68]))
        for y in (floor + 4, floor + 10):
            canvas.box(x, y, x + 28, y + 3.4, (152, 108, 74), 1)
        for dx in (3, 23):
            canvas.box(x + dx, floor + 12, x + dx + 2, floor + 20, (70, 66, 70))


def _room(canvas: Canvas, rng: np.random.Generator, floor: float) -> None:
    wall = pick(rng, _WALLS)
    _bands(canvas, lighter(wall, 0.2), wall, 0, floor)
    wood = pick(rng, ((190, 152, 116), (168, 130, 98), (206, 184, 156), (150, 140, 136)))
    _bands(canvas, darker(wood, 0.08), lighter(wood, 0.1), floor, HEIGHT)
    canvas.box(0, floor - 4, WIDTH, floor, lighter(wall, 0.6))
    x = float(rng.choice([4, 56]))
    top = float(rng.uniform(14, 40))
    canvas.box(x, top, x + 36, top + 50, (250, 250, 246), 1)
    canvas.box(x + 3, top + 3, x + 33, top + 47, (190, 220, 236))
    canvas.box(x + 17, top, x + 19, top + 50, (250, 250, 246))
    x = 74.0 - x
    canvas.box(x, top + 4, x + 22, top + 30, darker(wood, 0.3), 0.5)
    canvas.box(x + 2, top + 6, x + 20, top + 28, lighter(pick(rng, _THINGS), 0.2))
    x = float(rng.choice([8, 88]))
    if rng.random() < 0.6:
        for dx in (-6, 0, 6):
            canvas.ellipse(x + dx, floor - 18, 4.5, 15, darker(pick(rng, _GREENS), 0.15))
        canvas.polygon(
            [(x - 7, floor - 8), (x + 7, floor - 8), (x + 5, floor + 8), (x - 5, floor + 8)],
            (206, 128, 92),
        )


def _shop(canvas: Canvas, rng: np.random.Generator, floor: float) -> None:
    wall = pick(rng, _WALLS)
    _bands(canvas, lighter(wall, 0.35), lighter(wall, 0.1), 0, floor)
    tile = pick(rng, ((212, 210, 206), (196, 190, 182), (206, 214, 216)))
    _bands(canvas, darker(tile, 0.1), lighter(tile, 0.3), floor, HEIGHT)
    for y in np.arange(18, floor - 8, 25):
        x = float(rng.uniform(-6, 0))
        while x < WIDTH:
            width, height = float(rng.uniform(5, 11)), float(rng.uniform(8, 18))
            colour = lighter(pick(rng, _THINGS), float(rng.uniform(0.1, 0.5)))
            canvas.box(x, y + 20 - height, x + width, y + 20, colour, 0.8)
            x += width + float(rng.uniform(1, 3))
        canvas.box(0, y + 20, WIDTH, y + 23, darker(wall, 0.25))


def _station(canvas: Canvas, rng: np.random.Generator, floor: float) -> None:
    tile = lighter(pick(rng, _WALLS), 0.3)
    _bands(canvas, darker(tile, 0.06), tile, 0, floor)
    for y in np.arange(0, floor, 14):
        canvas.line([(0, y), (WIDTH, y)], darker(tile, 0.1), 0.7)
    band = pick(rng, _THINGS)
    y = float(rng.uniform(30, 60))
    canvas.box(0, y, WIDTH, y + 9, band)
    canvas.box(28, y - 4, 68, y + 13, (246, 246, 242), 2)
    ground = pick(rng, ((168, 168, 172), (150, 154, 164), (186, 180, 172)))
    _bands(canvas, darker(ground, 0.12), lighter(ground, 0.12), floor, HEIGHT)
    canvas.polygon(
        [(0, floor + 12), (WIDTH, floor + 12), (WIDTH, floor + 17), (0, floor + 17)], (236, 206, 96)
    )
    if rng.random() < 0.5:
        x = float(rng.choice([6, 80]))
        canvas.box(x, 0, x + 10, floor + 8, darker(tile, 0.22))


def _beach(canvas: Canvas, rng: np.random.Generator, floor: float) -> None:
    sky = pick(rng, _SKIES)
    _bands(canvas, sky, lighter(sky, 0.6), 0, floor - 34)
    _bands(canvas, (96, 164, 188), (150, 206, 210), floor - 34, floor)
    for _ in range(5):
        x, y = float(rng.uniform(0, 90)), float(rng.uniform(floor - 28, floor - 4))
        canvas.line([(x, y), (x + 12, y)], (206, 232, 232), 1.0)
    _bands(canvas, (226, 206, 164), (240, 226, 190), floor, HEIGHT)
    canvas.ellipse(float(rng.uniform(10, 86)), float(rng.uniform(14, 40)), 9, 9, (255, 236, 176))


def _plain(canvas: Canvas, rng: np.random.Generator, floor: float) -> None:
    wall = mix(pick(rng, _WALLS), pick(rng, _THINGS), float(rng.uniform(0, 0.3)))
    _bands(canvas, lighter(wall, 0.15), wall, 0, floor)
    _bands(canvas, darker(wall, 0.06), lighter(wall, 0.1), floor, HEIGHT)


_DRAW = {
    "plain": _plain,
    "street": _street,
    "park": _park,
    "room": _room,
    "shop": _shop,
    "station": _station,
    "beach": _beach,
}


def occlude(canvas: Canvas, kind: str, rng: np.random.Generator) -> None:
    """Something in front of the person, in stored pixels: "pole", "bush", "car" or "crate"."""
    if kind == "pole":
        x = float(rng.choice([rng.uniform(10, 26), rng.uniform(70, 86)]))
        tone = pick(rng, ((112, 116, 124), (84, 92, 96), (146, 128, 108)))
        canvas.box(x - 2.6, -2, x + 2.6, HEIGHT + 2, tone)
        canvas.box(x + 0.6, -2, x + 2.6, HEIGHT + 2, darker(tone, 0.25))
    elif kind == "bush":
        green = pick(rng, _GREENS)
        for _ in range(9):
            x, y = float(rng.uniform(0, WIDTH)), HEIGHT + float(rng.uniform(-6, 4))
            canvas.ellipse(
                x,
                y,
                float(rng.uniform(14, 20)),
                float(rng.uniform(14, 20)),
                darker(green, float(rng.uniform(0, 0.22))),
            )
    elif kind == "car":
        car(canvas, float(rng.uniform(-50, 0)), HEIGHT + 8, 110, pick(rng, _THINGS))
    else:
        tone = pick(rng, ((178, 136, 96), (156, 150, 146), (192, 164, 128)))
        canvas.box(-2, HEIGHT - 22, WIDTH + 2, HEIGHT + 2, tone)
        for k in range(8):
            canvas.box(k * 12 + 1, HEIGHT - 20, k * 12 + 10, HEIGHT + 2, darker(tone, 0.12), 1)
