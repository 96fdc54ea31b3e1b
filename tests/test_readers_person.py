"""Quirks of the person datasets: CUHK-PEDES, ICFG-PEDES, RSTPReid, official and processed."""

import io
import json

import pytest
from PIL import Image
from reading import results, write

from ivt_jax.data.builders.person_search import person_splits
from ivt_jax.data.records import DataError


def photo(name):
    stream = io.BytesIO()
    Image.new("RGB", (8, 16), (sum(name.encode()) % 256, 0, 0)).save(stream, "JPEG")
    return stream.getvalue()


def dataset(folder, name, content, images):
    for image in images:
        write(folder / "imgs" / image, photo(image))
    (folder / name).write_text(json.dumps(content))
    return folder


def summary(split):
    found, faults = results(split)
    assert not faults
    for record in found:
        assert record["image"] == photo(record["key"])
    return [(r["key"], r["identity"], r["captions"]) for r in found]


def entry(split, path, number, captions, field="file_path"):
    processed = (
        {} if field == "img_path" else {"processed_tokens": [str(c).split() for c in captions]}
    )
    return {"split": split, "captions": captions, field: path, "id": number} | processed


def cuhk_pedes(folder, name):
    content = [
        entry("train", "CUHK01/0363004.png", 1, ["a man in a red coat.", "he walks."]),
        entry("train", "CUHK01/0363005.png", 1, ["a man", "his coat", "a bag", "grey shoes"]),
        entry("train", "Market/0002_c1.jpg", 1369, ["a woman alone", "a blue hat"]),
        entry("val", "cam_a/000_45.bmp.jpg", 11004, ["e", "f"]),
        entry("test", "test_query/p100_s10.jpg", 12004, ["g", "h", "i"]),
        entry("test", "train_query/p11600_s14885.jpg", 12005, ["j", "k"]),
    ]
    dataset(folder, name, content, [row["file_path"] for row in content])
    return content


def test_cuhk_pedes(tmp_path):
    """Identities count from 1; some images have more captions than two, some persons one image."""
    for name in ("reid_raw.json", "caption_all.json"):
        source = tmp_path / name
        content = cuhk_pedes(source, name)
        splits = person_splits("cuhk_pedes", source)
        assert list(splits) == ["train", "val", "test"]
        for split, found in splits.items():
            assert summary(found) == [
                (row["file_path"], row["id"], row["captions"])
                for row in content
                if row["split"] == split
            ]


def icfg_pedes(folder):
    content = [
        entry("train", "test/0000/0000_000_01_0303morning_0015_0.jpg", 0, ["a red coat"]),
        entry("train", "train/0001/0001_000.jpg", 1, ["a man"]),
        entry("train", "train/0001/0001_000.jpg", 1, ["his bag"]),
        entry("test", "train/0002/0002_000.jpg", 2, ["d"]),
    ]
    images = [row["file_path"] for row in content]
    dataset(folder, "ICFG-PEDES.json", content, images)
    return images


def test_icfg_pedes(tmp_path):
    """No val; folders of MSMT17 are no splits; one train image is listed twice."""
    images = icfg_pedes(tmp_path)
    splits = person_splits("icfg_pedes", tmp_path)
    assert list(splits) == ["train", "test"]
    assert summary(splits["train"]) == [
        (images[0], 0, ["a red coat"]),
        (images[1], 1, ["a man", "his bag"]),
    ]
    assert summary(splits["test"]) == [(images[3], 2, ["d"])]


RSTPREID = {"train": 0, "val": 3701, "test": 3901}  # split -> its one identity
OF_RSTPREID = ["a red coat", "a man"]


def rstpreid(folder):
    content = [
        entry(split, f"{number:04}_c{camera}_0004.jpg", number, OF_RSTPREID, "img_path")
        for split, number in RSTPREID.items()
        for camera in (5, 14)
    ]
    dataset(folder, "data_captions.json", content, [row["img_path"] for row in content])


def test_rstpreid(tmp_path):
    """img_path, no tokens, identities from 0."""
    rstpreid(tmp_path)
    splits = person_splits("rstpreid", tmp_path)
    for split, number in RSTPREID.items():
        assert summary(splits[split]) == [
            (f"{number:04}_c{camera}_0004.jpg", number, OF_RSTPREID) for camera in (5, 14)
        ]


def processed_icfg_pedes(folder):
    splits = enumerate(("train", "test"))
    rows = {s: [entry(s, f"{s}.jpg", n, [f"a red coat, {s}"])] for n, s in splits}
    content = rows | {"query": rows["test"], "gallery": rows["test"]}
    dataset(folder, "ICFG_PEDES_VISTXT.json", content, ["train.jpg", "test.jpg"])


def test_processed_icfg_pedes(tmp_path):
    """Captions stay lists; query and gallery repeat test."""
    processed_icfg_pedes(tmp_path)
    splits = person_splits("icfg_pedes", tmp_path)
    assert {split: summary(found) for split, found in splits.items()} == {
        "train": [("train.jpg", 0, ["a red coat, train"])],
        "test": [("test.jpg", 1, ["a red coat, test"])],
    }


def processed_rstpreid(folder):
    content = {
        split: [{"id": n, "img_path": f"{n}.jpg", "captions": text} for text in OF_RSTPREID]
        for n, split in enumerate(RSTPREID)
    }
    dataset(folder, "rstpreid_vistxt.json", content, [f"{n}.jpg" for n in range(3)])


def test_processed_rstpreid(tmp_path):
    """One caption an entry, as text; the entries of an image become one record."""
    processed_rstpreid(tmp_path)
    splits = person_splits("rstpreid", tmp_path)
    assert [summary(split) for split in splits.values()] == [
        [(f"{n}.jpg", n, OF_RSTPREID)] for n in range(3)
    ]


def processed_cuhk_pedes(folder):
    att = [{"upper": "red coat", "shoes": "é"}, {}, {"bad": "\ud800"}]
    rows = [
        {"captions": f"c{n}", "file_path": "a.jpg", "processed_tokens": ["c"], "att": a, "id": 1}
        for n, a in enumerate(att)
    ]
    content = {"train": rows, "val": [], "test": []}
    dataset(folder, "cuhk_pedes_att.json", content, ["a.jpg"])
    return att


def test_processed_cuhk_pedes_keeps_att(tmp_path):
    att = processed_cuhk_pedes(tmp_path)
    found, _ = results(person_splits("cuhk_pedes", tmp_path)["train"])
    assert [json.loads(text) if text else {} for text in found[0]["attributes"]] == [
        *att[:2],
        {"bad": "?"},
    ]


def test_bad_records_stop_nothing(tmp_path):
    content = [
        entry("train", "a.jpg", 1, ["good", "", None]),
        {"split": "train", "file_path": "b.jpg", "id": 2},
        entry("train", "gone.jpg", 3, ["c"]),
        entry("train", "\0.jpg", 3, ["c"]),
        entry("train", "\ud800.jpg", 3, ["c"]),
    ]
    source = dataset(tmp_path, "reid_raw.json", content, ["a.jpg", "b.jpg"])
    found, faults = results(person_splits("cuhk_pedes", source)["train"])
    assert [record["captions"] for record in found] == [["good"]]
    assert faults == [
        ("a.jpg", "empty-caption"),
        ("a.jpg", "invalid-caption"),
        ("b.jpg", "no-caption"),
        ("gone.jpg", "missing-file"),
        ("\0.jpg", "unreadable-file"),
        ("\ud800.jpg", "unreadable-file"),
    ]


@pytest.mark.parametrize(
    "content",
    [[1], {"train": [5]}, {"train": {"a": 1}}, [entry("train", "a", 1, []) | {"split": []}]],
)
def test_other_json_is_told(tmp_path, content):
    source = dataset(tmp_path, "reid_raw.json", content, ["a.jpg"])
    with pytest.raises(DataError, match="reid_raw.json"):
        person_splits("cuhk_pedes", source)
