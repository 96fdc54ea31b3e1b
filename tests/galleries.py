"""A model in memory, folders of small photos and what a gallery of them must hold."""

import dataclasses
import os
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from PIL import Image
from tiny import CONFIG, network

from configs import base
from ivt_jax.data.texts import SPECIAL_TOKENS, load_tokenizer
from ivt_jax.inference import Retriever
from ivt_jax.retrieval.encoding import make_encoders
from ivt_jax.training.sharding import make_mesh

WORDS = ("a", "man", "woman", "red", "coat", "back", "##pack", "-", ".", "with")


def memory_model(folder: Path, *, scale: float = 1.0) -> Retriever:
    """An untrained model that was never saved; another `scale` gives other weights."""
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join([*SPECIAL_TOKENS, *WORDS]))
    config = base.get_config()
    config.model.update(dataclasses.asdict(CONFIG))
    config.data.text_length = 10
    config.evaluation.batch_size = 8
    graphdef, params = nnx.split(network())
    params = jax.tree.map(lambda leaf: leaf * scale, nnx.to_pure_dict(params))
    encoders = make_encoders(graphdef, make_mesh(data=-1, fsdp=1))
    return Retriever(config, 0, params, encoders, load_tokenizer(vocabulary))


def write_photo(file: Path, seed: int) -> Path:
    """A PNG of 40 x 20 random pixels."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 20, 3), np.uint8)
    Image.fromarray(pixels).save(file)
    return file


def write_photos(folder: Path, count: int) -> Path:
    """So many photos, half of them in a folder of the folder."""
    for i in range(count):
        write_photo(folder / ("b" if i % 2 else ".") / f"{i:03d}.png", i)
    return folder


def age(file: Path, seconds: int) -> None:
    """Sets the time of change, so that no test waits for a clock."""
    os.utime(file, (1_000_000 + seconds, 1_000_000 + seconds))
