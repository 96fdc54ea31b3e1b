"""One's own photos, as a folder with captions or as a table, become records."""

import csv
import json

import pytest
from reading import checked, photo, write

from ivt_jax import prepare
from ivt_jax.data import records
from ivt_jax.data.builders.own_data import own_splits
from ivt_jax.data.records import DataError


def read(found):
    """Key -> what was written with it."""
    return {key: (r["image"], r["captions"], r["identity"]) for key, r in found.items()}


def photos(folder, count=4):
    for n in range(count):
        write(folder / f"{n}.jpg", photo(n))


def test_folder(tmp_path, capsys):
    write(tmp_path / "b" / "2.PNG", photo(2, "PNG"))
    write(tmp_path / "b" / "2.txt", "a dog\r\n\n two\u2028dogs \n".encode())
    photos(tmp_path, 2)
    write(tmp_path / "0.txt", "a red bus é".encode("utf-8-sig"))
    write(tmp_path / "notes.txt", b"not a caption")
    found, faults = checked(own_splits("folder", tmp_path, dataset="mine")["train"])
    assert read(found) == {
        "0.jpg": (photo(0), ["a red bus é"], 0),
        "b/2.PNG": (photo(2, "PNG"), ["a dog", "two\u2028dogs"], 2),
    }
    assert found["0.jpg"]["source"] == "mine"
    assert faults == [("1.jpg", "no-caption")]
    assert "1 .txt files belong to no photo, such as notes.txt" in capsys.readouterr().out


def test_folder_with_names_that_are_no_text(tmp_path):
    (tmp_path / "caf\udce9.jpg").write_bytes(photo(0))
    (tmp_path / "caf\udce9.txt").write_bytes(b"fine\nna\xefve\n")
    found, faults = checked(own_splits("folder", tmp_path, dataset="mine")["train"])
    assert read(found) == {"caf?.jpg": (photo(0), ["fine"], 0)}
    assert faults == [("caf?.jpg", "invalid-caption")]


ROWS = [
    {"image": "0.jpg", "caption": "a red bus", "identity": 7, "split": "train"},
    {"image": "1.jpg", "caption": 'a "big", 5" dog\nof é', "identity": 9, "split": "test"},
    {"image": "0.jpg", "caption": "a street", "identity": 7, "split": "train"},
    {"image": "2.jpg", "caption": "a man", "identity": 7, "split": ""},
    {"image": "0.jpg", "caption": "another identity", "identity": 8, "split": "train"},
]


def write_table(path, rows):
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n"
        path.write_text(text, "utf-8-sig")


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_table(tmp_path, form):
    photos(tmp_path / "images")
    path = tmp_path / f"mine.{form}"
    write_table(path, ROWS)
    splits = own_splits("table", path, images=tmp_path / "images", dataset="mine")
    assert list(splits) == ["train", "test"]
    results = [splits["train"].load(item) for item in splits["train"].items]
    assert [(r["key"], r["captions"], r["identity"], r["image"]) for r in results] == [
        ("0.jpg", ["a red bus", "a street"], 7, photo(0)),
        ("2.jpg", ["a man"], 7, photo(2)),
        ("0.jpg", ["another identity"], 8, photo(0)),
    ]
    found, faults = checked(splits["test"])
    assert read(found) == {"1.jpg": (photo(1), ['a "big", 5" dog\nof é'], 9)}
    assert not faults


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_table_without_identities_numbers_its_images(tmp_path, form):
    photos(tmp_path)
    path = tmp_path / f"mine.{form}"
    write_table(path, [{"caption": f"photo {n % 3}", "image": f"{n % 3}.jpg"} for n in range(6)])
    found, faults = checked(own_splits("table", path, dataset="mine")["train"])
    assert read(found) == {f"{n}.jpg": (photo(n), [f"photo {n}"] * 2, n) for n in range(3)}
    assert not faults


def test_without_identities_no_two_splits_share_one(tmp_path):
    photos(tmp_path)
    path = tmp_path / "mine.csv"
    rows = [(0, "train"), (1, "train"), (0, "val"), (2, "test"), (1, "test")]
    write_table(path, [{"caption": "x", "image": f"{n}.jpg", "split": s} for n, s in rows])
    found = [checked(split)[0] for split in own_splits("table", path, dataset="mine").values()]
    numbers = [number for split in found for _, _, number in read(split).values()]
    assert sorted(numbers) == [0, 1, 2, 3, 4]


def test_a_list_of_captions_in_a_row(tmp_path):
    photos(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"image": "1.jpg", "caption": ["a", "b"]}')
    found, _ = checked(own_splits("table", tmp_path / "a.jsonl", dataset="mine")["train"])
    assert read(found) == {"1.jpg": (photo(1), ["a", "b"], 0)}


def test_bad_lines_of_json(tmp_path):
    photos(tmp_path)
    lines = [
        b'{"image": "0.jpg", "caption": "good", "identity": 1}',
        b'{"image": "1.jpg", "caption',
        b'{"image": "1.jpg", "caption": "caf\xe9", "identity": 1}',
        b"[]",
        b'{"image": "1.jpg", "identity": 1}',
        b'{"caption": "of nothing", "identity": 1}',
        b'{"image": "1.jpg", "caption": "a", "identity": "x"}',
        b'{"image": "1.jpg", "caption": "a", "identity": -1}',
        b'{"image": "1.jpg", "caption": "a"}',
        b'{"image": "1.jpg", "caption": "a", "identity": 1, "split": "dev"}',
        b'{"image": "9.jpg", "caption": "no file", "identity": 1}',
        b'{"image": "\\u0000", "caption": "no name", "identity": 1}',
        b'{"image": "3.jpg", "caption": "good too", "identity": "3"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    found, faults = checked(own_splits("table", tmp_path / "a.jsonl", dataset="mine")["train"])
    assert read(found) == {"0.jpg": (photo(0), ["good"], 1), "3.jpg": (photo(3), ["good too"], 3)}
    assert faults == [
        ("1.jpg", "no-caption"),
        ("9.jpg", "missing-file"),
        ("\0", "unreadable-file"),
        ("a.jsonl, row 2", "bad-row"),
        ("a.jsonl, row 3", "bad-row"),
        ("a.jsonl, row 4", "bad-row"),
        ("a.jsonl, row 6", "bad-row"),
        ("a.jsonl, row 7", "bad-identity"),
        ("a.jsonl, row 8", "bad-identity"),
        ("a.jsonl, row 9", "bad-identity"),
        ("a.jsonl, row 10", "bad-split"),
    ]


def test_bad_rows_of_csv(tmp_path):
    photos(tmp_path)
    lines = [
        b"image, caption",
        b"0.jpg,good",
        b'1.jpg,a 5" dog',  # a quote within a field is text
        b"2.jpg,two,fields too many",
        b"2.jpg",
        b"2.jpg,caf\xe9",
        b'3.jpg,"never closed',
        b"0.jpg,swallowed",
    ]
    (tmp_path / "a.csv").write_bytes(b"\r\n".join(lines))
    found, faults = checked(own_splits("table", tmp_path / "a.csv", dataset="mine")["train"])
    assert {key: r["captions"] for key, r in found.items()} == {
        "0.jpg": ["good"],
        "1.jpg": ['a 5" dog'],
    }
    assert faults == [
        ("2.jpg", "invalid-caption"),
        ("2.jpg", "no-caption"),
        ("a.csv, row 3", "bad-row"),
        ("a.csv, row 4", "bad-row"),
        ("a.csv, row 6", "bad-row"),
    ]


def test_an_overlong_csv_row_stops_nothing(tmp_path):
    photos(tmp_path)
    long = b'0.jpg,"' + (b"a long line " * 1000 + b"\n") * 20 + b'"\n'
    (tmp_path / "a.csv").write_bytes(b"image,caption\n1.jpg,one\n" + long + b"2.jpg,two\n")
    found, faults = checked(own_splits("table", tmp_path / "a.csv", dataset="mine")["train"])
    assert found.keys() >= {"1.jpg"}
    assert faults and {reason for _, reason in faults} == {"bad-row"}


@pytest.mark.parametrize(
    ("kind", "name", "text", "message"),
    [
        ("table", "a.csv", "photo,caption\n", "a.csv has no column image; its first line must"),
        ("table", "a.csv", "image,caption\n", "a.csv has no usable row"),
        ("table", "a.jsonl", "{}\n", "no usable row; a.jsonl, row 1: it names no image"),
        ("table", "a.xlsx", "", "is no table; table reads a file that ends in .csv or .jsonl"),
        ("folder", "a.csv", "", "is no folder; folder reads photos"),
    ],
)
def test_wrong_sources_are_told(tmp_path, kind, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        own_splits(kind, tmp_path / name, dataset="mine")


def test_prepare_makes_one_s_own_dataset(tmp_path, capsys):
    photos(tmp_path)
    write_table(tmp_path / "a.csv", ROWS)
    out = tmp_path / "out"
    arguments = ["table", f"--source={tmp_path}/a.csv", f"--out={out}", "--workers=1"]
    assert prepare.main([*arguments, "--name=My_Shop2"]) == 0
    assert records.splits(out, "My_Shop2") == ["train", "test"]
    source = records.open_dataset(out, "My_Shop2", "train")
    assert sorted(source[i]["captions"][0] for i in range(3)) == [
        "a man",
        "a red bus",
        "another identity",
    ]
    assert "docs/data.md" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["folder"], "folder is your own data; give --name="),
        (["folder", "--name=a-b"], "not made of letters, digits and _"),
        (["folder", "--name=../x"], "not made of letters"),
        (["folder", "--name=coco"], "published dataset"),
        (["cc3m", "--name=a"], "--name is for folder and table; cc3m keeps its own"),
        (["cc3m", "--regions=crop"], "--regions is of vg alone"),
        (["cc3m", "--images=/nowhere"], "no image folder /nowhere"),
    ],
)
def test_wrong_arguments_are_told(tmp_path, capsys, arguments, message):
    assert prepare.main([*arguments, f"--source={tmp_path}", f"--out={tmp_path}/out"]) in (2, 5)
    assert message in capsys.readouterr().err
