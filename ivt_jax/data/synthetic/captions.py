"""Captions of a pedestrian: several sentences that tell part of what one image shows."""

import re

import numpy as np

from ivt_jax.data.synthetic import words
from ivt_jax.data.synthetic.attributes import ATTRIBUTES, UNTOLD
from ivt_jax.data.synthetic.drawing import pick

LONGEST = 47  # words and punctuation marks of a caption, each one WordPiece token
REMARKS = ("activity", "facing", "place")
_KEEP = {"upper_colour": 9.0, "lower_colour": 4.0, "upper": 9.0, "lower": 4.0, "gender": 1.5}


def person_caption(
    attributes: dict[str, str],
    visible: tuple[str, ...],
    *,
    facing: str,
    activity: str,
    place: str,
    rng: np.random.Generator,
) -> tuple[str, list[str], list[str]]:
    """A caption, the attributes it tells and the facts about the view it tells.

    The attributes are about 60 to 75 % of the visible ones; the facts some of REMARKS.
    """
    told = _choose(visible, rng)
    teller = Teller({n: attributes[n] if n in told else "none" for n in ATTRIBUTES}, rng)
    tables = (words.ACTIVITY_WORDS[activity], words.FACING_WORDS[facing], words.PLACE_WORDS[place])
    sentences = _sentences(teller, {n: pick(rng, t) for n, t in zip(REMARKS, tables, strict=True)})
    while len(tokens_of(" ".join(s for s, _ in sentences))) > LONGEST and len(sentences) > 2:
        sentences.pop()
    names = {n for _, part in sentences for n in part}
    caption = " ".join(s for s, _ in sentences)
    return caption, [n for n in ATTRIBUTES if n in names & told], [n for n in REMARKS if n in names]


def tokens_of(caption: str) -> list[str]:
    """Words and punctuation marks, as BERT's basic tokenizer separates them."""
    return re.findall(r"\w+|[^\w\s]", caption.lower())


def article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def listed(phrases: list[str]) -> str:
    """a; a and b; a, b and c."""
    return " and ".join(filter(None, [", ".join(phrases[:-1]), phrases[-1]]))


def capital(sentence: str) -> str:
    """The sentence with a capital first letter."""
    return sentence[0].upper() + sentence[1:]


def _choose(visible: tuple[str, ...], rng: np.random.Generator) -> set[str]:
    tellable = [n for n in visible if n not in UNTOLD]
    keep = round(float(rng.uniform(0.66, 0.82)) * len(tellable))
    rank = {n: rng.random() ** (1 / _KEEP.get(n, 1.0)) for n in tellable}
    told = set(sorted(tellable, key=lambda n: -rank[n])[:keep])
    if "pattern_colour" in told and "pattern" not in told:
        told.add("pattern")
        weakest = min(told - {"pattern", "pattern_colour"}, key=lambda n: rank[n])
        told.discard(weakest)
    return told


class Teller:
    """Turns told attribute values ("none" if untold) into noun phrases."""

    def __init__(self, told: dict[str, str], rng: np.random.Generator):
        self.told, self.rng = told, rng
        gender = told["gender"]
        self.subject = pick(rng, words.SUBJECTS[gender])
        self.pronoun, self.possessive = words.PRONOUNS[gender]

    def colour(self, name: str) -> str:
        """A word for the colour; "" if untold."""
        value = self.told[name]
        return "" if value == "none" else pick(self.rng, words.COLOUR_WORDS[value])

    def thing(self, name: str) -> str:
        """A garment, hat or bag with its colour; "" if neither is told."""
        value, colour = self.told[name], self.colour(f"{name}_colour")
        pattern = self._pattern() if name == "upper" else ("", "")
        if value == "none" and not colour and not any(pattern):
            return ""
        known = words.THING_WORDS if value != "none" else words.GENERIC_WORDS
        noun = pick(self.rng, known[value if value != "none" else name])
        phrase = " ".join(filter(None, [pattern[0], colour, noun]))
        plural = value in words.PLURALS or (value == "none" and noun in ("bottoms", "shoes"))
        if plural or noun in ("footwear", "headwear"):
            pair = plural and self.rng.random() < 0.25
            phrase = f"a pair of {phrase}" if pair else phrase
        else:
            phrase = article(phrase)
        if name == "upper" and self.told["inner_colour"] != "none":
            pattern = (pattern[0], f"{pattern[1]} over {article(self.colour('inner_colour'))} top")
        return f"{phrase} {pattern[1].strip()}".strip()

    def _pattern(self) -> tuple[str, str]:
        """What goes before and what goes after the garment's noun."""
        value, accent = self.told["pattern"], self.colour("pattern_colour")
        if value == "none":
            return "", ""
        after = pick(self.rng, words.ACCENT_WORDS[value]).format(c=accent) if accent else ""
        after = after.replace("a orange", "an orange").replace("a emerald", "an emerald")
        if value in words.MARK_WORDS:
            return "", after or pick(self.rng, words.MARK_WORDS[value])
        before = pick(self.rng, words.PATTERN_WORDS[value])
        return ("", after) if after and self.rng.random() < 0.6 else (before, after)

    def hair(self) -> str:
        """The hair with style and colour; "" if neither is told."""
        style, colour = self.told["hair_style"], self.told["hair_colour"]
        if style == colour == "none":
            return ""
        word = pick(self.rng, words.HAIR_COLOUR_WORDS[colour]) + " " if colour != "none" else ""
        phrase = pick(self.rng, words.HAIR_WORDS[style]).format(c=word)
        return phrase.replace("a auburn", "an auburn")

    def simple(self, name: str) -> str:
        """Glasses, umbrella, scarf or the thing in the hand; "" if untold."""
        value = self.told[name]
        if value == "none":
            return ""
        if name == "glasses":
            return pick(self.rng, words.THING_WORDS[value])
        if name == "held":
            return article(pick(self.rng, words.THING_WORDS[value]))
        return article(f"{self.colour(name)} {pick(self.rng, words.THING_WORDS[name])}")


def _names(*items: str) -> tuple[str, ...]:
    more = {"upper": ("pattern", "pattern_colour", "inner_colour")}
    return tuple(n for i in items for n in (i, f"{i}_colour", *more.get(i, ())))


def _sentences(teller: Teller, remarks: dict[str, str]) -> list[tuple[str, tuple[str, ...]]]:
    """Sentences with the attributes each tells; the one on the garments comes first or second."""
    rng = teller.rng
    worn = {n: teller.thing(n) for n in ("upper", "lower", "shoes", "hat")}
    worn |= {n: teller.simple(n) for n in ("scarf", "glasses")}
    worn = {n: phrase for n, phrase in worn.items() if phrase}
    main = [n for n in worn if n in ("upper", "lower") or rng.random() < 0.35]
    if rng.random() < 0.45 and main[:2] == ["upper", "lower"]:  # so that the noun tells the place
        main[:2] = ["lower", "upper"]
    hair, subject, told = teller.hair(), teller.subject, ["gender", *_names(*main)]
    if hair and rng.random() < 0.4:
        subject, hair = f"{subject} with {hair}", ""
        told += ["hair_style", "hair_colour"]
    opening, garments = pick(rng, words.OPENINGS), listed([worn.pop(n) for n in main])
    remark = pick(rng, REMARKS)
    view = {"a": remarks[remark], "v": remarks[remark]}
    if "{a}" in opening or "{v}" in opening:
        told.append(remark)
    if "{a}" in opening and remark == "place":
        view["a"] = f"{remarks['activity']} {remarks['place']}"
        told.append("activity")
    person = article(subject)
    first = opening.format(**view, g=garments, G=capital(garments), s=person, S=capital(person))
    rest = _more(teller, worn)
    if hair:
        rest.append(
            (_fill(teller, pick(rng, words.HAIR_LINES), hair), ("hair_style", "hair_colour"))
        )
    rest += _carried(teller)
    order = [rest[i] for i in rng.permutation(len(rest))]
    if rng.random() < 0.25:
        more = pick(rng, [n for n in REMARKS if n not in told])
        order.append((_fill(teller, pick(rng, words.ACTION_LINES), remarks[more]), (more,)))
    return [(first, tuple(told)), *order]


def _fill(teller: Teller, template: str, phrase: str) -> str:
    return template.format(
        P=capital(teller.pronoun),
        S2=f"The {teller.subject}",
        p=teller.possessive,
        O=capital(teller.possessive),
        x=phrase,
        X=capital(phrase),
    )


def _more(teller: Teller, worn: dict[str, str]) -> list[tuple[str, tuple[str, ...]]]:
    """Sentences on what is worn besides the main garments."""
    rng, found = teller.rng, []
    shoes = worn.pop("shoes", "")
    if shoes and worn and rng.random() < 0.3:
        worn["shoes"] = shoes
    elif shoes:
        found.append((_fill(teller, pick(rng, words.SHOE_LINES), shoes), _names("shoes")))
    if worn:
        phrase = listed(list(worn.values()))
        found.append((_fill(teller, pick(rng, words.WEAR_LINES), phrase), _names(*worn)))
    return found


def _carried(teller: Teller) -> list[tuple[str, tuple[str, ...]]]:
    """Sentences on bag, umbrella and the thing in the hand."""
    rng, found = teller.rng, []
    bag = teller.thing("bag")
    if bag:
        active, passive, ending = words.CARRY_WORDS[teller.told["bag"]]
        style = rng.random()
        if style < 0.4:
            sentence = _fill(teller, "{P} is {x}.", active.format(x=bag))
        elif style < 0.7:
            sentence = capital(passive.format(x=bag)) + "."
        else:
            sentence = _fill(teller, "{P} has {x}.", ending.format(x=bag))
        found.append((sentence, _names("bag")))
    for name, table in (("umbrella", words.UMBRELLA_WORDS), ("held", words.HELD_WORDS)):
        phrase = teller.simple(name)
        if phrase:
            line = pick(rng, table).format(x=phrase)
            found.append((_fill(teller, "{P} is {x}.", line), (name,)))
    return found
