"""Why a photo fits a sentence: which words count, and where on the photo each of them is seen.

Everything is measured by leaving out: tokens are dropped, words of the sentence and patches of the
photo, as bidirectional masking drops them in training (BMM), so the model knows such inputs.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from ivt_jax.data.images import decode, evaluation_image
from ivt_jax.errors import UserError
from ivt_jax.inference import Retriever
from ivt_jax.model.ivt import IVTConfig
from ivt_jax.model.pixels import normalise
from ivt_jax.training.state import split_model

_ROWS = 32  # masked copies of a photo or a sentence encoded at once
_WORD = re.compile(r"\w+(?:[-'’]\w+)*")  # a hyphenated word is one, punctuation is none


@dataclasses.dataclass(frozen=True)
class WordMaps:
    """How a pair's score comes about; W words that the model read, R x C patches of the photo."""

    words: list[str]  # as they stand in the caption
    spans: list[tuple[int, int]]  # caption[start:end] is the word
    maps: np.ndarray  # (W, R, C) float32: heat of each word on the photo, may be negative
    sentence_map: np.ndarray  # (R, C) float32: heat of the whole caption
    word_scores: np.ndarray  # (W,) float32: what the score loses without the word
    score: float  # cosine of photo and caption


def word_maps(
    model: Retriever, image: Image.Image | str | Path | np.ndarray, caption: str
) -> WordMaps:
    """Explains the score of a photo and a caption word by word.

    With f the L2-normalised features of the photo, f' those without a patch and its neighbours,
    t those of the caption and t' those without a word:

    * word_scores: f . (t - t'), what the score loses when the word is left out;
    * sentence_map: (f - f') . t, what it loses without the patch;
    * maps: (f - f') . (t - t'), how much of the word's part is lost with the patch (the second
      difference of the score).

    Args:
      model: from `ivt_jax.load`.
      image: a PIL image, a path, or uint8 (H, W, 3).
      caption: a sentence; what is beyond the model's text length has no words here.

    Raises:
      UserError: a caption without a word; ImageError: an unreadable photo.
    """
    ids, words, spans, masks = _texts(model, caption)
    photo_masks = _photo_masks(model)
    pixels = evaluation_image(_pixels(image), tuple(model.config.model.image_size))
    encode = _encoders(IVTConfig(**model.config.model))
    photos = _in_rows(lambda m: encode[0](model.params, pixels[None], m), photo_masks)  # (P + 1, D)
    texts = _in_rows(lambda m: encode[1](model.params, ids, m), masks)  # (W + 1, D)
    lost_photo, lost_text = photos[0] - photos[1:], texts[0] - texts[1:]
    grid = IVTConfig(**model.config.model).grid
    return WordMaps(
        words=words,
        spans=spans,
        maps=(lost_text @ lost_photo.T).reshape(-1, *grid),
        sentence_map=(lost_photo @ texts[0]).reshape(grid),
        word_scores=lost_text @ photos[0],
        score=float(photos[0] @ texts[0]),
    )


@functools.lru_cache(maxsize=2)
def _encoders(config: IVTConfig):
    """Jitted: masked copies of one photo, and of one sentence -> (M, D), L2-normalised."""
    graphdef, _ = split_model(config)

    def encode(model, tokens, masks, modality):
        tokens = jnp.broadcast_to(tokens, (len(masks), *tokens.shape[1:]))
        features = model.encode(tokens, masks, modality=modality)
        return features / jnp.linalg.norm(features, axis=-1, keepdims=True)

    @jax.jit
    def photos(params, image, masks):
        model = nnx.merge(graphdef, params)
        return encode(model, model.embed_image(normalise(image)), masks, "image")

    @jax.jit
    def texts(params, ids, masks):
        model = nnx.merge(graphdef, params)
        return encode(model, model.embed_text(ids), masks, "text")

    return photos, texts


def _in_rows(encode, masks: np.ndarray) -> np.ndarray:
    """Encodes masks (M, T) in blocks of one shape -> (M, D)."""
    padded = np.concatenate([masks, np.repeat(masks[:1], -len(masks) % _ROWS, axis=0)])
    blocks = [encode(block) for block in padded.reshape(-1, _ROWS, masks.shape[1])]
    return np.concatenate(jax.device_get(blocks))[: len(masks)]


def _photo_masks(model: Retriever) -> np.ndarray:
    """Tokens kept (P + 1, N): all of them, then without each patch and the eight around it."""
    rows, columns = IVTConfig(**model.config.model).grid
    y, x = np.divmod(np.arange(rows * columns), columns)
    near = (abs(y[:, None] - y) <= 1) & (abs(x[:, None] - x) <= 1)  # (P, P)
    masks = np.ones((rows * columns + 1, rows * columns + 1), bool)
    masks[1:, 1:] = ~near
    return masks


def _texts(model: Retriever, caption: str):
    """Ids (1, L), words, their spans, and tokens kept (W + 1, L): all, then without each word."""
    data = model.config.data
    clean = caption.encode("utf-8", "ignore").decode("utf-8")
    ids, mask, _ = model.tokenizer.encode(
        [clean], length=data.text_length, separator=data.separator
    )
    read = int(mask.sum()) - 1 - (data.separator == "sep")
    encoded = model.tokenizer.wordpiece.encode(clean, add_special_tokens=False)
    words, spans, masks = [], [], [mask[0]]
    for match in _WORD.finditer(clean):
        start, end = match.span()
        tokens = [i for i, (a, b) in enumerate(encoded.offsets[:read]) if start <= a and b <= end]
        if tokens:
            kept = mask[0].copy()
            kept[np.array(tokens) + 1] = False
            words.append(match.group())
            spans.append((start, end))
            masks.append(kept)
    if not words:
        raise UserError("there is no word in the caption to explain")
    return ids, words, spans, np.stack(masks)


def _pixels(image: Image.Image | str | Path | np.ndarray) -> np.ndarray:
    if isinstance(image, np.ndarray):
        return image
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    return decode(Path(image).read_bytes(), key=str(image))
