"""The nouns and adjectives of a caption, by a real part-of-speech tagger that works offline.

The tagger is needed when a dataset is prepared; training reads the words stored with the records.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
from typing import Any

_MODEL = "morphmodel_en.pgz"
_TAGS = ("NN", "NP0", "AJ")  # of the C5 tagset: common and proper nouns, adjectives of all degrees
# A hyphenated word stays one word ("v-neck"); every other mark stands alone.
_TOKEN = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*|[^\w\s]")


@functools.lru_cache(maxsize=65536)
def _tagged(caption: str) -> tuple[str, ...]:
    tokens = tagger_tokens(caption)
    tags = _tagger().tag_sent(tokens, taglevel=1) if tokens else []
    return tuple(word for word, _, tag in tags if word[0].isalnum() and tag.startswith(_TAGS))


def tagger_tokens(caption: str) -> list[str]:
    """The words and punctuation marks of a caption, as the tagger gets them."""
    return _TOKEN.findall(caption)


def noun_adjective_words(caption: str) -> list[str]:
    """The nouns and adjectives of a caption, lower-cased, in order, repetitions kept.

    Section 3.3 of the paper takes a caption's nouns and adjectives as its word level.

    Raises:
        ModuleNotFoundError: the tagger is not installed.
    """
    return list(_tagged(caption.lower()))


def tagger_version() -> str:
    """Name and version of the tagger, to be stored with what it made."""
    return f"HanTa {importlib.metadata.version('HanTa')} {_MODEL}"


@functools.cache
def _tagger() -> Any:
    try:
        from HanTa import HanoverTagger
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the part-of-speech tagger is missing; it is needed to prepare a dataset: "
            "pip install HanTa"
        ) from error
    return HanoverTagger.HanoverTagger(_MODEL)
