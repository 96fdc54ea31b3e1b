"""What a drawn pedestrian looks like: colours, attributes, look-alikes and what a view hides."""

import numpy as np

from ivt_jax.data.synthetic.drawing import RGB, generator, pick, weighted

COLOURS: dict[str, RGB] = {
    "black": (40, 40, 48),
    "white": (246, 245, 240),
    "gray": (142, 147, 154),
    "blue": (46, 104, 206),
    "green": (62, 148, 70),
    "yellow": (248, 208, 62),
    "orange": (242, 134, 42),
    "red": (206, 42, 50),
    "pink": (246, 156, 188),
    "purple": (126, 70, 172),
    "brown": (124, 78, 46),
}
HAIR_COLOURS: dict[str, RGB] = {
    "black": (36, 32, 36),
    "brown": (104, 66, 40),
    "blond": (232, 194, 108),
    "ginger": (196, 92, 38),
    "gray": (168, 168, 172),
}
PATTERNS = {"plain": 5.0, "striped": 2, "checked": 1.6, "dotted": 1.4, "logo": 1.2, "writing": 1.2}
UPPERS = {
    "man": {"t-shirt": 3.0, "shirt": 2, "sweater": 2, "jacket": 2, "coat": 1.4, "hoodie": 2},
    "woman": {"t-shirt": 3.0, "shirt": 2, "sweater": 2, "jacket": 2, "coat": 1.4, "hoodie": 1}
    | {"dress": 2.0},
}
LOWERS = {
    "man": {"trousers": 3.0, "jeans": 2, "shorts": 1.6},
    "woman": {"trousers": 2.0, "jeans": 2, "shorts": 1, "skirt": 2},
}
HAIR_STYLES = {
    "man": {"short": 5.0, "curly": 1.6, "long": 0.8, "bald": 1},
    "woman": {"long": 3.0, "ponytail": 2, "bun": 1.6, "short": 1.6, "curly": 1.2},
}
LOWER_COLOURS = {"black": 2.0, "blue": 2.0, "gray": 1.6, "brown": 1.6}
LOWER_COLOURS |= {"white": 1.4, "green": 1.2, "red": 1.0, "purple": 0.8, "pink": 0.6}
JEANS_COLOURS = {"blue": 3.0, "black": 1.5, "gray": 1.5}
SHOE_COLOURS = {"black": 2.0, "white": 2.0, "brown": 1.4, "red": 1, "blue": 1, "gray": 1}
SHOE_COLOURS |= {"yellow": 0.6, "green": 0.6, "pink": 0.6, "orange": 0.6}
HATS = {"none": 6.4, "cap": 1.8, "beanie": 1.2, "brimmed hat": 0.9}
GLASSES = {"none": 6.5, "glasses": 2.0, "sunglasses": 1.5}
SHOES = {"sneakers": 2.5, "boots": 1.2, "leather shoes": 1.5}
BAGS = {"none": 3.0, "backpack": 2.6, "shoulder bag": 1.8, "handbag": 1.6, "suitcase": 1.1}
HELD = {"none": 6.0, "phone": 1.0, "cup": 1.0, "book": 1.0}
SIDES = ("left", "right")
FACINGS = {"front": 0.42, "back": 0.24, "left": 0.17, "right": 0.17}

# In the order of annotations. `bag_side` is drawn but never told: training may flip images.
ATTRIBUTES = (
    *("gender", "hair_style", "hair_colour", "hat", "hat_colour", "glasses"),
    *("upper", "upper_colour", "pattern", "pattern_colour", "inner_colour"),
    *("lower", "lower_colour", "shoes", "shoes_colour", "bag", "bag_colour", "bag_side"),
    *("umbrella", "scarf", "held"),
)
UNTOLD = ("bag_side",)
_TWIN_WEIGHTS = {"upper_colour": 2.0, "lower_colour": 2, "shoes_colour": 2, "bag_colour": 2}
_TWIN_WEIGHTS |= {"bag": 1.5, "pattern": 2, "pattern_colour": 1.5, "hat_colour": 1.5, "hat": 1}
_TWIN_WEIGHTS |= {"hair_colour": 1.5, "scarf": 1.0, "umbrella": 1.0, "lower": 1.0, "glasses": 0.5}
GROUP_BLOCK = 20  # identities; 13 stand alone, then come two pairs and a triple of look-alikes
_GROUP_OF = {13: (13, 2), 14: (13, 2), 15: (15, 2), 16: (15, 2)}
_GROUP_OF |= {17: (17, 3), 18: (17, 3), 19: (17, 3)}


def group_of(number: int) -> tuple[int, int]:
    """First identity and size of the look-alike group of an identity; (number, 1) if alone."""
    first, size = _GROUP_OF.get(number % GROUP_BLOCK, (number % GROUP_BLOCK, 1))
    return number - number % GROUP_BLOCK + first, size


def person_attributes(number: int, *, seed: int, split: int) -> dict[str, str]:
    """All attributes of one identity; members of a group differ in exactly one of them."""
    first, size = group_of(number)
    rng = generator(seed, split, 1, first)
    attributes = random_attributes(rng)
    if size > 1:
        possible = {n: w for n, w in _TWIN_WEIGHTS.items() if _alternatives(attributes, n)}
        name = weighted(rng, possible)
        values = _alternatives(attributes, name)
        order = [values[i] for i in rng.permutation(len(values))]
        attributes[name] = [attributes[name], *order][(number - first) % (len(order) + 1)]
    return attributes


def _alternatives(attributes: dict[str, str], name: str) -> list[str]:
    """Other values that an attribute could take with all the others unchanged."""
    value = attributes[name]
    if value == "none" and name not in ("scarf", "umbrella", "glasses"):
        return []
    if name in ("scarf", "umbrella"):
        values = ["none", "red", "yellow", "blue", "green", "pink"]
    elif name == "pattern":
        values = [] if value == "plain" else ["striped", "checked", "dotted"]
    elif name == "hair_colour":
        values = list(HAIR_COLOURS)
    elif name == "lower_colour" and attributes["lower"] == "jeans":
        values = list(JEANS_COLOURS)
    elif name.endswith("colour"):
        used = [attributes["upper_colour"], attributes["pattern_colour"]]
        values = [c for c in COLOURS if not (name.startswith(("upper", "pattern")) and c in used)]
    else:
        tables = {
            "hat": HATS,
            "bag": BAGS,
            "glasses": GLASSES,
            "lower": LOWERS[attributes["gender"]],
        }
        values = [v for v in tables[name] if v != "none" or name == "glasses"]
        values = [v for v in values if v != "jeans"] if value != "jeans" else []
    values = [v for v in values if v != value]
    return values if len(values) >= 2 else []


def random_attributes(rng: np.random.Generator) -> dict[str, str]:
    """Attributes of somebody, drawn with realistic weights; absent things are "none"."""
    found = dict.fromkeys(ATTRIBUTES, "none")
    gender = found["gender"] = pick(rng, ("man", "woman"))
    found["hair_style"] = weighted(rng, HAIR_STYLES[gender])
    if found["hair_style"] != "bald":
        found["hair_colour"] = pick(rng, tuple(HAIR_COLOURS))
    found["hat"] = weighted(rng, HATS)
    found["glasses"] = weighted(rng, GLASSES)
    found["upper"] = weighted(rng, UPPERS[gender])
    colours = tuple(COLOURS)
    found["upper_colour"] = pick(rng, colours)
    found["pattern"] = weighted(rng, PATTERNS)
    if found["pattern"] != "plain":
        found["pattern_colour"] = _contrasting(rng, found["upper_colour"])
    if found["upper"] in ("jacket", "coat"):
        if found["pattern"] in ("logo", "writing"):
            found["pattern"], found["pattern_colour"] = "plain", "none"
        found["inner_colour"] = _contrasting(rng, found["upper_colour"])
    if found["upper"] != "dress":
        found["lower"] = weighted(rng, LOWERS[gender])
        jeans = found["lower"] == "jeans"
        found["lower_colour"] = weighted(rng, JEANS_COLOURS if jeans else LOWER_COLOURS)
    found["shoes"] = weighted(rng, SHOES)
    found["shoes_colour"] = weighted(rng, SHOE_COLOURS)
    found["bag"] = weighted(rng, BAGS)
    found["bag_side"] = pick(rng, SIDES) if found["bag"] != "none" else "none"
    for item in ("hat", "bag"):
        if found[item] != "none":
            found[f"{item}_colour"] = pick(rng, colours)
    found["umbrella"] = pick(rng, colours) if rng.random() < 0.13 else "none"
    found["scarf"] = pick(rng, colours) if rng.random() < 0.16 else "none"
    if found["umbrella"] == "none":
        found["held"] = weighted(rng, HELD)
    return found


def _contrasting(rng: np.random.Generator, colour: str) -> str:
    """A colour that is easy to tell from the given one."""
    base = np.array(COLOURS[colour], np.int64)
    far = [c for c in COLOURS if np.abs(np.array(COLOURS[c]) - base).sum() > 190]
    return pick(rng, far)


def visible_attributes(
    attributes: dict[str, str], *, facing: str, hidden_feet: bool
) -> tuple[str, ...]:
    """Names of the attributes that can be seen from a side, in the order of ATTRIBUTES.

    Absent things ("none") and plain cloth have nothing to see and are not listed.
    """
    hidden = {name for name, value in attributes.items() if value in ("none", "plain")}
    if hidden_feet:
        hidden |= {"shoes", "shoes_colour"}
    if facing == "back":
        hidden |= {"glasses", "inner_colour", "held"}
    if facing in ("left", "right"):
        hidden.add("inner_colour")
    if facing != "front" and attributes["pattern"] in ("logo", "writing"):
        hidden |= {"pattern", "pattern_colour"}
    if bag_hidden(attributes, facing):
        hidden |= {"bag", "bag_colour", "bag_side"}
    if attributes["hat"] != "none" and attributes["hair_style"] not in ("long", "ponytail"):
        hidden |= {"hair_style", "hair_colour"}
    if attributes["hair_style"] == "ponytail" and facing == "front":
        hidden.add("hair_style")
    return tuple(name for name in ATTRIBUTES if name not in hidden)


def bag_hidden(attributes: dict[str, str], facing: str) -> bool:
    """Whether the body hides the bag: a backpack from the front, a bag on the far side."""
    if attributes["bag"] == "backpack":
        return facing == "front"
    if attributes["bag"] in ("handbag", "shoulder bag"):
        return facing in ("left", "right") and facing != attributes["bag_side"]
    return False
