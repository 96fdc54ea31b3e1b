"""Reads prepared datasets: records by number, and what can be known of them without images.

A prepared dataset is `<directory>/<name>/`: a TFDS folder of array_record shards with an index
beside them, `prepared.json` (what was made, from what), `quarantine.jsonl` (what was left out)
and, where given, `vocab.txt`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ivt_jax.errors import EXIT_UNUSABLE_DATA, UserError

MANIFEST = "prepared.json"
VOCABULARY = "vocab.txt"
VERSION = "1.0.0"
# Dataset -> the name that `python -m ivt_jax prepare` makes it by.
PREPARED_BY = {
    "synthetic_people": "synthetic",
    "synthetic_scenes": "synthetic",
    **{name: name for name in ("cuhk_pedes", "icfg_pedes", "rstpreid")},
    **{name: name for name in ("cc3m", "sbu", "coco", "vg")},
}


class DataError(UserError):
    """A dataset is missing, damaged or unusable; the message says what to do."""

    def __init__(self, message: str):
        super().__init__(message, exit_code=EXIT_UNUSABLE_DATA)


class RecordSource:
    """One split of a prepared dataset, read by number; picklable and cheap to build.

    Attributes:
        name: the dataset.
        split: "train", "val" or "test".
        captions_per_record: int32 (N,).
        identities: int64 (N,).
    """

    def __init__(self, folder: Path, name: str, split: str):
        """Opens the index of `<folder>/<split>`; shards are opened at the first record read."""
        self.folder, self.name, self.split = folder, name, split
        with np.load(index_path(folder, split), allow_pickle=False) as index:
            self.captions_per_record = index["captions_per_record"]
            self.identities = index["identities"]

    def __len__(self) -> int:
        """The number of records."""
        return len(self.identities)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Record number `index`: image and annotation as stored, the image still encoded.

        Keys: image (bytes), captions, words, attributes (lists of str, aligned), identity (int),
        source, key, annotation (str).
        """
        return self.read([index])[0]

    def read(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The records of these numbers, read all at once."""
        return [self._parse(raw) for raw in self._shards.__getitems__(list(map(int, indices)))]

    def _parse(self, raw: bytes) -> dict[str, Any]:
        feature = self._example(raw).features.feature

        def strings(name: str) -> list[str]:
            return [value.decode("utf-8") for value in feature[name].bytes_list.value]

        lists = {name: strings(name) for name in ("captions", "words", "attributes")}
        texts = {name: strings(name)[0] for name in ("source", "key", "annotation")}
        return {
            "image": feature["image"].bytes_list.value[0],
            **lists,
            "identity": feature["identity"].int64_list.value[0],
            **texts,
        }

    @functools.cached_property
    def _shards(self):
        import tensorflow_datasets as tfds

        # TFDS takes five times as long to read an example as protobuf alone.
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        builder = tfds.builder_from_directory(self.folder)
        return builder.as_data_source(self.split, deserialize_method=raw)

    @functools.cached_property
    def _example(self):
        from tensorflow_datasets.proto import tf_example_pb2

        return tf_example_pb2.Example.FromString

    def __getstate__(self) -> tuple[Path, str, str]:
        """Only the address travels to other processes; each opens the files itself."""
        return self.folder, self.name, self.split

    def __setstate__(self, state: tuple[Path, str, str]):
        """Opens the same split again."""
        self.__init__(*state)


def open_dataset(directory: str | Path, name: str, split: str) -> RecordSource:
    """Opens one split of `<directory>/<name>`.

    Raises:
        DataError: the dataset or split is missing, or a shard is missing or has another size
            than when it was written.
    """
    manifest = read_manifest(directory, name)
    if split not in manifest["splits"]:
        known = ", ".join(manifest["splits"])
        raise DataError(f"dataset {name} in {directory} has no split {split!r}; it has {known}")
    folder = Path(directory) / name / VERSION
    for path, found, size in changed_files(folder, manifest["files"][split]):
        state = "is missing" if found is None else f"has {found:,} bytes instead of {size:,}"
        raise DataError(
            f"{path} {state}. Remove {Path(directory) / name} and run {_command(directory, name)}"
        )
    return RecordSource(folder, name, split)


def changed_files(folder: Path, files: dict[str, int]) -> Iterator[tuple[Path, int | None, int]]:
    """Of files and their sizes, those of another size: path, bytes now (None: missing), before."""
    for name, size in files.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            yield path, found, size


def splits(directory: str | Path, name: str) -> list[str]:
    """The splits of a prepared dataset; DataError if it is missing."""
    return list(read_manifest(directory, name)["splits"])


def vocabulary_path(directory: str | Path, name: str) -> Path:
    """The vocab.txt stored with a dataset; DataError if the dataset or the file is missing."""
    read_manifest(directory, name)
    path = Path(directory) / name / VOCABULARY
    if not path.is_file():
        raise DataError(
            f"dataset {name} in {directory} was prepared without a vocabulary. Set "
            "--config.data.vocabulary to a vocab.txt, such as that of a downloaded Hugging Face "
            "bert-base-uncased folder."
        )
    return path


def entries(source: RecordSource) -> np.ndarray:
    """All (record, caption) pairs of a split, int64 (E, 2), in record order."""
    counts = source.captions_per_record.astype(np.int64)
    records = np.repeat(np.arange(len(counts)), counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([records, np.arange(len(records)) - first], axis=1)


def read_manifest(directory: str | Path, name: str) -> dict[str, Any]:
    """What `prepared.json` says of a dataset; DataError if the dataset is not there."""
    path = Path(directory) / name / MANIFEST
    if path.is_file():
        return json.loads(path.read_text("utf-8"))
    if name not in PREPARED_BY:
        raise DataError(f"there is no dataset {name!r}; known are {', '.join(PREPARED_BY)}")
    raise DataError(
        f"dataset {name} is not in {directory}. Prepare it: {_command(directory, name)}"
    )


def index_path(folder: Path, split: str) -> Path:
    """Where the index of a split lies, beside its shards."""
    return folder / f"index-{split}.npz"


def _command(directory: str | Path, name: str) -> str:
    prepared_by = PREPARED_BY.get(name, name)
    source = "" if prepared_by == "synthetic" else " --source=FOLDER_OR_JSON --vocabulary=VOCAB_TXT"
    return f"python -m ivt_jax prepare {prepared_by}{source} --out={directory}"
