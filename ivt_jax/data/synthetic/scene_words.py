"""Words that only the captions of scenes use; see words.py for those shared with people."""

PLACES = {
    "street": ("in the street", "on a city street", "in front of buildings"),
    "park": ("in a park", "on the grass", "in the green park"),
    "room": ("in a room", "at home", "inside a house"),
    "shop": ("in a shop", "in front of shelves"),
    "beach": ("on the beach", "by the sea", "on the sand"),
    "plain": ("on a plain background", "in a studio"),
}
THINGS = {  # kind -> singular, plural
    "house": (("house",), ("houses",)),
    "tree": (("tree", "leafy tree"), ("trees",)),
    "car": (("car", "automobile"), ("cars",)),
    "bus": (("bus", "coach"), ("buses",)),
    "boat": (("boat", "sailing boat", "sailboat"), ("boats",)),
    "bicycle": (("bicycle", "bike"), ("bicycles", "bikes")),
    "bench": (("bench", "long bench"), ("benches",)),
    "cat": (("cat", "kitten"), ("cats", "kittens")),
    "dog": (("dog", "puppy"), ("dogs",)),
    "bird": (("bird", "little bird"), ("birds", "little birds")),
    "ball": (("ball", "round ball"), ("balls", "round balls")),
    "mug": (("cup", "mug"), ("cups", "mugs")),
    "flower": (("flower", "blossom"), ("flowers", "blossoms")),
    "lamp": (("lamp", "table lamp"), ("lamps",)),
    "balloon": (("balloon",), ("balloons",)),
    "kite": (("kite",), ("kites",)),
    "chair": (("chair", "seat"), ("chairs",)),
    "notebook": (("book", "notebook"), ("books", "notebooks")),
    "sign": (("sign", "road sign"), ("signs",)),
}
NUMBERS = {2: "two", 3: "three", 4: "four"}
RELATIONS = {  # layout -> relations of the first thing to the second, and the other way round
    "row": (
        ("to the left of", "next to", "beside", "near", "left of"),
        ("to the right of", "next to", "beside", "close to", "right of"),
    ),
    "stack": (("above", "hanging above", "over", "high above"), ("below", "under", "beneath")),
    "under": (("above", "over"), ("under", "below", "beneath", "in front of")),
}
SINGLE = (
    "{X} {w}",
    "There {b} {x} {w}",
    "This is a picture of {x}, {w}",
    "A photo that shows {x}",
    "We can see {x} {w}",
    "{X} {b} shown {w}",
    "Here {b} {x}, seen {w}",
)
PAIRS = (
    "{X} {r} {y}",
    "{X} {b} {r} {y}, {w}",
    "There {b} {x} {r} {y} {w}",
    "A picture of {x} {r} {y}",
    "{X} can be seen {w}. {X} {b} {r} {y}",
    "The picture shows {x} and {y}, {w}. {X} {b} {r} {y}",
    "We see {x} {r} {y}, {w}",
)
OUTFITS = (
    "An outfit is laid out {w}: {g}.",
    "Clothes are shown {w}, {g}.",
    "{G} hang {w}.",
    "The outfit consists of {g}.",
    "In this picture there are {g}.",
    "A set of clothes with {g}, {w}.",
    "{G} are on display {w}.",
)
BAGS = (
    "There is {x} too.",
    "{X} belongs to it.",
    "{X} can be seen as well.",
    "Next to it is {x}.",
)
GLUE = ("tall", "a pair of")
