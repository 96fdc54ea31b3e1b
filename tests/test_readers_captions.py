"""Lists of captions with images beside them (CC3M, SBU, COCO, Visual Genome) become records."""

import io
import json
import zlib

import numpy as np
import pytest
from PIL import Image
from reading import checked, photo, write

from ivt_jax import prepare
from ivt_jax.data import images, records
from ivt_jax.data.builders import json_lists
from ivt_jax.data.builders.caption_pairs import caption_splits
from ivt_jax.data.builders.json_lists import json_entries, read_entry
from ivt_jax.data.builders.rows import grouped_rows
from ivt_jax.data.records import DataError


def urls(count):
    return [f"http://static.example.org/27/{n}_b0f.jpg?zz={n}" for n in range(count)]


def crc(url):
    return str(zlib.crc32(url.encode()))


NAME_RULES = {
    "crc": lambda row, url: f"training/{crc(url)}",
    "crc.jpg": lambda row, url: f"images/{crc(url)}.jpg",
    "last": lambda row, url: f"imgs/{row}_b0f.jpg",
    "row": lambda row, url: f"{row}.jpg",
    "row8": lambda row, url: f"dataset/{row:08}.jpg",
    "row9": lambda row, url: f"images/{row:09}.jpg",
}


@pytest.mark.parametrize("header", [b"", b"caption\turl\n"])
@pytest.mark.parametrize("rule", NAME_RULES)
def test_cc3m_tsv(tmp_path, capsys, rule, header):
    """Rows 3 and 7 were never downloaded; row 5 is broken, and counts in the row numbers."""
    lines = [f"a red bus {n} é\t{url}\n".encode() for n, url in enumerate(urls(9))]
    lines[5] = b"no tab\n"
    write(tmp_path / "Train_GCC-training.tsv", header + b"".join(lines))
    there = [0, 1, 2, 4, 6, 8]
    for n in [*there, 5]:
        write(tmp_path / NAME_RULES[rule](n, urls(9)[n]), photo(n))
    found, faults = checked(caption_splits("cc3m", tmp_path)["train"])
    assert sorted(record["captions"][0] for record in found.values()) == [
        f"a red bus {n} é" for n in there
    ]
    for record in found.values():
        assert record["image"] == photo(int(record["captions"][0].split()[3]))
    line = 6 + bool(header)
    assert faults == [(f"Train_GCC-training.tsv, line {line}", "bad-row")]
    assert "6 of 8 rows have one, the other 2 were not downloaded" in capsys.readouterr().out


def test_cc3m_tsv_with_bad_text_and_without_images(tmp_path):
    path = tmp_path / "cc3m.tsv"
    write(path, b"caf\xe9\thttp://a.org/0.jpg\n\thttp://a.org/1.jpg\r\nok\thttp://a.org/2.jpg\r\n")
    with pytest.raises(DataError, match="none of the first 3 rows .* give --images"):
        caption_splits("cc3m", tmp_path)
    for n in range(3):
        write(tmp_path / "photos" / f"{n}.jpg", photo(n))
    found, faults = checked(caption_splits("cc3m", path, images=tmp_path / "photos")["train"])
    assert {key: r["captions"] for key, r in found.items()} == {"2.jpg": ["ok"]}
    assert faults[::2] == [("0.jpg", "invalid-caption"), ("1.jpg", "empty-caption")]


def sbu_source(folder, form):
    captions = [f"a dog, {n}" for n in range(4)]
    if form == "text":
        write(folder / "SBU_captioned_photo_dataset_urls.txt", "\n".join(urls(4)).encode() + b"\n")
        text = "\r\n".join(captions).encode()
        write(folder / "SBU_captioned_photo_dataset_captions.txt", text)
    else:
        content = {"image_urls": urls(4), "captions": captions, "user_ids": ["u"] * 4}
        write(folder / "sbu-captions-all.json", json.dumps(content).encode())
    for n in (0, 2, 3):
        write(folder / "dataset" / f"{n}_b0f.jpg", photo(n))


@pytest.mark.parametrize("form", ["text", "json"])
def test_sbu(tmp_path, form):
    sbu_source(tmp_path, form)
    for source in (tmp_path, next(path for path in tmp_path.iterdir() if path.is_file())):
        found, faults = checked(caption_splits("sbu", source)["train"])
        assert {key: (r["captions"], r["image"]) for key, r in found.items()} == {
            f"{n}_b0f.jpg": ([f"a dog, {n}"], photo(n)) for n in (0, 2, 3)
        }
        assert not faults


def test_sbu_files_must_match(tmp_path):
    sbu_source(tmp_path, "text")
    write(tmp_path / "SBU_captioned_photo_dataset_captions.txt", b"one\n")
    with pytest.raises(DataError, match="has 4 lines and .* 1; they must match"):
        caption_splits("sbu", tmp_path)


def test_json_entries_are_those_of_json(tmp_path, monkeypatch):
    """Against json.loads, in chunks that cut entries, escapes and characters apart."""
    content = [{"a": "é" * n, "b": [n, {"c": '"]\\'}]} for n in range(40)] + [3, "text", None]
    for chunk in (8, 100, 1 << 20):
        monkeypatch.setattr(json_lists, "_CHUNK", chunk)
        for indent in (None, 2):
            data = json.dumps(content, ensure_ascii=False, indent=indent).encode()
            path = tmp_path / "a.json"
            path.write_bytes(b"\xef\xbb\xbf \n" + data + b"\n")
            found = [read_entry(path, offset, size) for offset, size, _ in json_entries(path)]
            assert found == content


@pytest.mark.parametrize("text", ["{}", "[{]", "[{", "", '[{"a": 1}'])
def test_what_is_no_json_list_is_told(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match="a.json is not a JSON"):
        list(json_entries(tmp_path / "a.json"))


def test_shared_lists_tell_bad_entries(tmp_path):
    content = [{"image": "a.jpg", "caption": "a"}, {"picture": "b.jpg"}, {"image": "c.jpg"}]
    text = json.dumps(content).replace("]", ', {"image": "d.jpg", "caption": "caf\udce9"}]')
    (tmp_path / "cc3m.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    for n, name in enumerate("acd"):
        write(tmp_path / f"{name}.jpg", photo(n))
    found, faults = checked(caption_splits("cc3m", tmp_path)["train"])
    assert {key: r["captions"] for key, r in found.items()} == {"a.jpg": ["a"]}
    offset = text.index('{"image": "d.jpg"')
    assert faults == [
        ("c.jpg", "no-caption"),
        (f"cc3m.json, byte {offset}", "bad-row"),
        ("cc3m.json, entry 1", "bad-row"),
    ]


def test_grouping_keeps_the_first_order():
    rng = np.random.default_rng(0)
    keys = rng.integers(-50, 50, 500)
    groups = grouped_rows(np.arange(500)[:, None], keys)
    expected = {}
    for row, key in enumerate(keys.tolist()):
        expected.setdefault(key, []).append([row])
    assert list(groups) == list(expected.values())


def coco_official(folder, year, *, prefix=""):
    """Two train images of two captions and a val image of one, as COCO's annotations store them."""
    for split, numbers in (("train", [9, 25]), ("val", [42])):
        names = {n: f"{prefix.format(split=split)}{n:012}.jpg" for n in numbers}
        content = {
            "info": {"year": year},
            "licenses": [],
            "images": [{"id": n, "file_name": name, "height": 16} for n, name in names.items()],
            "annotations": [
                {"id": 10 * n + i, "image_id": n, "caption": f"caption {i} of {n}"}
                for i in range(2)
                for n in numbers
            ],
        }
        path = folder / "annotations" / f"captions_{split}{year}.json"
        write(path, json.dumps(content).encode())
        for n, name in names.items():
            write(folder / f"{split}{year}" / name, photo(n))


@pytest.mark.parametrize(("year", "prefix"), [(2014, "COCO_{split}2014_"), (2017, "")])
def test_coco_official(tmp_path, year, prefix):
    coco_official(tmp_path, year, prefix=prefix)
    path = tmp_path / "annotations" / f"captions_train{year}.json"
    for source in (tmp_path, tmp_path / "annotations", path):
        splits = caption_splits("coco", source)
        assert list(splits) == ["train", "val"]
        for split, numbers in (("train", [9, 25]), ("val", [42])):
            found, faults = checked(splits[split])
            assert not faults
            name = prefix.format(split=split)
            assert found.keys() == {f"{split}{year}/{name}{n:012}.jpg" for n in numbers}
            for record in found.values():
                number = record["identity"]
                assert record["captions"] == [f"caption {i} of {number}" for i in range(2)]
                assert record["image"] == photo(number)


def test_coco_faults(tmp_path):
    coco_official(tmp_path, 2017)
    path = tmp_path / "annotations" / "captions_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"] = [{"image_id": 9, "caption": "a"}, {"image_id": 7, "caption": "b"}, {}]
    content["annotations"] += [{"image_id": [9], "caption": "c"}, 5]
    content["images"] += [{"id": [1], "file_name": "x.jpg"}, {"id": 8}]
    path.write_text(json.dumps(content))
    found, faults = checked(caption_splits("coco", path)["train"])
    assert [record["captions"] for record in found.values()] == [["a"]]
    assert [reason for _, reason in faults] == ["no-caption"] + ["bad-row"] * 6
    coco_official(tmp_path, 2014)
    with pytest.raises(DataError, match="2014 and of 2017, which are mostly the same"):
        caption_splits("coco", tmp_path)
    (tmp_path / "train2017").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="no image folder train2017 .*--images"):
        caption_splits("coco", path)


def karpathy(folder):
    splits = ["train", "restval", "val", "test", "test"]
    content = {
        "images": [
            {
                "filepath": "train2014" if split == "train" else "val2014",
                "filename": f"COCO_{n:012}.jpg",
                "sentids": [n],
                "imgid": n,
                "cocoid": 100 + n,
                "split": split,
                "sentences": [{"tokens": ["a"], "raw": f"A {n}. ", "imgid": n, "sentid": n}],
            }
            for n, split in enumerate(splits)
        ],
        "dataset": "coco",
    }
    write(folder / "dataset_coco.json", json.dumps(content).encode())
    for n, entry in enumerate(content["images"]):
        write(folder / entry["filepath"] / entry["filename"], photo(n))


def test_karpathy_keeps_val_and_test_out_of_training(tmp_path, capsys):
    karpathy(tmp_path / "coco")
    out = tmp_path / "out"
    assert prepare.main(["coco", f"--source={tmp_path}/coco", f"--out={out}", "--workers=1"]) == 0
    told = capsys.readouterr().out
    assert "1 train and 1 restval images make train, 1 val and 2 test images" in told
    for split, numbers in (("train", [0, 1]), ("val", [2]), ("test", [3, 4])):
        source = records.open_dataset(out, "coco", split)
        found = {r["identity"] - 100: r for r in (source[i] for i in range(len(source)))}
        assert sorted(found) == numbers
        for n, record in found.items():
            assert (record["captions"], record["image"]) == ([f"A {n}."], photo(n))


def test_karpathy_tells_bad_entries(tmp_path):
    karpathy(tmp_path)
    path = tmp_path / "dataset_coco.json"
    content = json.loads(path.read_text())
    del content["images"][0]["sentences"]
    content["images"][2]["split"] = "dev"
    path.write_text(json.dumps(content))
    splits = caption_splits("coco", path)
    assert {split: len(checked(found)[0]) for split, found in splits.items()} == {
        "train": 1,
        "test": 2,
    }
    assert checked(splits["train"])[1] == [
        ("dataset_coco.json, image 0", "bad-row"),
        ("dataset_coco.json, image 2", "bad-row"),
    ]


def region(number, phrase, box):
    x, y, width, height = box
    about = {"region_id": number, "image_id": 1, "phrase": phrase}
    return about | {"x": x, "y": y, "width": width, "height": height}


def visual_genome(folder):
    """Image 1 is in quarters of four colours; image 2 lies in the second folder."""
    quarters = np.zeros((40, 60, 3), np.uint8)
    quarters[:20, :30], quarters[:20, 30:] = (250, 0, 0), (0, 250, 0)
    quarters[20:, :30], quarters[20:, 30:] = (0, 0, 250), (250, 250, 250)
    stream = io.BytesIO()
    Image.fromarray(quarters).save(stream, "PNG")
    content = [
        {
            "id": 1,
            "regions": [
                region(11, "a red thing", (0, 0, 30, 20)),
                region(12, "a blue thing", (-5, 20, 35, 90)),  # cut at the edges
                region(13, "nothing", (60, 40, 9, 9)),
                region(14, "nothing", (-20, 0, 10, 9)),
            ],
        },
        {"id": 2, "regions": [region(21, "a tree é", (0, 0, 8, 8))]},
        {"no": "id"},
    ]
    text = json.dumps(content, ensure_ascii=False)
    write(folder / "region_descriptions.json", text.encode())
    write(folder / "image_data.json", b"[]")
    write(folder / "VG_100K" / "1.jpg", stream.getvalue())
    write(folder / "VG_100K_2" / "2.jpg", photo(2))
    return stream.getvalue()


def test_visual_genome_images(tmp_path):
    first = visual_genome(tmp_path)
    found, faults = checked(caption_splits("vg", tmp_path)["train"])
    assert found["VG_100K/1.jpg"]["captions"] == [
        "a red thing",
        "a blue thing",
        "nothing",
        "nothing",
    ]
    assert found["VG_100K_2/2.jpg"]["captions"] == ["a tree é"]
    assert [found[key]["image"] for key in sorted(found)] == [first, photo(2)]
    assert faults == [("region_descriptions.json, entry 2", "bad-row")]
    (tmp_path / "VG_100K_2" / "2.jpg").unlink()
    found, faults = checked(caption_splits("vg", tmp_path)["train"])
    assert list(found) == ["VG_100K/1.jpg"] and faults[0] == ("VG_100K/2.jpg", "missing-file")


def test_visual_genome_crops(tmp_path):
    visual_genome(tmp_path)
    found, faults = checked(caption_splits("vg", tmp_path, regions="crop")["train"])
    expected = {"a red thing": ((250, 0, 0), (20, 30)), "a blue thing": ((0, 0, 250), (20, 30))}
    for number, (phrase, (colour, size)) in enumerate(expected.items()):
        record = found[f"VG_100K/1.jpg, region {number}"]
        pixels = images.decode(record["image"], key="crop").astype(int)
        assert record["captions"] == [phrase] and pixels.shape[:2] == size
        assert abs(pixels - colour).max() < 6  # JPEG
    assert len({record["identity"] for record in found.values()}) == len(found) == 3
    assert [reason for _, reason in faults] == ["bad-box", "bad-box", "bad-row"]


def test_visual_genome_needs_its_images(tmp_path):
    write(tmp_path / "region_descriptions.json", b"[]")
    with pytest.raises(DataError, match="VG_100K nor .*--images"):
        caption_splits("vg", tmp_path)


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        ("cc3m", "Train_GCC-training.tsv"),
        ("sbu", "sbu-captions-all.json"),
        ("coco", "dataset_coco.json"),
        ("vg", "region_descriptions.json"),
    ],
)
def test_what_is_not_recognised_is_told_with_what_would_be(tmp_path, name, accepted):
    for source in (tmp_path, tmp_path / "notes.txt"):
        if source != tmp_path:
            source.write_text("notes")
        with pytest.raises(DataError, match=f"not recognised as {name}; .*{accepted}.*{name}.json"):
            caption_splits(name, source)
