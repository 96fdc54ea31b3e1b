"""Runs scored on one split: the ranking of every caption, and what the photos are known to show."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ivt_jax.data.builders.progress import shown_on
from ivt_jax.errors import UserError
from ivt_jax.evaluate import Evaluation, evaluate
from ivt_jax.inference import Retriever, load
from ivt_jax.reporting.numbers import first_ranks
from ivt_jax.retrieval.ranking import ranks_of_positives, top_k

CHUNK = 256  # records read at once


@dataclass(frozen=True)
class Split:
    """What is searched: a split of a prepared dataset; `unmatched` as in `retrieval_metrics`."""

    directory: str
    dataset: str
    split: str
    unmatched: str = "error"

    def __str__(self) -> str:
        return f"{self.dataset} {self.split}"


@dataclass(frozen=True)
class Scored:
    """A run on a split; Q captions that count, of all that the split has."""

    path: Path
    model: Retriever
    evaluation: Evaluation
    queries: np.ndarray  # (Q,) their rows among the captions
    first: np.ndarray  # (Q,) rank from 1 of the first right photo, 0 = there is none
    nearest: np.ndarray  # (Q,) row of the best photo

    @property
    def name(self) -> str:
        """Of the run, as in the pictures."""
        return self.evaluation.name

    @property
    def hits(self) -> np.ndarray:
        """Whether the best photo is right, bool (Q,)."""
        return self.first == 1


def score_run(run: Path, split: Split, *, name: str, step: int | None = None) -> Scored:
    """Encodes the split with a run's best (or given) step and ranks every caption.

    Raises UserError: no such run, step or split, or captions that cannot be scored.
    """
    model = load(run, step)
    evaluation = evaluate(
        model,
        name=name,
        directory=split.directory,
        dataset=split.dataset,
        split=split.split,
        unmatched=split.unmatched,
        show=shown_on(sys.stderr, what=f"photos of {split}", did=f"encoded by {name}"),
    )
    encoded = evaluation.encoded
    sides = encoded.text_embeddings, encoded.image_embeddings
    first = first_ranks(
        *ranks_of_positives(*sides, encoded.text_identities, encoded.image_identities)
    )
    queries = np.flatnonzero(first > 0) if split.unmatched == "skip" else np.arange(len(first))
    nearest = top_k(*sides, k=1)[1][:, 0]
    return Scored(run, model, evaluation, queries, first[queries], nearest[queries])


def same_queries(runs: Sequence[Scored]) -> None:
    """UserError unless the runs read the same captions: figures compare them one by one."""
    for run in runs[1:]:
        if run.evaluation.encoded.captions != runs[0].evaluation.encoded.captions:
            raise UserError(f"{run.path} and {runs[0].path} were scored on different captions")


def names_of(runs: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell the runs apart."""
    parts = [path.resolve().parts for path in runs]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def records_of(scored: Scored) -> tuple[list[dict], list[list[str]]]:
    """Annotations of drawn people, one a photo ([] for other data), and the words of each caption.

    The words are the nouns and adjectives that were stored with a caption; Q lists.
    """
    notes, words = [], []
    source = scored.evaluation.source
    for start in range(0, len(source), CHUNK):
        for record in source.read(range(start, min(start + CHUNK, len(source)))):
            notes.append(_note(record["annotation"]))
            stored = record["words"] or [""] * len(record["captions"])
            words += [one.split(", ") if one else [] for one in stored]
    told = all("attributes" in note and "mentioned" in note for note in notes)
    return (notes if told else []), [words[query] for query in scored.queries]


def caption_numbers(scored: Scored) -> list[tuple[int, int]]:
    """The photo of each query, and which of the photo's captions it is."""
    photos = scored.evaluation.encoded.text_images
    _, first = np.unique(photos, return_index=True)  # captions of a photo stand side by side
    start = dict(zip(photos[first].tolist(), first.tolist(), strict=True))
    return [(int(photos[q]), int(q - start[int(photos[q])])) for q in scored.queries]


def _note(annotation: str) -> dict:
    try:
        note = json.loads(annotation)
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}
