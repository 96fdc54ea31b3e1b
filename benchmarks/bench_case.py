"""What both sides of the benchmark get: one model's weights, one batch, one small test set.

The parent writes a case into a folder once; every worker reads it from there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

TEXT_LENGTH = 100  # tokens, the static length of the fine-tuning configurations
IMAGES, CAPTIONS = 3074, 6156  # of CUHK-PEDES's test split
IDENTITIES = 1000


def write_case(folder: Path, *, model: dict[str, Any], batch: int, photos: int) -> None:
    """Writes random weights as an exported folder, a batch with MLA's views, photos, captions.

    Args:
      model: values of `config.model` that differ from configs/base.py.
      batch: pairs; people are drawn four captions each, as the official sampler takes them.
      photos: images of the test set, each with two captions.
    """
    import jax

    from configs import base
    from ivt_jax.convert import exported
    from ivt_jax.convert.folder import write_facts, write_tokenizer
    from ivt_jax.data import synthetic
    from ivt_jax.data.builders.dataset import write_dataset
    from ivt_jax.data.builders.ingest import Split
    from ivt_jax.data.records import open_dataset, vocabulary_path
    from ivt_jax.data.texts import load_tokenizer
    from ivt_jax.model.ivt import IVTConfig
    from ivt_jax.training.state import random_params

    config = base.get_config()
    config.model.update(model)
    sizes = IVTConfig(**config.model)
    folder.mkdir(parents=True)
    people = list(synthetic.people_records("test", identities=max(batch // 2, photos // 2) + 8))
    split = Split(range(len(people)), people.__getitem__)
    name = "synthetic_people"
    write_dataset(name, {"train": split}, out=folder, vocabulary=synthetic.vocabulary())
    tokenizer = load_tokenizer(vocabulary_path(folder, name))
    exported.write_weights(folder, random_params(sizes, jax.random.key(0)), sizes)
    facts = {"text_length": TEXT_LENGTH, "separator": "none", "step": 0}
    write_facts(folder, sizes, **facts)
    exported.write_templates(folder)
    write_tokenizer(folder, tokenizer, length=TEXT_LENGTH, separator="none")
    source = open_dataset(folder, name, "train")
    np.savez(folder / "batch.npz", **_batch(source, tokenizer, sizes.image_size, batch))
    captions, owners = [], []
    for number, record in enumerate(people[:photos]):
        (folder / f"{number}.jpg").write_bytes(record["image"])
        captions += record["captions"]
        owners += [number] * len(record["captions"])
    (folder / "captions.json").write_text(json.dumps({"captions": captions, "photos": owners}))


def _batch(source, tokenizer, image_size, batch: int) -> dict[str, np.ndarray]:
    """One batch of the training pipeline with the three text levels."""
    from ivt_jax.data.pipeline import TrainingEntries, ViewOptions, training_batches
    from ivt_jax.data.texts import LEVELS

    entries = TrainingEntries(source, kind="captions", sampler="identity", group=4, seed=0)
    options = ViewOptions(
        views=LEVELS,
        image_size=image_size,
        text_length=TEXT_LENGTH,
        separator="none",
        decode="exact",
        resize="bicubic",
        pad=10,
        flip=0.5,
        word_level="words",
        phrase_level="pieces",
        image_views="level",
    )
    stream = training_batches(
        [entries], [1.0], tokenizer=tokenizer, options=options, batch_size=batch, seed=0
    )
    found = next(stream)
    stream.close()
    wanted = ("images", "token_ids", "token_mask", "identities")
    return {name: np.asarray(found[name]) for name in wanted}


def read_batch(folder: Path, *, rows: int = 0) -> dict[str, np.ndarray]:
    """The batch of a case: images uint8 (B, 3, H, W, 3), token_ids, token_mask, identities.

    rows: how many of its pairs, repeated where there are fewer; 0 = all.
    """
    with np.load(folder / "batch.npz", allow_pickle=False) as arrays:
        batch = dict(arrays)
    wanted = np.arange(rows or len(batch["images"])) % len(batch["images"])
    return {name: value[wanted] for name, value in batch.items()}


def plain_pairs(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The sentence view alone, (B, ...), its texts padded to the longest and no further."""
    mask = batch["token_mask"][:, -1]
    longest = int(mask.sum(axis=1).max())
    return {
        "images": np.ascontiguousarray(batch["images"][:, -1]),
        "token_ids": batch["token_ids"][:, -1, :longest],
        "token_mask": mask[:, :longest],
        "identities": batch["identities"],
    }


def cuhk_sized(*, images: int = IMAGES, captions: int = CAPTIONS, width: int = 768):
    """Embeddings like those of a trained model on a test set of the size of CUHK-PEDES.

    Returns:
      text_embeddings (captions, width), image_embeddings (images, width), both float32 and
      L2-normalised, and the identities of each; an identity has three or four images.
    """
    rng = np.random.default_rng(0)
    people = max(images * IDENTITIES // IMAGES, 1)
    owners = np.sort(rng.integers(0, images, captions))
    gallery_identities = np.sort(np.arange(images) % people)
    noise = rng.normal(size=(people + images + captions, width)).astype(np.float32)
    person, image, text = np.split(noise, [people, people + images])
    image += person[gallery_identities]
    text += 3 / width**0.5 * image[owners]  # some captions find their photo, some do not
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (text, image)]
    return *unit, gallery_identities[owners], gallery_identities
