"""Why a photo fits a sentence: which words count, and where on the photo each of them is seen.

Everything is measured by leaving out: tokens are dropped, words of the sentence and patches of the
photo, as bidirectional masking drops them in training (BMM), so the model knows such inputs.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
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

_BLOCKS = 80  # of patches that are left out, at most
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

    With f the L2-normalised features of the photo, f' those without one patch (of large grids one
    block, see `drop_patches`), t those of the caption, t' without a word, p' without the phrase
    around it, p of that phrase alone, and e of the class token alone:

    * word_scores: f . (t - t'), what the score loses when the word is left out;
    * sentence_map: (f - f') . t, what it loses without the patch;
    * maps: (f - f') . d, with d the sum of t - p' and p - e, each of length one: how much of what
      the phrase means, in the caption and by itself, is lost with the patch.

    A phrase is a word with the two before it and the one after, up to a mark of punctuation: "red"
    and "coat" are each seen where the red coat is. `python -m benchmarks.word_maps` measures these
    choices on 200 drawn people. Before their garments had trims, a patch in the box of a garment
    was 5.2 times as hot as others when its word was asked for (1.1 times with untrained weights),
    2.5 times if words were left out alone, 4.9 times by integrated gradients, and 1.1 times by the
    similarities of word tokens with patches that Fig. 6 of the paper shows. A right colour had a
    larger word score than a wrong one in its place in 86 of 100 captions, by gradient x input 68.

    Args:
      model: from `ivt_jax.load`.
      image: a PIL image, a path, or uint8 (H, W, 3).
      caption: a sentence; what is beyond the model's text length has no words here.

    Raises:
      UserError: a caption without a word; ImageError: an unreadable photo.
    """
    sizes = IVTConfig(**model.config.model)
    pixels = evaluation_image(_pixels(image), sizes.image_size)
    encode_photos, encode_texts = encoders(sizes)
    ids, words, spans, masks = read_words(model, caption)
    kept, block = drop_patches(sizes)
    photos = in_rows(encode_photos, model.params, pixels[None], kept)
    texts = in_rows(encode_texts, model.params, ids, masks)
    lost = (photos[0] - photos[1:])[block]  # (P, D)
    without_word, without_phrase, phrase = texts[2:].reshape(3, len(words), -1)  # (W, D) each
    direction = unit(texts[0] - without_phrase) + unit(phrase - texts[1])
    return WordMaps(
        words=words,
        spans=spans,
        maps=(direction @ lost.T).reshape(-1, *sizes.grid),
        sentence_map=(lost @ texts[0]).reshape(sizes.grid),
        word_scores=(texts[0] - without_word) @ photos[0],
        score=float(photos[0] @ texts[0]),
    )


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows (n, D) of length one; zeros stay zeros."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


@functools.lru_cache(maxsize=2)
def encoders(config: IVTConfig):
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


def in_rows(encode, params, one: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Copies of one photo or sentence under masks (M, T), in blocks of one shape -> (M, D)."""
    padded = np.concatenate([masks, np.repeat(masks[:1], -len(masks) % _ROWS, axis=0)])
    blocks = [encode(params, one, kept) for kept in padded.reshape(-1, _ROWS, masks.shape[1])]
    return np.concatenate(jax.device_get(blocks))[: len(masks)]


def drop_patches(config: IVTConfig) -> tuple[np.ndarray, np.ndarray]:
    """Tokens kept (n + 1, N): all of them, then without each block; and the block (P,) of a patch.

    A block is one patch, or a square of them where there are more than _BLOCKS: 2 x 2 of the base
    model's 24 x 8, since every block costs a pass of the photo through the network.
    """
    rows, columns = config.grid
    side = 1
    while math.ceil(rows / side) * math.ceil(columns / side) > _BLOCKS:
        side += 1
    y, x = np.divmod(np.arange(rows * columns), columns)
    block = y // side * math.ceil(columns / side) + x // side  # (P,)
    masks = np.ones((block.max() + 2, config.image_tokens), bool)
    masks[block + 1, np.arange(len(block)) + 1] = False
    return masks, block


def read_words(
    model: Retriever, caption: str
) -> tuple[np.ndarray, list[str], list[tuple[int, int]], np.ndarray]:
    """What the model reads: ids (1, L), W words, their spans, and tokens kept (2 + 3 W, L).

    Kept are all tokens; no word; then W times all but a word, all but its phrase, its phrase.
    """
    length, separator = model.config.data.text_length, model.config.data.separator
    clean = caption.encode("utf-8", "ignore").decode("utf-8")
    ids, mask, _ = model.tokenizer.encode([clean], length=length, separator=separator)
    read = int(mask.sum()) - 1 - (separator == "sep")  # tokens of words
    offsets = model.tokenizer.wordpiece.encode(clean, add_special_tokens=False).offsets[:read]
    words, spans, owned = [], [], []
    for match in _WORD.finditer(clean):
        start, end = match.span()
        tokens = np.zeros(length, bool)
        tokens[1 : read + 1] = [start <= a and b <= end for a, b in offsets]
        if tokens.any():
            words.append(match.group())
            spans.append((start, end))
            owned.append(tokens)
    if not words:
        raise UserError("there is no word in the caption to explain")
    word = np.stack(owned)  # (W, L)
    phrase = np.stack([word[_phrase(clean, spans, i)].any(axis=0) for i in range(len(words))])
    special = mask[0].copy()
    special[1 : read + 1] = False
    masks = [mask, special[None], mask & ~word, mask & ~phrase, special | phrase]
    return ids, words, spans, np.concatenate(masks)


def _phrase(caption: str, spans: list[tuple[int, int]], word: int) -> list[int]:
    """A word, the two before and the one after it, as far as only blanks are between them."""
    blank = [caption[a:b].isspace() for (_, a), (b, _) in itertools.pairwise(spans)]
    first = word
    while first > max(0, word - 2) and blank[first - 1]:
        first -= 1
    last = word + (word < len(blank) and blank[word])
    return list(range(first, last + 1))


def _pixels(image: Image.Image | str | Path | np.ndarray) -> np.ndarray:
    if isinstance(image, np.ndarray):
        return image
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    return decode(Path(image).read_bytes(), key=str(image))
