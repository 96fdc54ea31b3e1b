"""Writes one dataset as TFDS array_record shards, atomically: whole or not at all."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from ivt_jax.data import records
from ivt_jax.data.builders.ingest import Checked, Split, checked
from ivt_jax.data.records import DataError
from ivt_jax.data.words import tagger_version

MOST_BAD = 0.01  # share of records with a fault above which a dataset is refused
QUARANTINE = "quarantine.jsonl"

# (what is iterated, its length, its label) -> the same, shown to a person
Show = Callable[[Iterable[Checked], int, str], Iterable[Checked]]


class RecordBuilder(  # pyright: ignore[reportGeneralTypeIssues]
    tfds.core.GeneratorBasedBuilder,
    skip_registration=True,  # pyright: ignore[reportCallIssue]
):
    """The TFDS builder of every dataset here; only name and splits differ between them."""

    VERSION = tfds.core.Version(records.VERSION)

    def __init__(self, name: str, *, folder: Path, splits: Mapping[str, Iterable[dict[str, Any]]]):
        """Takes the records of each split; nothing is read until download_and_prepare()."""
        self.name = name
        self._records = splits
        super().__init__(data_dir=folder, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "captions": tfds.features.Sequence(text),
            "words": tfds.features.Sequence(text),
            "attributes": tfds.features.Sequence(text),
            "identity": np.int64,
            "source": text,
            "key": text,
            "annotation": text,
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Images with captions and identities.",
            features=tfds.features.FeaturesDict(features),
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self._records}

    def _generate_examples(self, split: str):
        # Numbers are unique where keys may not be; TFDS orders by their hash.
        yield from enumerate(self._records[split])


class Quarantine:
    """Names and counts what is left out, and refuses a dataset with too much of it."""

    def __init__(self, path: Path, *, total: int):
        """Starts the list at `path`; `total` is the number of records of all splits."""
        self.path, self.total = path, total
        self.bad, self.reasons = 0, Counter()
        path.write_text("")

    def passed(self, split: str, results: Iterable[Checked]) -> Iterator[dict[str, Any]]:
        """The records to write; the rest is listed. DataError above MOST_BAD."""
        for result in results:
            if result.faults:
                self._add(split, result)
            if result.record is not None:
                yield result.record

    def _add(self, split: str, result: Checked):
        self.bad += 1
        with self.path.open("a", encoding="utf-8") as file:
            for key, reason, detail in result.faults:
                self.reasons[reason] += 1
                row = {"split": split, "key": key, "reason": reason, "detail": detail}
                file.write(json.dumps(row) + "\n")
        if self.bad > MOST_BAD * self.total:
            raise DataError(
                f"{self.bad:,} of {self.total:,} records are bad, more than {MOST_BAD:.0%}: "
                f"{described(self.reasons)}"
            )


def described(reasons: dict[str, int]) -> str:
    """Counts by reason, as a person reads them."""
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items()) or "none"


def write_dataset(
    name: str,
    splits: dict[str, Split],
    *,
    out: Path,
    workers: int = 1,
    vocabulary: list[str] | None = None,
    about: dict[str, Any] | None = None,
    show: Show = lambda results, total, label: results,
) -> dict[str, Any]:
    """Writes `<out>/<name>` and returns its manifest.

    The dataset grows in a hidden folder and is renamed at the end, so what can be opened is
    whole; the remains of an interrupted attempt are removed first.

    Args:
        name: the dataset.
        splits: what to read; every record is checked.
        out: folder of all datasets.
        workers: processes that load and check; 1 = this one.
        vocabulary: tokens to store as vocab.txt.
        about: more fields of the manifest, such as where the data came from.
        show: wraps the iteration of each split, for progress.

    Raises:
        DataError: too many bad records (they are then listed in
            `<out>/<name>.quarantine.jsonl`), nothing to write, or `<out>/<name>` is taken.
    """
    final, unfinished = out / name, out / f".{name}.unfinished"
    total = sum(len(split.items) for split in splits.values())
    if final.exists():
        raise DataError(f"{final} exists and is not a finished dataset; move it away")
    if not total:
        raise DataError(f"dataset {name} has no records; check --source")
    shutil.rmtree(unfinished, ignore_errors=True)
    folder = unfinished / name
    folder.mkdir(parents=True)
    quarantine = Quarantine(folder / QUARANTINE, total=total)
    refused = out / f"{name}.{QUARANTINE}"
    try:
        _build(name, splits, folder=unfinished, workers=workers, quarantine=quarantine, show=show)
    except DataError as error:
        quarantine.path.replace(refused)
        shutil.rmtree(unfinished)
        raise DataError(f"dataset {name} was not written: {error}. See {refused}") from error
    if vocabulary is not None:
        (folder / records.VOCABULARY).write_text("\n".join(vocabulary) + "\n", "utf-8")
    manifest = _manifest(name, folder, list(splits), quarantine, about or {})
    (folder / records.MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    refused.unlink(missing_ok=True)
    folder.rename(final)
    shutil.rmtree(unfinished)
    return manifest


def _build(
    name: str,
    splits: dict[str, Split],
    *,
    folder: Path,
    workers: int,
    quarantine: Quarantine,
    show: Show,
):
    def results(label: str, split: Split, executor: ProcessPoolExecutor | None):
        found = show(checked(split, executor=executor), len(split.items), label)
        return quarantine.passed(label, found)

    tfds.disable_progress_bar()
    # TFDS prints that it is "downloading"; nothing is, and `show` tells the progress.
    with _executor(workers) as executor, contextlib.redirect_stdout(io.StringIO()):
        generators = {label: results(label, split, executor) for label, split in splits.items()}
        RecordBuilder(name, folder=folder, splits=generators).download_and_prepare()


@contextlib.contextmanager
def _executor(workers: int) -> Iterator[ProcessPoolExecutor | None]:
    if workers <= 1:
        yield None
        return
    executor = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def _manifest(
    name: str, folder: Path, splits: list[str], quarantine: Quarantine, about: dict[str, Any]
) -> dict[str, Any]:
    shards = folder / records.VERSION
    counts = {split: _write_index(shards, split) for split in splits}
    files = {
        split: {path.name: path.stat().st_size for path in sorted(shards.glob(f"*-{split}.*"))}
        for split in splits
    }
    return {
        "name": name,
        **about,
        "tagger": tagger_version(),
        "splits": counts,
        "left_out": dict(quarantine.reasons),
        "files": files,
    }


def _write_index(shards: Path, split: str) -> dict[str, int]:
    """Reads a split once; stores and returns what is known of it without images."""
    source = records.open_shards(shards, split)
    rows = [(len(record["captions"]), record["identity"]) for record in source]
    captions, identities = np.array(rows, np.int64).reshape(-1, 2).T
    np.savez(
        records.index_path(shards, split),
        captions_per_record=captions.astype(np.int32),
        identities=identities,
    )
    return {
        "records": len(rows),
        "captions": int(captions.sum()),
        "identities": len(np.unique(identities)),
    }
