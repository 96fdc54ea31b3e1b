"""Opens a gallery with its model, and compiles what a first search would wait for."""

import unicodedata
from pathlib import Path

from PIL import Image

from ivt_jax.inference import Retriever
from ivt_jax.retrieval.explain import WordMaps, word_maps
from ivt_jax.retrieval.gallery import Gallery
from ivt_jax.retrieval.page.engine import Engine


def open_engine(folder: Path, run: Retriever | str | None) -> Engine:
    """The gallery `folder` with the model of `run`, None = the one that made it.

    Raises UserError: no gallery or no model there, or not the model of that gallery.
    """
    gallery = Gallery.open(folder, model=run)
    model = gallery.model

    def explain(image: Image.Image, sentence: str) -> WordMaps:
        return word_maps(model, image, sentence)

    def notes(sentence: str) -> list[str]:
        return reading_notes(model, sentence)

    name = f"{model.path}, step {model.step}"
    height, width = model.config.model.image_size
    return Engine(name, gallery, (height, width), explain, notes)


def reading_notes(model: Retriever, sentence: str) -> list[str]:
    """What a reader should know of how the model reads a sentence: unknown words, a cut end."""
    tokenizer, data = model.tokenizer, model.config.data
    encoded = tokenizer.wordpiece.encode(sentence, add_special_tokens=False)
    unknown = [
        f"“{sentence[start:end]}”"
        for id, (start, end) in zip(encoded.ids, encoded.offsets, strict=True)
        if id == tokenizer.unknown_id and unicodedata.category(sentence[start])[0] != "P"
    ]
    notes = [f"The model does not know {', '.join(dict.fromkeys(unknown))}."] if unknown else []
    *_, cut = tokenizer.encode([sentence], length=data.text_length, separator=data.separator)
    if cut[0]:
        notes.append(f"It reads the first {data.text_length} tokens only: shorten the sentence.")
    return notes
