"""Published layouts become records; bad data is counted, listed and, if too much, refused."""

import io
import json
import types

import numpy as np
import pytest
from PIL import Image

import ivt_jax.data
from ivt_jax import prepare
from ivt_jax.data import records
from ivt_jax.data.builders import caption_pairs, ingest, person_search
from ivt_jax.data.builders.dataset import QUARANTINE, write_dataset
from ivt_jax.data.builders.ingest import Split
from ivt_jax.data.records import DataError
from ivt_jax.data.texts import SPECIAL_TOKENS
from ivt_jax.errors import UserError

CAPTION = "A tall man in a red coat."


def photo(number=0):
    stream = io.BytesIO()
    Image.new("RGB", (8, 16), (number % 256, 0, 0)).save(stream, "JPEG")
    return stream.getvalue()


def folder_of(tmp_path, json_name, content, images):
    """A dataset folder: a JSON file, and images in imgs/."""
    for number, name in enumerate(images):
        path = tmp_path / "imgs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(number))
    (tmp_path / json_name).write_text(json.dumps(content))
    return tmp_path


def written(out, name, split):
    source = records.open_dataset(out, name, split)
    found = [source[i] for i in range(len(source))]
    return {record["key"]: record for record in found}


def prepared(capsys, *arguments):
    code = prepare.main([*map(str, arguments), "--workers=1"])
    return code, capsys.readouterr()


def test_cuhk_pedes_as_published(tmp_path, capsys):
    entry = {"processed_tokens": [["a"]], "captions": [CAPTION, "He walks."]}
    content = [
        {**entry, "split": "train", "file_path": "CUHK01/a.png", "id": 1},
        {**entry, "split": "val", "file_path": "CUHK01/b.png", "id": 11004},
        {**entry, "split": "test", "file_path": "test_query/c.png", "id": 12004},
    ]
    names = [row["file_path"] for row in content]
    source = folder_of(tmp_path / "cuhk", "reid_raw.json", content, names)
    code, told = prepared(capsys, "cuhk_pedes", f"--source={source}", f"--out={tmp_path}")
    assert code == 0
    assert records.splits(tmp_path, "cuhk_pedes") == ["train", "val", "test"]
    record = written(tmp_path, "cuhk_pedes", "train")["CUHK01/a.png"]
    assert record == {
        "image": photo(0),
        "captions": [CAPTION, "He walks."],
        "words": ["tall, man, red, coat", ""],
        "attributes": ["", ""],
        "identity": 1,
        "source": "cuhk_pedes",
        "key": "CUHK01/a.png",
        "annotation": "",
    }
    assert written(tmp_path, "cuhk_pedes", "test")["test_query/c.png"]["identity"] == 12004
    assert "python -m finetune.main --config=configs/cuhk_pedes.py" in told.out
    assert f"--config.data.directory={tmp_path}" in told.out
    assert "--config.data.vocabulary=" in told.out


def test_cuhk_pedes_as_processed_by_ivt(tmp_path):
    """One caption an entry, with `att`: an image's entries become one record."""
    att = {"upper": "red coat", "head": "é"}
    entry = {"processed_tokens": ["a"], "file_path": "a.jpg", "id": 7}
    content = {
        "train": [
            {**entry, "captions": "one coat", "att": att},
            {**entry, "captions": "two coats", "att": {}},
            {**entry, "captions": "other", "att": {}, "id": 8},
        ],
        "val": [],
        "test": [{**entry, "captions": "three", "att": att}],
    }
    path = folder_of(tmp_path, "cuhk_pedes_att.json", content, ["a.jpg"]) / "cuhk_pedes_att.json"
    splits = person_search.person_splits("cuhk_pedes", path)
    assert list(splits) == ["train", "test"]
    first, other = (splits["train"].load(row) for row in splits["train"].items)
    assert first["captions"] == ["one coat", "two coats"] and first["identity"] == 7
    assert [json.loads(text or "{}") for text in first["attributes"]] == [att, {}]
    assert (other["captions"], other["identity"]) == (["other"], 8)
    assert first["image"] == photo(0)


def test_icfg_pedes_and_rstpreid(tmp_path):
    icfg = [
        {"split": s, "captions": [CAPTION], "file_path": f"{s}/0000.jpg", "id": i}
        for i, s in enumerate(("train", "test"))
    ]
    source = folder_of(tmp_path / "i", "ICFG-PEDES.json", icfg, [r["file_path"] for r in icfg])
    splits = person_search.person_splits("icfg_pedes", source)
    assert {s: split.load(split.items[0])["key"] for s, split in splits.items()} == {
        "train": "train/0000.jpg",
        "test": "test/0000.jpg",
    }
    rstp = [{"id": 0, "img_path": "0000_c14.jpg", "captions": [CAPTION, "b"], "split": "val"}]
    source = folder_of(tmp_path / "r", "data_captions.json", rstp, ["0000_c14.jpg"])
    record = person_search.person_splits("rstpreid", source)["val"]
    record = record.load(record.items[0])
    assert (record["key"], record["captions"]) == ("0000_c14.jpg", [CAPTION, "b"])


@pytest.mark.parametrize("name", caption_pairs.FILES)
def test_caption_json(tmp_path, capsys, name):
    images = tmp_path / "corpus" / "imgs"
    content = [
        {"image": "imgs/a.jpg", "caption": "a red bus"},
        {"image": str(images / "b.jpg"), "caption": ["a dog", "two dogs"]},
        {"image": "imgs/a.jpg", "caption": "a street"},
    ]
    json_name = caption_pairs.FILES[name][-1]
    source = folder_of(tmp_path / "corpus", json_name, content, ["a.jpg", "b.jpg"])
    code, told = prepared(capsys, name, f"--source={source}", f"--out={tmp_path}")
    assert code == 0 and "python -m pretrain.main" in told.out
    found = written(tmp_path, name, "train")
    assert found["imgs/a.jpg"]["captions"] == ["a red bus", "a street"]
    assert found[str(images / "b.jpg")]["captions"] == ["a dog", "two dogs"]
    assert sorted(record["identity"] for record in found.values()) == [0, 1]
    assert found["imgs/a.jpg"]["words"] == ["red, bus", "street"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"captions": ["a"], "file_path": "a.jpg", "id": 1}], "entry 0 has no field 'split'"),
        ([{"captions": ["a"], "file_path": "a", "id": "x", "split": "test"}], "must be an integer"),
        ([{"captions": ["a"], "file_path": "a", "id": 1, "split": "dev"}], "split 'dev'"),
        ([{"captions": [], "file_path": "a", "id": 1, "split": "test", "att": {"a": 1}}], "`att`"),
        ("text", "neither a list"),
    ],
)
def test_wrong_layouts_are_named(tmp_path, content, message):
    source = folder_of(tmp_path, "reid_raw.json", content, ["a.jpg"])
    with pytest.raises(DataError, match=message):
        person_search.person_splits("cuhk_pedes", source)


def test_wrong_files_are_named(tmp_path):
    with pytest.raises(DataError, match="reid_raw.json or caption_all.json"):
        person_search.person_splits("cuhk_pedes", tmp_path)
    (tmp_path / "sbu.json").write_text("[{")
    with pytest.raises(DataError, match=r"sbu.json is not a JSON file"):
        caption_pairs.caption_splits("sbu", tmp_path)
    (tmp_path / "reid_raw.json").write_text("[]")
    with pytest.raises(DataError, match="--images"):
        person_search.person_splits("cuhk_pedes", tmp_path)


def record(number, **changes):
    return {
        "image": photo(number),
        "captions": [CAPTION],
        "identity": number,
        "source": "test",
        "key": f"p{number}",
    } | changes


def test_bad_captions_leave_and_good_ones_stay_aligned():
    captions = ["one", " ", "two\0", "\ud800", None, "six "]
    words = [str(i) for i in range(6)]
    item = record(1, captions=captions, words=words, attributes=[w * 2 for w in words])
    result = ingest.check(lambda _: item, 0)
    assert result.record is not None
    assert result.record["captions"] == ["one", "six"]
    assert result.record["words"] == ["0", "5"] and result.record["attributes"] == ["00", "55"]
    reasons = [reason for _, reason, _ in result.faults]
    assert reasons == ["empty-caption"] + ["invalid-caption"] * 3


FAULTS = {
    3: ({"image": b""}, ["empty"]),
    90: ({"captions": ["", "ok"]}, ["empty-caption"]),
    150: ({"captions": []}, ["no-caption"]),
    260: ({"image": photo()[:200]}, ["truncated"]),
}


def load_with_faults(number):
    if number == 200:
        raise FileNotFoundError("imgs/200.jpg")
    return record(number, **FAULTS.get(number, ({}, []))[0])


def test_faults_are_counted_and_listed_never_dropped_silently(tmp_path):
    splits = {"train": Split(range(400), load_with_faults), "val": Split(range(400, 600), record)}
    manifest = write_dataset("cc3m", splits, out=tmp_path)
    counts = {"empty": 1, "empty-caption": 1, "no-caption": 1, "missing-file": 1, "truncated": 1}
    assert manifest["left_out"] == counts
    assert manifest["splits"]["train"]["records"] == 396
    lines = (tmp_path / "cc3m" / QUARANTINE).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert {(row["key"], row["reason"]) for row in rows} == {
        ("p3", "empty"),
        ("p90", "empty-caption"),
        ("p150", "no-caption"),
        ("200", "missing-file"),
        ("p260", "truncated"),
    }
    assert {row["split"] for row in rows} == {"train"}
    kept = set(written(tmp_path, "cc3m", "train"))
    assert kept == {f"p{n}" for n in range(400)} - {"p3", "p150", "p200", "p260"}


def test_too_much_bad_data_leaves_no_dataset(tmp_path, capsys):
    content = [{"image": f"imgs/{n}.jpg", "caption": "a bus"} for n in range(150)]
    source = folder_of(tmp_path / "c", "sbu.json", content, [f"{n}.jpg" for n in range(148)])
    code, told = prepared(capsys, "sbu", f"--source={source}", f"--out={tmp_path / 'out'}")
    assert code == 5
    assert "2 of 150 records are bad, more than 1%: 2 missing-file" in told.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"sbu.{QUARANTINE}"]
    assert len((tmp_path / "out" / f"sbu.{QUARANTINE}").read_text().splitlines()) == 2
    for n in (148, 149):  # mended, it is made, and the old list goes
        (source / "imgs" / f"{n}.jpg").write_bytes(photo(n))
    assert prepared(capsys, "sbu", f"--source={source}", f"--out={tmp_path / 'out'}")[0] == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sbu"]


def test_an_interrupted_dataset_cannot_be_read_and_is_made_anew(tmp_path):
    def interrupted(number):
        if number == 5:
            raise KeyboardInterrupt
        return record(number)

    with pytest.raises(KeyboardInterrupt):
        write_dataset("vg", {"train": Split(range(9), interrupted)}, out=tmp_path)
    with pytest.raises(DataError, match="Prepare it"):
        records.open_dataset(tmp_path, "vg", "train")
    manifest = write_dataset("vg", {"train": Split(range(9), record)}, out=tmp_path)
    assert manifest["splits"]["train"] == {"records": 9, "captions": 9, "identities": 9}
    assert [path.name for path in tmp_path.iterdir()] == ["vg"]


def test_a_foreign_folder_is_never_overwritten(tmp_path):
    (tmp_path / "vg").mkdir()
    with pytest.raises(DataError, match="move it away"):
        write_dataset("vg", {"train": Split(range(9), record)}, out=tmp_path)


def test_processes_write_the_same_as_one(tmp_path):
    content = [
        {"split": "train", "captions": [f"coat {n}"], "file_path": f"{n}.jpg", "id": n}
        for n in range(50)
    ]
    names = [row["file_path"] for row in content]
    source = folder_of(tmp_path, "reid_raw.json", content, names)
    splits = person_search.person_splits("cuhk_pedes", source)
    shards = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        write_dataset("cuhk_pedes", splits, out=out, workers=workers)
        opened = records.open_dataset(out, "cuhk_pedes", "train")
        shards.append([opened[i] for i in range(len(opened))])
    assert len(shards[0]) == 50 and shards[0] == shards[1]


class Drawn:
    """Stands in for the generated datasets."""

    def __init__(self, split, seed):
        self.split, self.seed = split, seed

    def __len__(self):
        return 4

    def __getitem__(self, index):
        key = f"{self.split}-{self.seed}-{index}"
        return record(index, key=key, words=["own"], annotation='{"a": 1}')


def test_synthetic_writes_both_datasets_once(tmp_path, capsys, monkeypatch):
    stub = types.SimpleNamespace(
        people_records=lambda split, *, seed: Drawn(split, seed),
        scene_records=lambda split, *, seed: Drawn(split, seed),
        vocabulary=lambda: [*SPECIAL_TOKENS, "coat"],
    )
    monkeypatch.setattr(ivt_jax.data, "synthetic", stub, raising=False)
    arguments = ("synthetic", f"--out={tmp_path}", "--seed=3")
    code, told = prepared(capsys, *arguments)
    assert code == 0 and f"next: python -m ivt_jax demo --data={tmp_path}\n" in told.out
    assert records.splits(tmp_path, "synthetic_people") == ["train", "val", "test"]
    assert records.splits(tmp_path, "synthetic_scenes") == ["train", "val"]
    found = written(tmp_path, "synthetic_people", "val")
    assert found["val-3-2"]["words"] == ["own"] and found["val-3-2"]["annotation"] == '{"a": 1}'
    vocabulary = records.vocabulary_path(tmp_path, "synthetic_people").read_text()
    assert vocabulary.split() == [*SPECIAL_TOKENS, "coat"]
    before = (tmp_path / "synthetic_people" / records.MANIFEST).stat().st_mtime_ns
    code, told = prepared(capsys, *arguments)
    assert code == 0 and told.out.count("left alone") == 2
    assert (tmp_path / "synthetic_people" / records.MANIFEST).stat().st_mtime_ns == before


def test_wrong_arguments_are_sentences(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        prepare.main(["cuhk"])
    assert caught.value.code == 2
    code, told = prepared(capsys, "cuhk_pedes", f"--out={tmp_path}")
    assert code == 2 and "needs --source" in told.err
    code, told = prepared(capsys, "synthetic", "--source=x", f"--out={tmp_path}")
    assert code == 2 and "--source" in told.err
    code, told = prepared(capsys, "vg", "--source=/nowhere", f"--out={tmp_path}")
    assert code == 5 and "/nowhere" in told.err
    with pytest.raises(UserError, match="choose one of synthetic"):
        prepare.prepare("cuhk", out=tmp_path)


def test_the_index_never_needs_pickle(tmp_path):
    write_dataset("vg", {"train": Split(range(3), record)}, out=tmp_path)
    path = records.index_path(tmp_path / "vg" / records.VERSION, "train")
    with np.load(path, allow_pickle=False) as index:
        assert index["captions_per_record"].dtype == np.int32
        assert index["identities"].dtype == np.int64
