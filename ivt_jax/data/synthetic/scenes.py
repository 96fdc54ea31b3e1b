"""Captioned scenes without people, for pretraining: things, clothes, counts and relations."""

from dataclasses import dataclass

import numpy as np

from ivt_jax.data.synthetic import backgrounds, scene_words, words
from ivt_jax.data.synthetic.attributes import COLOURS, PATTERNS, random_attributes
from ivt_jax.data.synthetic.captions import Teller, article, capital, listed
from ivt_jax.data.synthetic.drawing import (
    HEIGHT,
    WIDTH,
    Canvas,
    pick,
    weighted,
)
from ivt_jax.data.synthetic.objects import (
    Item,
    draw_clothes,
    draw_item,
    draw_upright_backpack,
    dressed,
)
from ivt_jax.data.synthetic.people import finish

_LAYOUTS = {"outfit": 9.0, "row": 2.0, "stack": 2.0, "under": 0.8, "count": 1.2, "single": 1.2}
_OUTDOOR = ("house", "tree", "car", "bus", "bicycle", "bench", "dog", "bird", "sign", "cat")
_INDOOR = ("lamp", "chair", "mug", "flower", "notebook", "cat", "ball")
_CLOTHES = (
    *("t-shirt", "shirt", "sweater", "jacket", "hoodie", "coat", "dress", "trousers", "jeans"),
    *("shorts", "skirt", "sneakers", "boots", "leather shoes", "cap", "beanie", "brimmed hat"),
    *("backpack", "shoulder bag", "handbag", "suitcase", "scarf", "umbrella"),
)
_HIGH = ("balloon", "kite", "umbrella", "t-shirt", "shirt", "sweater", "jacket", "hoodie", "scarf")
_SMALL = ("ball", "mug", "flower", "notebook", "balloon", "cat", "bird", "lamp")
_PATTERNED = ("t-shirt", "shirt", "sweater", "jacket", "hoodie", "coat", "dress", "ball", "mug")
_PATTERNED += ("balloon", "lamp", "kite", "notebook")
_WIDE = {"car": 1.8, "bus": 1.65, "bench": 1.75, "bicycle": 1.6, "boat": 1.2, "dog": 1.35}
_WIDE |= {"bird": 1.45, "house": 1.0, "sneakers": 1.15, "boots": 1.15, "leather shoes": 1.15}
_WIDE |= {"cap": 1.0, "beanie": 1.05, "brimmed hat": 1.8, "umbrella": 0.97, "mug": 1.15}
_WIDE |= {"cat": 1.0, "scarf": 0.6, "ball": 1.0}
_TALL = ("house", "tree", "bus", "lamp", "sign")


@dataclass(frozen=True)
class Scene:
    """What a scene shows: where, how the things stand to each other, and which things."""

    place: str
    layout: str  # a key of _LAYOUTS
    items: tuple[Item, ...]
    outfit: dict[str, str]  # person attributes of layout "outfit", else empty


def draw_scene(rng: np.random.Generator) -> Scene:
    """A random scene."""
    layout = weighted(rng, _LAYOUTS)
    outfit: dict[str, str] = {}
    places = tuple(scene_words.PLACES)
    if layout == "outfit":
        outfit = random_attributes(rng) | {"held": "none", "glasses": "none", "hair_style": "none"}
        outfit |= {"umbrella": "none", "hair_colour": "none", "bag_side": "left"}
        return Scene(pick(rng, ("room", "shop", "plain", "plain")), layout, (), outfit)
    place = pick(rng, places)
    if layout == "single":
        items = [_item(rng, _kinds(place))]
    elif layout == "count":
        items = [_item(rng, _SMALL, count=int(rng.integers(2, 5)))]
    elif layout == "stack":
        items = [_item(rng, _HIGH), _item(rng, _kinds(place))]
    elif layout == "under":
        place = pick(rng, ("park", "street", "room"))
        items = [
            _item(rng, ("bench",)),
            _item(rng, ("ball", "cat", "bird"), count=int(rng.integers(1, 3))),
        ]
    else:
        kinds = _kinds(place)
        items = [_item(rng, kinds), _item(rng, kinds)]
    return Scene(place, layout, tuple(items), outfit)


def _kinds(place: str) -> tuple[str, ...]:
    things = {
        "street": _OUTDOOR,
        "park": _OUTDOOR,
        "beach": ("boat", "ball", "dog", "bird", "kite"),
    }
    own = things.get(place, _INDOOR)
    return own + _CLOTHES[:: 1 if place in ("room", "shop", "plain") else 3]


def _item(rng: np.random.Generator, kinds: tuple[str, ...], count: int = 1) -> Item:
    kind = pick(rng, kinds)
    colour = pick(rng, tuple(COLOURS))
    if kind == "tree":
        colour = pick(rng, ("green", "green", "yellow", "orange", "red", "pink"))
    if kind in ("cat", "dog"):
        colour = pick(rng, ("black", "white", "gray", "brown", "orange"))
    pattern = accent = "none"
    if kind in _PATTERNED and kind != "lamp":
        pattern = weighted(rng, {p: w for p, w in PATTERNS.items() if p not in ("logo", "writing")})
        if pattern != "plain":
            dark = sum(COLOURS[colour]) < 380
            accent = pick(rng, ("white", "yellow", "pink") if dark else ("black", "red", "blue"))
            if accent == colour:
                accent = "white" if dark else "purple"
    return Item(
        kind,
        colour,
        "plain" if pattern == "none" else pattern,
        accent,
        count,
        int(rng.integers(60)),
    )


def render_scene(scene: Scene, rng: np.random.Generator) -> bytes:
    """JPEG bytes of a scene, 192 pixels high and 72 wide."""
    backdrop = backgrounds.backdrop(scene.place, rng, blur=float(rng.uniform(0.5, 1.4)))
    canvas = Canvas(backdrop)
    if scene.layout == "outfit":
        scale = float(rng.uniform(1.3, 1.5))
        ground = HEIGHT - float(rng.uniform(4, 12))
        shift = -9.0 if scene.outfit["bag"] in ("suitcase", "backpack") else 0.0
        x = WIDTH / 2 + shift + float(rng.uniform(-5, 5))
        canvas.place(x, ground - 100 * scale, scale)
        body = dressed(scene.outfit, int(rng.integers(60)))
        draw_clothes(canvas, body)
        if scene.outfit["bag"] == "backpack":
            canvas.place(x + 16 * scale, ground - 46 * scale, scale)
            draw_upright_backpack(canvas, body)
        return finish(canvas.image, rng)
    for item, x, base, size in _slots(scene, rng):
        if scene.layout == "stack" and item is scene.items[0]:
            canvas.place(0, 0)
            canvas.line([(x, -2), (x, base - size + 3)], (150, 144, 140), 0.8)
        draw_item(canvas, item, x, base, size)
    return finish(canvas.image, rng)


def _slots(scene: Scene, rng: np.random.Generator) -> list[tuple[Item, float, float, float]]:
    """Each thing with its ground point and height in stored pixels."""
    first, last = scene.items[0], scene.items[-1]
    ground = HEIGHT - float(rng.uniform(8, 26))
    middle = WIDTH / 2 + float(rng.uniform(-4, 4))
    if scene.layout == "single":
        return [(first, middle, ground, _fit(first, 66, 130))]
    if scene.layout == "row":
        return [
            (first, 19, ground - float(rng.uniform(0, 24)), _fit(first, 34, 100)),
            (last, 53, ground - float(rng.uniform(0, 24)), _fit(last, 34, 100)),
        ]
    if scene.layout == "stack":
        high = _fit(first, 58, 66)
        return [
            (first, middle, 10 + high + float(rng.uniform(0, 12)), high),
            (last, middle, ground, _fit(last, 64, 84)),
        ]
    if scene.layout == "under":
        tall = _fit(first, 70, 60)
        small = tall * 0.42
        xs = (middle,) if last.count == 1 else (middle - 12, middle + 12)
        return [(first, middle, ground, tall), *((last, x, ground + 5, small) for x in xs)]
    size = _fit(first, 32, 52)
    spots = [(20, 0), (52, 1), (20, 2), (52, 3)] if first.count > 2 else [(36, 0.4), (36, 2)]
    return [
        (first, x + float(rng.uniform(-3, 3)), 66 + k * 38.0, size) for x, k in spots[: first.count]
    ]


def _fit(item: Item, width: float, height: float) -> float:
    """The height at which a thing fits into a slot."""
    return min(height, width / _WIDE.get(item.kind, 0.85))


def scene_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption of a scene, one to three sentences."""
    where = pick(rng, scene_words.PLACES.get(scene.place, scene_words.PLACES["plain"]))
    if scene.layout == "outfit":
        return _outfit_caption(scene.outfit, where, rng)
    things = [_phrase(item, rng) for item in scene.items]
    plural = scene.items[0].count > 1 or _plural(scene.items[0])
    if len(things) == 1:
        line = pick(rng, scene_words.SINGLE)
        return _close(
            line.format(x=things[0], X=capital(things[0]), w=where, b="are" if plural else "is")
        )
    relations = scene_words.RELATIONS[scene.layout]
    forward = rng.random() < 0.5
    relation = pick(rng, relations[0] if forward else relations[1])
    first, last = things if forward else things[::-1]
    item = scene.items[0 if forward else 1]
    line = pick(rng, scene_words.PAIRS)
    return _close(
        line.format(
            x=first,
            X=capital(first),
            y=last,
            r=relation,
            w=where,
            b="are" if item.count > 1 or _plural(item) else "is",
        )
    )


def _close(text: str) -> str:
    return text if text.endswith(".") else text + "."


def _plural(item: Item) -> bool:
    return item.kind in words.PLURALS


def _phrase(item: Item, rng: np.random.Generator) -> str:
    table = scene_words.THINGS.get(item.kind)
    nouns = words.THING_WORDS[item.kind] if table is None else table[0 if item.count == 1 else 1]
    noun, looks = pick(rng, nouns), [pick(rng, words.COLOUR_WORDS[item.colour])]
    after = ""
    if item.pattern != "plain" and rng.random() < 0.85:
        if rng.random() < 0.6:
            looks.insert(0, pick(rng, words.PATTERN_WORDS[item.pattern]))
        else:
            accent = pick(rng, words.COLOUR_WORDS[item.accent])
            after = " " + words.ACCENT_WORDS[item.pattern][0].format(c=accent)
    if item.kind in _TALL and rng.random() < 0.3:
        looks.insert(0, "tall")
    phrase = " ".join([*looks, noun])
    if item.count > 1:
        return f"{scene_words.NUMBERS[item.count]} {phrase}{after}"
    if not _plural(item):
        phrase = article(phrase)
    elif rng.random() < 0.4:
        phrase = f"a pair of {phrase}"
    return phrase + after


def _outfit_caption(outfit: dict[str, str], where: str, rng: np.random.Generator) -> str:
    untold = {
        n
        for n in ("shoes_colour", "hat", "bag", "inner_colour", "pattern_colour", "scarf")
        if rng.random() < 0.25
    }
    told = {n: "none" if n in untold or v == "plain" else v for n, v in outfit.items()}
    if told["pattern"] == "none":
        told["pattern_colour"] = "none"
    teller = Teller(told, rng)
    phrases = [teller.thing(n) for n in ("hat", "upper", "lower", "shoes")] + [
        teller.simple("scarf")
    ]
    phrases = [p for p in phrases if p]
    if rng.random() < 0.4:
        phrases = [phrases[i] for i in rng.permutation(len(phrases))]
    bag = teller.thing("bag")
    text = pick(rng, scene_words.OUTFITS)
    text = text.format(g=listed(phrases), G=capital(listed(phrases)), w=where)
    if bag:
        text += " " + pick(rng, scene_words.BAGS).format(x=bag, X=capital(bag))
    return text
