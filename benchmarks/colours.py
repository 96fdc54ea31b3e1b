"""Prints whether "red shirt" finds red shirts: each colour with each garment.

`python -m benchmarks.colours --run=runs/demo/finetune` draws people who were never in training,
encodes their photos and asks for every colour x garment that at least ten photos show, in two
words and in a sentence. A photo matches "both" if that garment has that colour in its annotation,
and "colour" if the garment of that place (upper or lower body) has the colour, whatever its cut.
Percent of the first ten.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import ivt_jax
from ivt_jax.data import synthetic
from ivt_jax.data.images import decode
from ivt_jax.retrieval.nearest import nearest

FEWEST = 10  # matching photos in the gallery
PLACES = ("upper", "lower")
PLURAL = ("trousers", "jeans", "shorts")


def words(colour: str, garment: str) -> str:
    """The shortest query."""
    return f"{colour} {garment}"


def sentence(colour: str, garment: str) -> str:
    """The same as a sentence, with its article."""
    article = "" if garment in PLURAL else "an " if colour[0] in "aeiou" else "a "
    return f"a person in {article}{colour} {garment}"


def shares(rows, worn: np.ndarray, colour: str, garment: str) -> tuple[float, float]:
    """Percent of the photos in these rows that match in both, and in the colour.

    worn: (G, 2) colours and garments at the place that was asked for.
    """
    same = worn[rows] == (colour, garment)  # (10, 2)
    return 100 * same.all(axis=1).mean(), 100 * same[:, 0].mean()


def main() -> None:
    """Draws, encodes, asks and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="runs/demo/finetune")
    parser.add_argument("--identities", type=int, default=600, help="people drawn (default: 600)")
    arguments = parser.parse_args()
    model = ivt_jax.load(arguments.run)
    records = synthetic.people_records("test", identities=arguments.identities)
    images, notes = [], []
    for number in range(len(records)):
        record = records[number]
        images.append(decode(record["image"], key=record["key"]))
        notes.append(json.loads(record["annotation"])["attributes"])
    embeddings = model.encode_image(images)
    asked = []
    for place in PLACES:
        worn = np.array([(note[f"{place}_colour"], note[place]) for note in notes])  # (G, 2)
        pairs, counts = np.unique(worn, axis=0, return_counts=True)
        for (colour, garment), photos in zip(pairs, counts, strict=True):
            if photos >= FEWEST and "none" not in (colour, garment):
                asked.append((worn, str(colour), str(garment), int(photos)))
    if not asked:
        raise SystemExit(f"no colour x garment is on {FEWEST} photos; ask for more --identities")
    found = {}
    for form in (words, sentence):
        texts = model.encode_text([form(colour, garment) for _, colour, garment, _ in asked])
        found[form] = np.array(
            [
                shares(nearest(embeddings, text, k=10)[0], worn, colour, garment)
                for (worn, colour, garment, _), text in zip(asked, texts, strict=True)
            ]
        )  # (queries, 2)
    print(f"{len(images)} photos of {arguments.identities} people; percent of the first ten,")
    print("asked in two words and in a sentence")
    head = f"{'both':>7}{'colour':>7}"
    print(f"{'':<22}{'photos':>6}{'chance':>7}{head}{head}")
    for (_, colour, garment, photos), *rows in zip(asked, *found.values(), strict=True):
        numbers = "".join(f"{both:>7.0f}{same:>7.0f}" for both, same in rows)
        chance = 100 * photos / len(images)
        print(f"{words(colour, garment):<22}{photos:>6}{chance:>7.1f}{numbers}")
    chance = 100 * np.mean([photos for *_, photos in asked]) / len(images)
    print(f"mean chance {chance:.1f}")
    for form, rows in found.items():
        both, same = rows.T
        print(
            f'mean of queries like "{form("red", "shirt")}": {both.mean():.1f} both, '
            f"{same.mean():.1f} colour; at least 80 %: {(both >= 80).sum()} and "
            f"{(same >= 80).sum()} of {len(rows)}"
        )


if __name__ == "__main__":
    main()
