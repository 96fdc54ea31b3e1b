"""Prints whether hovering a garment word lights the garment, for several kinds of word map.

`python -m benchmarks.word_maps --run=runs/demo/finetune` takes test photos of drawn people, whose
annotations have a box for each garment, and captions that name it. Heat is what is positive of a
map. The ratio is heat a patch inside the box over heat a patch outside (both averaged over all
words, each map scaled to a largest heat of one); "top" is how often the hottest patch lies in the
box. Untrained weights give a ratio of about one. A second table asks which word score tells a
colour from a wrong one put in its place.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import defaultdict
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

sys.path.insert(0, str(Path(__file__).parent.parent))

import ivt_jax
from ivt_jax.data import synthetic
from ivt_jax.data.images import decode, evaluation_image
from ivt_jax.data.synthetic.words import COLOUR_WORDS, THING_WORDS
from ivt_jax.inference import Retriever
from ivt_jax.model.ivt import IVTConfig
from ivt_jax.model.pixels import normalise
from ivt_jax.retrieval.explain import drop_patches, encoders, in_rows, read_words, unit
from ivt_jax.training.state import random_params, split_model

PARTS = ("upper", "lower", "shoes", "hat", "bag")
COLOURS = sorted({words[0] for words in COLOUR_WORDS.values()})
_STEPS = 2  # of integrated gradients


def named(note: dict, words: list[str]) -> list[tuple[str, int]]:
    """Parts that the first caption names and the photo shows, with the number of their noun."""
    found = []
    for part in PARTS:
        if part in note["mentioned"][0] and part in note["boxes"]:
            nouns = {name.split()[-1] for name in THING_WORDS[note["attributes"][part]]}
            found += [(part, i) for i, word in enumerate(words) if word.lower() in nouns][:1]
    return found


def inside(box: list[float], grid: tuple[int, int]) -> np.ndarray:
    """Patches (R, C) whose middle is in the box."""
    y, x = ((np.arange(n) + 0.5) / n for n in grid)
    rows, columns = (y >= box[1]) & (y <= box[3]), (x >= box[0]) & (x <= box[2])
    return rows[:, None] & columns


@partial(jax.jit, static_argnums=0)
def token_maps(graphdef, params, image, ids, mask):
    """Cosines of text tokens and patches after the final norm (W, P), and rolled-out attention."""
    model = nnx.merge(graphdef, params)
    tokens = model.embed_image(normalise(image))
    rolled = jnp.eye(tokens.shape[1])
    for index in range(model.config.depth):
        block = jax.tree.map(lambda leaf, index=index: leaf[index], model.blocks)
        qkv = block.attention.qkv(block.norm1(tokens))[0]
        query, key, _ = jnp.split(qkv.reshape(len(qkv), 3, model.config.heads, -1), 3, axis=1)
        scores = jnp.einsum("qxhd,kxhd->hqk", query, key) * query.shape[-1] ** -0.5
        weights = jax.nn.softmax(scores, axis=-1).mean(axis=0)
        rolled = (weights + jnp.eye(len(weights))) / 2 @ rolled
        tokens = block(tokens, None, modality="image")
    patches = model.norm(tokens)[0, 1:]
    text = model.embed_text(ids)
    words = model.encode(text, mask, modality="text", output="tokens")[0]
    normed = [rows / jnp.linalg.norm(rows, axis=-1, keepdims=True) for rows in (words, patches)]
    return normed[0] @ normed[1].T, rolled[0, 1:]


@partial(jax.jit, static_argnums=0)
def gradient_maps(graphdef, params, image, directions):
    """Gradient x input from a grey photo, and integrated gradients, of directions (W, D)."""
    model = nnx.merge(graphdef, params)
    tokens = model.embed_image(normalise(image))
    change = tokens - model.embed_image(jnp.zeros_like(normalise(image)))

    def features(tokens):
        found = model.encode(tokens, modality="image")[0]
        return found / jnp.linalg.norm(found)

    def heat(share):
        _, back = jax.vjp(features, tokens - (1 - share) * change)
        return (jax.vmap(lambda d: back(d)[0])(directions) * change).sum(axis=-1)[:, 0, 1:]

    return heat(1.0), sum(heat((i + 0.5) / _STEPS) for i in range(_STEPS)) / _STEPS


@partial(jax.jit, static_argnums=0)
def token_gradients(graphdef, params, ids, mask, photo):
    """Gradient x input of every text token (L,) for the cosine with a photo (D,)."""
    model = nnx.merge(graphdef, params)

    def score(tokens):
        text = model.encode(tokens, mask, modality="text")[0]
        return photo @ text / jnp.linalg.norm(text)

    tokens = model.embed_text(ids)
    return (jax.grad(score)(tokens) * tokens).sum(axis=-1)[0]


def all_maps(model: Retriever, graphdef, pixels: np.ndarray, caption: str, at: list[int]) -> dict:
    """Kind -> maps (n, P) of the words number `at`."""
    config = IVTConfig(**model.config.model)
    encode_photos, encode_texts = encoders(config)
    ids, words, _, masks = read_words(model, caption)
    kept, block = drop_patches(config)
    photos = in_rows(encode_photos, model.params, pixels[None], kept)
    rows = [0, 1, *(2 + kind * len(words) + place for kind in range(3) for place in at)]
    texts = in_rows(encode_texts, model.params, ids, masks[rows])
    lost = (photos[0] - photos[1:])[block]
    word, phrase, alone = texts[2:].reshape(3, len(at), -1)
    cosines, rolled = token_maps(graphdef, model.params, pixels[None], ids, masks[:1])
    own = masks[0] & ~masks[2 : 2 + len(words)][at]  # (n, L)
    directions = np.zeros((len(PARTS), texts.shape[1]), np.float32)  # one shape to compile
    directions[: len(at)] = unit(texts[0] - phrase) + unit(alone - texts[1])
    product, integrated = gradient_maps(graphdef, model.params, pixels[None], directions)
    return {
        "cosine of tokens (Fig. 6)": np.stack([np.asarray(cosines)[row].mean(0) for row in own]),
        "attention rollout": np.repeat(np.asarray(rolled)[None], len(at), axis=0),
        "phrase: gradient x input": np.asarray(product)[: len(at)],
        "phrase: integrated gradient": np.asarray(integrated)[: len(at)],
        "leave out: word": (texts[0] - word) @ lost.T,
        "leave out: phrase": (texts[0] - phrase) @ lost.T,
        "leave out: phrase alone": (alone - texts[1]) @ lost.T,
        "word_maps (both)": directions[: len(at)] @ lost.T,
    }


def heat_in_boxes(models: dict[str, Retriever], graphdef, records, chosen: list[int]) -> None:
    """Prints the first table, and the parts of the kind that `word_maps` has."""
    found = defaultdict(list)  # (weights, kind) -> [(part, heat inside, heat outside, top inside)]
    config = IVTConfig(**next(iter(models.values())).config.model)
    for number in chosen:
        record = records[number]
        note, caption = json.loads(record["annotation"]), record["captions"][0]
        image = decode(record["image"], key=record["key"])
        pixels = evaluation_image(image, config.image_size)
        words = read_words(next(iter(models.values())), caption)[1]
        targets = [
            (part, word, inside(note["boxes"][part], config.grid).ravel())
            for part, word in named(note, words)
        ]
        targets = [target for target in targets if target[2].any() and not target[2].all()]
        if not targets:
            continue
        for weights, model in models.items():
            at = [word for _, word, _ in targets]
            for kind, maps in all_maps(model, graphdef, pixels, caption, at).items():
                for (part, _, box), heat in zip(targets, maps, strict=True):
                    hot = np.maximum(heat, 0) / max(heat.max(), 1e-12)
                    row = (part, hot[box].mean(), hot[~box].mean(), box[heat.argmax()])
                    found[weights, kind].append(row)

    def cells(rows: list[tuple]) -> str:
        _, within, without, top = zip(*rows, strict=True)
        return f"{np.mean(within) / np.mean(without):>8.2f}{100 * np.mean(top):>6.0f} %"

    first, second = models
    print(f"{len(chosen)} photos, {len(next(iter(found.values())))} garment words named and shown")
    print(f"{'':<30}{first + ': ratio':>16}{'top':>8}{second + ': ratio':>20}{'top':>8}")
    for kind in dict.fromkeys(kind for _, kind in found):
        print(f"{kind:<30}{cells(found[first, kind]):>24}{cells(found[second, kind]):>28}")
    for part in PARTS:
        rows = [[row for row in found[weights, kind] if row[0] == part] for weights in models]
        print(f"{'  ' + part:<30}{cells(rows[0]):>24}{cells(rows[1]):>28}")


def colour_scores(model: Retriever, graphdef, records, chosen: list[int]) -> None:
    """Prints how often a right colour scores above a wrong one in its place."""
    encode_photos, encode_texts = encoders(IVTConfig(**model.config.model))
    size, rng = tuple(model.config.model.image_size), np.random.default_rng(0)
    right = defaultdict(list)
    for number in chosen:
        record = records[number]
        caption = record["captions"][0]
        words, spans = read_words(model, caption)[1:3]
        places = [i for i, word in enumerate(words) if word.lower() in COLOURS]
        if not places:
            continue
        place = int(rng.choice(places))
        others = [colour for colour in COLOURS if colour != words[place].lower()]
        start, end = spans[place]
        wrong = f"{caption[:start]}{rng.choice(others)}{caption[end:]}"
        pixels = evaluation_image(decode(record["image"], key=record["key"]), size)
        photo = model.encode_image([pixels])[0]
        scores = []
        for text in (caption, wrong):
            ids, found, _, masks = read_words(model, text)
            kept = masks[[0, 1, *(2 + place + len(found) * i for i in range(3))]]
            features = in_rows(encode_texts, model.params, ids, kept)
            gradient = token_gradients(graphdef, model.params, ids, masks[:1], photo)
            scores.append(
                {
                    "leave out the word (word_scores)": photo @ (features[0] - features[2]),
                    "leave out the phrase": photo @ (features[0] - features[3]),
                    "the phrase alone": photo @ (features[4] - features[1]),
                    "gradient x input": float(np.asarray(gradient)[masks[0] & ~kept[2]].sum()),
                }
            )
        for kind in scores[0]:
            right[kind].append(scores[0][kind] > scores[1][kind])
    print(f"\nright colour above a wrong one in its place, {len(right['gradient x input'])} words")
    for kind, hits in right.items():
        print(f"{kind:<38}{100 * np.mean(hits):>6.1f} %")


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="runs/demo/finetune")
    parser.add_argument("--photos", type=int, default=200)
    arguments = parser.parse_args()
    model = ivt_jax.load(arguments.run)
    config = IVTConfig(**model.config.model)
    models = {
        "trained": model,
        "untrained": dataclasses.replace(model, params=random_params(config, jax.random.key(0))),
    }
    records = synthetic.people_records("test")
    chosen = np.linspace(0, len(records) - 1, arguments.photos).astype(int).tolist()
    graphdef, _ = split_model(config)
    heat_in_boxes(models, graphdef, records, chosen)
    colour_scores(model, graphdef, records, chosen)


if __name__ == "__main__":
    main()
