"""What a run tells of bad images, and of a damaged configuration."""

import dataclasses
import json
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from ivt_jax.data.pipeline import ViewOptions
from ivt_jax.data.texts import LEVELS
from ivt_jax.errors import UserError
from ivt_jax.training.checkpoint import read_config
from ivt_jax.training.setup import Data


def data_of(source, **lengths):
    options = {"views": LEVELS, "image_size": (8, 8), "text_length": 16, "separator": "none"}
    options |= {"decode": "exact", "resize": "bicubic", "pad": 0, "flip": 0.0}
    options |= {"word_level": "words", "phrase_level": "pieces", "image_views": "level"}
    options = ViewOptions(**options, **lengths)
    entries = cast(Any, [SimpleNamespace(source=source)])
    return Data(entries, [1.0], cast(Any, None), options, {}, names=["cc3m"])


def test_a_bad_image_is_listed_once_with_its_reason(tmp_path):
    data = data_of([{}, {"key": "a.jpg", "image": b"no photo"}])
    file, said = tmp_path / "substituted.jsonl", []
    for _ in range(2):
        batch = {"substituted": np.array([[0, 0], [1, 1]]), "truncated": np.zeros((2, 3), bool)}
        data.report(batch, file, said.append)
        assert not batch
    line = json.loads(file.read_text())
    assert (line["dataset"], line["key"], line["reason"]) == ("cc3m", "a.jpg", "not-an-image")
    assert "no photo" in line["detail"] and len(said) == 1


@pytest.mark.parametrize(
    "error", [RuntimeError("Corrupted record"), RuntimeError("Read failed"), OSError("gone")]
)
def test_a_record_that_cannot_be_read_has_an_origin(monkeypatch, error):
    class Torn:
        def __getitem__(self, index):
            raise error

    place = SimpleNamespace(entries=np.array([[4, 0]]), order=[0], source=Torn())
    data = dataclasses.replace(data_of(None), datasets=cast(Any, [place]))
    monkeypatch.setattr("ivt_jax.training.setup.sample_places", lambda *_: {9: (0, 0)})
    assert data.origin(9) == {"dataset": "cc3m", "key": "record 4"}


def test_a_bad_image_that_cannot_be_listed_is_told_and_ends_nothing(tmp_path):
    said = []
    data = data_of([{}, {"key": "a.jpg", "image": b"no photo"}])
    batch = {"substituted": np.array([[1, 1]]), "truncated": np.zeros((1, 3), bool)}
    data.report(batch, tmp_path / "gone" / "substituted.jsonl", said.append)
    assert "a.jpg" in said[0] and "cannot be written: No such file" in said[0]


@pytest.mark.parametrize(
    ("lengths", "told"),
    [
        ({}, ["6 texts were longer than data.text_length and were cut"]),
        (
            {"word_length": 8},
            [
                "2 texts were longer than data.word_length and were cut",
                "4 texts were longer than data.text_length and were cut",
            ],
        ),
        ({"phrase_length": 8}, ["6 texts were longer than data.text_length and were cut"]),
    ],
)
def test_the_field_that_cut_a_text_is_named(tmp_path, lengths, told):
    data = data_of([], **lengths)
    for _ in range(2):
        cut = np.array([[1, 0, 1], [0, 0, 1]], bool)  # two sentences and a word
        batch = {"substituted": np.zeros((2, 2), int), "truncated": cut}
        data.report(batch, tmp_path / "list", lambda _: None)
    assert data.cut_texts() == told
    assert data_of([]).cut_texts() == []


def test_a_record_whose_bytes_are_gone_is_listed_by_its_number(tmp_path):
    class Torn:
        def __getitem__(self, index):
            raise RuntimeError(f"Corrupted Riegeli/records file: chunk {index}")

    batch = {"substituted": np.array([[1, 7]]), "truncated": np.zeros((1, 3), bool)}
    data_of(Torn()).report(batch, tmp_path / "list", lambda _: None)
    line = json.loads((tmp_path / "list").read_text())
    assert (line["key"], line["reason"]) == ("record 7", "damaged")


def test_more_than_one_bad_sample_in_a_hundred_of_the_last_10_000_end_the_run(tmp_path):
    data = data_of([{"key": "a.jpg", "image": b"no photo"}])
    file = tmp_path / "substituted.jsonl"

    def read(batches, bad):
        for _ in range(batches):
            substituted = np.zeros((50, 2), int)
            substituted[:bad, 0] = 1
            batch = {"substituted": substituted, "truncated": np.zeros((50, 3), bool)}
            data.report(batch, file, lambda _: None)

    read(100, 1)  # 5,000 samples, 100 of them bad
    read(100, 0)
    read(100, 1)  # as the first ones leave, as many come
    with pytest.raises(UserError, match="102 of the last 10,000 .* more than 1%") as found:
        read(1, 2)
    assert found.value.exit_code == 5 and str(file) in str(found.value)
    assert json.loads(file.read_text())["key"] == "a.jpg"


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_damaged_configuration_is_named_with_a_cure(tmp_path, text):
    with pytest.raises(UserError, match="name the --workdir"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match="config.json is damaged .*put back a copy"):
        read_config(tmp_path)
