"""Prints whether "a person in a red shirt" finds red shirts: each colour with each garment.

`python -m benchmarks.colours --run=runs/demo/finetune` draws people who were never in training,
encodes their photos and asks for every colour x garment that at least ten photos show. A photo
matches "both" if that garment has that colour in its annotation, and "colour" if the garment of
that place (upper or lower body) has the colour, whatever its cut. Percent of the first ten.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import ivt_jax
from ivt_jax.data import synthetic
from ivt_jax.data.images import decode
from ivt_jax.retrieval.nearest import nearest

FEWEST = 10  # matching photos in the gallery
PLURAL = ("trousers", "jeans", "shorts")


def query(colour: str, garment: str) -> str:
    """The sentence asked."""
    article = "" if garment in PLURAL else "an " if colour[0] in "aeiou" else "a "
    return f"a person in {article}{colour} {garment}"


def main() -> None:
    """Draws, encodes, asks and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="runs/demo/finetune")
    parser.add_argument("--identities", type=int, default=600, help="people drawn (default: 600)")
    arguments = parser.parse_args()
    model = ivt_jax.load(arguments.run)
    records = synthetic.people_records("test", identities=arguments.identities)
    images, worn = [], defaultdict(list)
    for number in range(len(records)):
        record = records[number]
        images.append(decode(record["image"], key=record["key"]))
        attributes = json.loads(record["annotation"])["attributes"]
        for place in ("upper", "lower"):
            worn[place].append((attributes[f"{place}_colour"], attributes[place]))
    embeddings = model.encode_image(images)
    asked = []
    for place, pairs in worn.items():
        for pair in sorted(set(pairs)):
            matching = sum(one == pair for one in pairs)
            if "none" not in pair and matching >= FEWEST:
                asked.append((place, *pair, matching))
    texts = model.encode_text([query(colour, garment) for _, colour, garment, _ in asked])
    print(f"{len(images)} photos of {arguments.identities} people; percent of the first ten")
    print(f"{'query':<34}{'photos':>7}{'both':>6}{'colour':>8}{'chance':>8}")
    found = []
    for (place, colour, garment, matching), text in zip(asked, texts, strict=True):
        rows, _ = nearest(embeddings, text, k=10)
        both = 10 * sum(worn[place][row] == (colour, garment) for row in rows)
        same = 10 * sum(worn[place][row][0] == colour for row in rows)
        found.append((both, same))
        chance = 100 * matching / len(images)
        print(f"{query(colour, garment):<34}{matching:>7}{both:>6}{same:>8}{chance:>8.1f}")
    both, same = np.array(found).T
    print(f"{'mean':<41}{both.mean():>6.1f}{same.mean():>8.1f}")
    passed = f"{(both >= 80).sum()} and {(same >= 80).sum()} of {len(found)}"
    print(f"queries with at least 80 % (both, colour): {passed}")


if __name__ == "__main__":
    main()
