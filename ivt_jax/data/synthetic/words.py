"""Every word the two caption grammars can use, and the WordPiece vocabulary made of them.

Captions are assembled from the tables below only, so the vocabulary covers them by construction.
"""

import re
import string

COLOUR_WORDS = {  # three times in four the plain word, which people search with
    "black": (*("black",) * 3, "jet black"),
    "white": (*("white",) * 3, "snow white"),
    "gray": (*("gray",) * 3, "grey"),
    "blue": (*("blue",) * 3, "royal blue"),
    "green": (*("green",) * 3, "emerald"),
    "yellow": (*("yellow",) * 3, "golden yellow"),
    "orange": (*("orange",) * 3, "tangerine"),
    "red": (*("red",) * 3, "crimson"),
    "pink": (*("pink",) * 3, "rose pink"),
    "purple": (*("purple",) * 3, "violet"),
    "brown": (*("brown",) * 3, "chocolate brown"),
}
HAIR_COLOUR_WORDS = {
    "black": ("black", "dark black"),
    "brown": ("brown", "chestnut"),
    "blond": ("blond", "blonde", "fair"),
    "ginger": ("ginger", "red", "auburn"),
    "gray": ("gray", "grey", "silver"),
}
PATTERN_WORDS = {
    "striped": ("striped", "stripy"),
    "checked": ("checked", "plaid", "chequered"),
    "dotted": ("dotted", "spotted", "polka dot"),
}
ACCENT_WORDS = {
    "striped": ("with {c} stripes", "that has {c} stripes"),
    "checked": ("with {c} checks", "with a {c} check pattern"),
    "dotted": ("with {c} dots", "with {c} spots"),
    "logo": ("with a {c} logo", "with a {c} print on the chest"),
    "writing": ("with {c} writing", "with {c} letters on the chest"),
}
MARK_WORDS = {
    "logo": ("with a logo", "with a print on the chest"),
    "writing": ("with writing on it", "with letters on the chest"),
}
THING_WORDS = {  # attribute value -> what it is called; plural ones are in PLURALS
    "t-shirt": ("t-shirt",),
    "shirt": ("shirt",),
    "sweater": ("sweater",),
    "jacket": ("jacket",),
    "coat": ("coat",),
    "hoodie": ("hoodie",),
    "dress": ("dress",),
    "trousers": ("trousers",),
    "jeans": ("jeans",),
    "shorts": ("shorts",),
    "skirt": ("skirt",),
    "sneakers": ("sneakers", "trainers", "running shoes"),
    "boots": ("boots", "ankle boots"),
    "leather shoes": ("leather shoes", "dress shoes"),
    "cap": ("cap", "baseball cap"),
    "beanie": ("beanie", "woolly hat", "knitted hat"),
    "brimmed hat": ("brimmed hat", "sun hat", "wide hat"),
    "backpack": ("backpack", "rucksack"),
    "shoulder bag": ("shoulder bag", "messenger bag", "crossbody bag"),
    "handbag": ("handbag", "purse", "hand bag"),
    "suitcase": ("suitcase", "trolley case", "rolling suitcase"),
    "umbrella": ("umbrella", "open umbrella"),
    "scarf": ("scarf", "shawl"),
    "phone": ("phone", "mobile phone", "smartphone"),
    "cup": ("cup", "coffee cup", "cup of coffee"),
    "book": ("book", "small book"),
    "glasses": ("glasses", "spectacles", "eyeglasses"),
    "sunglasses": ("sunglasses", "dark glasses", "shades"),
}
PLURALS = ("trousers", "jeans", "shorts", "sneakers", "boots", "leather shoes")
GENERIC_WORDS = {  # when only the colour is told
    "upper": ("top", "garment"),
    "lower": ("bottoms",),
    "shoes": ("shoes", "footwear"),
    "hat": ("hat", "headwear"),
    "bag": ("bag",),
}
HAIR_WORDS = {
    "short": ("short {c}hair", "{c}hair that is short", "a short {c}haircut"),
    "long": ("long {c}hair", "{c}hair down to the shoulders", "long flowing {c}hair"),
    "curly": ("curly {c}hair", "{c}curls"),
    "ponytail": ("{c}hair in a ponytail", "a {c}ponytail", "{c}hair tied back in a ponytail"),
    "bun": ("{c}hair in a bun", "a {c}bun", "{c}hair tied up in a bun"),
    "bald": ("a bald head", "no hair", "a shaved head"),
    "none": ("{c}hair",),
}
SUBJECTS = {
    "man": ("man", "man", "male", "gentleman", "guy"),
    "woman": ("woman", "woman", "lady", "female"),
    "none": ("person", "pedestrian"),
}
PRONOUNS = {
    "man": ("he", "his"),
    "woman": ("she", "her"),
    "none": ("this person", "the"),
}
CARRY_WORDS = {  # bag -> (active, passive, noun phrase ending)
    "backpack": ("carrying {x}", "{x} is worn on the back", "{x} on the back"),
    "shoulder bag": ("carrying {x}", "{x} hangs at the hip", "{x} over the shoulder"),
    "handbag": ("holding {x}", "{x} is held in one hand", "{x} in one hand"),
    "suitcase": ("pulling {x}", "{x} is pulled along", "{x} on wheels"),
    "none": ("carrying {x}", "{x} can be seen too", "{x}"),
}
UMBRELLA_WORDS = ("under {x}", "holding {x} overhead", "sheltering under {x}")
HELD_WORDS = ("holding {x}", "holding {x} in one hand", "carrying {x} in one hand")
ACTIVITY_WORDS = {
    "walking": ("walking", "walking along", "on the move", "taking a step"),
    "standing": ("standing", "standing still", "standing there"),
}
FACING_WORDS = {
    "front": ("facing the camera", "seen from the front"),
    "back": ("seen from behind", "facing away from the camera"),
    "left": ("seen from the side", "in profile"),
    "right": ("seen from the side", "in profile"),
}
PLACE_WORDS = {
    "street": ("in the street", "on the pavement", "in front of buildings"),
    "park": ("in a park", "on a path in the park"),
    "room": ("in a room", "indoors"),
    "shop": ("in a shop", "in front of shelves"),
    "station": ("on a platform", "in a station"),
    "beach": ("on the beach", "by the sea"),
}
OPENINGS = (  # {s} subject, {g} garments, {a} activity or facing
    "{S} is wearing {g}.",
    "{S} wears {g}.",
    "{S} is dressed in {g}.",
    "{S}, {a}, is wearing {g}.",
    "{S} in {g} is {v}.",
    "{S} in {g}.",
    "In this photo {s} wears {g}.",
    "{G} make up the outfit of {s}.",
    "There is {s} who has {g} on.",
    "Dressed in {g}, {s} is {v}.",
    "This is {s}, {a}, with {g} on.",
)
SHOE_LINES = (
    "{P} has {x} on {p} feet.",
    "{P} is wearing {x}.",
    "On {p} feet are {x}.",
)
HAIR_LINES = ("{P} has {x}.", "{P} has {x}.", "{X} can be seen.")
WEAR_LINES = ("{P} wears {x}.", "{P} has {x} on.", "{P} is also wearing {x}.")
ACTION_LINES = ("{P} is {x}.", "{S2} is {x}.")
GLUE = ("a", "an", "and", "with", "over", "top", "the", "pair of", "is", "has")

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def words_in(table: object) -> set[str]:
    """The lower-cased words of every string in nested dicts and tuples; keys are not read."""
    if isinstance(table, str):
        return set(re.findall(r"[a-z]+", re.sub(r"\{\w+\}", " ", table.lower())))
    parts = table.values() if isinstance(table, dict) else table
    found: set[str] = set()
    for part in parts:  # pyright: ignore[reportGeneralTypeIssues]
        found |= words_in(part)
    return found


def wordpiece_vocabulary(*tables: object) -> list[str]:
    """Special tokens (ids 0 to 4), single characters, ##letters, then the tables' words, sorted."""
    letters = list(string.digits + string.punctuation + string.ascii_lowercase)
    pieces = [f"##{c}" for c in string.digits + string.ascii_lowercase]
    known = {*letters, *pieces, *SPECIAL_TOKENS}
    return [*SPECIAL_TOKENS, *letters, *pieces, *sorted(words_in(tables) - known)]
