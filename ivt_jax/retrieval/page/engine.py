"""What the page asks of an open gallery, and the answers as plain numbers."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import warnings
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ivt_jax.retrieval.gallery import Gallery
from ivt_jax.retrieval.nearest import best_rows

if TYPE_CHECKING:
    from ivt_jax.retrieval.explain import WordMaps

# Sentences about nothing that a photo of a person shows: what they reach is reached by chance.
# One of them may do better by accident, so the second best counts.
UNRELATED = (
    "the quarterly financial report",
    "a plate of spaghetti with tomato sauce",
    "prime numbers have no other divisors",
    "a giraffe and two elephants",
    "the train to the airport is late",
    "an old violin concerto in g minor",
    "boil the rice for twelve minutes",
    "a spreadsheet of monthly rainfall",
    "the weather will be cold tomorrow",
    "a plane lands at the airport",
    "interest rates rise again",
    "two cats sleep under the table",
    "the engine needs new oil",
    "an open window in the kitchen",
    "a recipe for apple pie",
    "the chess game ended in a draw",
)
BINS = 36  # of the score histogram
REMEMBERED = 256  # queries whose embeddings are kept in memory
_BLOCK_ROWS = 65536  # scored at once


@dataclasses.dataclass(frozen=True)
class Engine:
    """A gallery, and what its model can say beyond embeddings.

    `explain(image, sentence)` is `retrieval.explain.word_maps` with the model. `notes(sentence)`
    are remarks for the reader, such as words that the model does not know.
    """

    name: str  # of the model, for people
    gallery: Gallery
    image_size: tuple[int, int]  # (H, W) of the model
    explain: Callable[[Image.Image, str], WordMaps]
    notes: Callable[[str], list[str]]


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The k best photos by their ids, and how all G score."""

    ids: list[int]
    paths: list[str]
    scores: list[float]
    low: float
    high: float
    counts: list[int]  # photos in BINS equal steps from low to high


def readable(path: str) -> str:
    """A path as JSON can hold it: a file name need not be text."""
    return path.encode("utf-8", "replace").decode()


class Answers:
    """Searches one gallery. A best score up to `floor` is what sentences about nothing reach."""

    def __init__(self, engine: Engine):
        self.engine, self.gallery = engine, engine.gallery
        self._embed = functools.lru_cache(REMEMBERED)(self._embed_sentence)
        self.floor = 0.0
        if len(self.gallery):
            tops = [self.rank(self.sentence(one, ()), k=1).scores[0] for one in UNRELATED]
            self.floor = sorted(tops)[-2]

    def sentence(self, text: str, without: tuple[str, ...]) -> np.ndarray:
        """The embedding (D,) of a sentence, moved away from what must not be there."""
        return self._embed(text, without)

    def image(self, image: Image.Image, without: tuple[str, ...]) -> np.ndarray:
        """The embedding (D,) of an example photo, likewise."""
        return self.gallery.embed(image, without=without)

    def photo(self, row: int, without: tuple[str, ...]) -> np.ndarray:
        """The embedding (D,) of a photo of the gallery, likewise."""
        return self.gallery.embed(np.array(self.gallery.embeddings[row]), without=without)

    def rank(self, embedding: np.ndarray, *, k: int, folder: str = "") -> Ranking:
        """The k best photos for a query (D,), and the histogram of all scores.

        With a `folder` of the gallery: of the photos in it and below it; UserError for another.
        """
        gallery = self.gallery
        starts = range(0, len(gallery), _BLOCK_ROWS)
        blocks = [gallery.embeddings[start : start + _BLOCK_ROWS] @ embedding for start in starts]
        every = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)  # (G,)
        among = gallery.rows(folder) if folder else np.arange(len(every))
        every = every[among]
        best = best_rows(every, k=k)
        counts, edges = np.histogram(every, bins=BINS)
        return Ranking(
            ids=[int(gallery.ids[row]) for row in among[best]],
            paths=[readable(gallery.paths[row]) for row in among[best]],
            scores=[round(float(score), 5) for score in every[best]],
            low=float(edges[0]),
            high=float(edges[-1]),
            counts=counts.tolist(),
        )

    def folders(self, *, most: int) -> list[str]:
        """The uppermost folders of the gallery, in order; no level that would make more."""
        known = [name for name in self.gallery.folders if readable(name) == name]
        depth = Counter(name.count("/") for name in known)
        levels = itertools.accumulate(depth[level] for level in range(len(depth)))
        shown = sum(total <= most for total in levels)
        return [name for name in known if name.count("/") < shown]

    def _embed_sentence(self, text: str, without: tuple[str, ...]) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* were cut to ")  # `notes` tells the reader
            return self.gallery.embed(text, without=without)
