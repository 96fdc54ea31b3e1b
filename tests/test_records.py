"""Datasets are read back as they were written, by number, from any process."""

import io
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ivt_jax.data import records
from ivt_jax.data.builders.dataset import write_dataset
from ivt_jax.data.builders.ingest import Split
from ivt_jax.data.records import DataError

NAME = "synthetic_people"


def photo(number, format="PNG"):
    stream = io.BytesIO()
    Image.new("RGB", (8, 12), (number, 0, 0)).save(stream, format)
    return stream.getvalue()


def made(number):
    """Record `number`: a caption more than number % 3, a Unicode one among them, own words."""
    count = 1 + number % 3
    return {
        "image": photo(number, ("PNG", "JPEG", "WEBP")[number % 3]) + b"\0" * (number % 2),
        "captions": [f"a red coat № {number}.{i}" for i in range(count)],
        "words": [f"red, coat, {i}" for i in range(count)],
        "attributes": ['{"a": "b"}'] * count,
        "identity": number // 2 + 100,
        "source": NAME,
        "key": f"photo-{number}",
        "annotation": json.dumps({"number": number}),
    }


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    out = tmp_path_factory.mktemp("data")
    splits = {"train": Split(range(40), made), "val": Split(range(40, 47), made)}
    write_dataset(NAME, splits, out=out, vocabulary=["[PAD]", "é"])
    return out


@pytest.mark.parametrize(("split", "numbers"), [("train", range(40)), ("val", range(40, 47))])
def test_records_come_back_as_written(directory, split, numbers):
    source = records.open_dataset(directory, NAME, split)
    assert len(source) == len(numbers)
    found = {record["key"]: record for record in (source[i] for i in range(len(source)))}
    assert found == {f"photo-{n}": made(n) for n in numbers}


def test_index_equals_the_records(directory):
    source = records.open_dataset(directory, NAME, "train")
    everything = [source[i] for i in range(len(source))]
    assert source.captions_per_record.tolist() == [len(r["captions"]) for r in everything]
    assert source.identities.tolist() == [r["identity"] for r in everything]
    pairs = [(i, j) for i, r in enumerate(everything) for j in range(len(r["captions"]))]
    assert records.entries(source).tolist() == [list(pair) for pair in pairs]


def test_a_source_travels_to_workers(directory):
    source = records.open_dataset(directory, NAME, "val")
    first = source[0]  # opened files must not travel
    copy = pickle.loads(pickle.dumps(source))
    assert copy[np.int64(0)] == first and len(copy) == len(source)
    assert len(pickle.dumps(source)) < 1000


def test_splits_and_vocabulary(directory):
    assert records.splits(directory, NAME) == ["train", "val"]
    path = records.vocabulary_path(directory, NAME)
    assert path.read_text("utf-8") == "[PAD]\né\n"


def test_missing_things_name_the_command(directory, tmp_path):
    with pytest.raises(DataError, match=r"python -m ivt_jax prepare synthetic --out=") as caught:
        records.open_dataset(tmp_path, "synthetic_scenes", "train")
    assert caught.value.exit_code == 5
    with pytest.raises(DataError, match=r"prepare cuhk_pedes --source="):
        records.splits(directory, "cuhk_pedes")
    with pytest.raises(DataError, match="known are synthetic_people"):
        records.open_dataset(directory, "cuhk", "train")
    with pytest.raises(DataError, match="no split 'test'; it has train, val"):
        records.open_dataset(directory, NAME, "test")


def test_a_dataset_without_vocabulary_says_so(tmp_path):
    write_dataset("cc3m", {"train": Split(range(2), made)}, out=tmp_path)
    with pytest.raises(DataError, match="data.vocabulary"):
        records.vocabulary_path(tmp_path, "cc3m")


@pytest.mark.parametrize("fault", ["missing", "truncated"])
def test_damaged_shards_are_named_at_the_start(tmp_path, fault):
    write_dataset(NAME, {"train": Split(range(3), made)}, out=tmp_path)
    shard = next((tmp_path / NAME / records.VERSION).glob("*array_record*"))
    if fault == "missing":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(DataError, match=shard.name):
        records.open_dataset(tmp_path, NAME, "train")


def test_workers_never_import_jax_or_tensorflow():
    code = (
        "import sys, ivt_jax.data.records, ivt_jax.data.texts, ivt_jax.data.images, "
        "ivt_jax.data.words, ivt_jax.data.builders.ingest, ivt_jax.prepare\n"
        "print([m for m in ('jax', 'tensorflow', 'tensorflow_datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
