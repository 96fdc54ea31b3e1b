"""Verification of prepared datasets: each kind of fault is put in and must be told."""

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from ivt_jax.data import records
from ivt_jax.data.builders import ingest, progress, shards
from ivt_jax.data.builders.dataset import write_dataset
from ivt_jax.data.builders.ingest import Checked, Split
from ivt_jax.data.published import PUBLISHED, Counts, OtherCount, Published
from ivt_jax.verify import main, verify

NAME = "cuhk_pedes"
WHOLE = Published(
    {"train": Counts(10, 20, 41), "val": Counts(3, 6, 12)}, first_identity=1, captions_per_image=2
)


def photo(number, format="PNG"):
    stream = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 256, (24, 16, 3), np.uint8)
    Image.fromarray(noise).save(stream, format)
    return stream.getvalue()


def row(number, **changes):
    """Record `number`: two of a person, each with two captions, the first with three."""
    made = {
        "image": photo(number),
        "captions": [f"a red coat {number}.{i}" for i in range(3 if number == 0 else 2)],
        "identity": number // 2 + 1,
        "source": NAME,
        "key": f"photo-{number}",
    }
    return made | changes


def write(out, changes=None, *, name=NAME):
    """20 train and 6 val records; changes: number -> other fields."""
    rows = [row(number, **(changes or {}).get(number, {})) for number in range(26)]
    splits = {"train": Split(rows[:20], dict), "val": Split(rows[20:], dict)}
    write_dataset(name, splits, out=out)
    return out


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data"))


@pytest.fixture
def stored_as_given(monkeypatch):
    """Lets bad records into a dataset, as a fault of a disk or an older version would."""

    def unchecked(load, item):
        record = load(item)
        return Checked(ingest._complete(record, list(range(len(record["captions"])))), [])

    monkeypatch.setattr(shards, "check", unchecked)


def report_of(directory, published=WHOLE, **options):
    return verify(NAME, directory=directory, published=published, **options)


def changed(**splits):
    return WHOLE._replace(splits=WHOLE.splits | splits)


def test_a_whole_dataset_has_no_differences(directory):
    report = report_of(directory)
    assert report["differences"] == []
    assert report["notes"] == ["train: 1 images have more than 2 captions"]
    assert report["splits"]["train"] == {"identities": 10, "images": 20, "captions": 41}
    assert report["images_per_second"] > 0


def test_processes_find_the_same(directory):
    one, two = (report_of(directory, workers=workers) for workers in (1, 2))
    assert {**one, "images_per_second": 0} == {**two, "images_per_second": 0}


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        (Counts(10, 20, 42), "train: 41 captions, 1 fewer than the published 42: the source is"),
        (Counts(10, 19, 41), "train: 20 images, 1 more than the published 19: the source is"),
        (Counts(9, 20, 41), "train: 10 identities, 1 more than the published 9: the source is"),
    ],
)
def test_one_too_few_or_too_many_is_a_difference(directory, counts, sentence):
    assert report_of(directory, changed(train=counts))["differences"][0].startswith(sentence)


def test_what_prepare_left_out_explains_a_caption_too_few(tmp_path):
    bad = {"captions": ["a red coat", " ", "a hat"]}
    rows = [row(number, **(bad if number == 0 else {})) for number in range(120)]
    write_dataset(NAME, {"train": Split(rows, dict)}, out=tmp_path)
    published = Published({"train": Counts(60, 120, 241)}, captions_per_image=2)
    assert report_of(tmp_path, published)["differences"] == [
        "train: 240 captions, 1 fewer than the published 241; prepare left out 1 empty-caption"
    ]


@pytest.mark.parametrize(("verdict", "kind"), [("same", "notes"), ("other", "differences")])
def test_known_other_counts_are_explained(directory, verdict, kind):
    other = OtherCount("train", "captions", 41, verdict, "an old friend")
    published = changed(train=Counts(10, 20, 40))._replace(other_counts=(other,))
    sentence = "train: 41 captions, 1 more than the published 40: an old friend"
    report = report_of(directory, published)
    assert sentence in report[kind]
    assert (report["differences"] == []) == (verdict == "same")


def test_splits_that_lack_or_are_unknown(directory):
    published = WHOLE._replace(splits={"train": WHOLE.splits["train"], "test": Counts(1, 1, 1)})
    assert report_of(directory, published)["differences"] == [
        "test: is not there; published are 1 identities, 1 images, 1 captions",
        "val: is no split of the published dataset",
    ]


@pytest.mark.parametrize(("usual", "differs"), [(41, 0), (35, 0), (82, 0), (83, 1), (34, 1)])
def test_corpora_are_compared_by_order_of_magnitude(directory, usual, differs):
    splits = {"train": Counts(10, 20, usual), "val": Counts(3, 6, 12)}
    differences = report_of(directory, Published(splits, counting="about"))["differences"]
    assert len(differences) == differs
    assert all(d == f"train: 41 captions, where about {usual} are usual" for d in differences)


def test_identities_that_do_not_start_where_published(directory):
    assert report_of(directory, WHOLE._replace(first_identity=0))["differences"] == [
        "train: identities run from 1 to 10, published are 0 to 9"
    ]


def test_missing_and_cut_shards(directory, tmp_path):
    shutil.copytree(directory / NAME, tmp_path / NAME)
    folder = tmp_path / NAME / records.VERSION
    (shard,) = folder.glob("*val.array_record*")
    shard.write_bytes(shard.read_bytes()[:-1])
    (told, not_there) = report_of(tmp_path)["differences"]
    size = shard.stat().st_size
    assert f"{shard.name} has {size:,} bytes, not {size + 1:,}; the split was not" in told
    assert not_there.startswith("val: is not there")
    shard.unlink()
    assert f"{shard.name} is missing" in report_of(tmp_path)["differences"][0]


def test_flipped_bytes_in_a_shard_are_told_and_stop_nothing(directory, tmp_path):
    shutil.copytree(directory / NAME, tmp_path / NAME)
    (shard,) = (tmp_path / NAME / records.VERSION).glob("*train.array_record*")
    data = bytearray(shard.read_bytes())
    place = data.find(photo(7)[40:80])
    assert place > 0, "records are stored uncompressed"
    data[place : place + 4] = b"\0\0\0\0"
    shard.write_bytes(data)
    report = report_of(tmp_path)
    assert any("unreadable" in line or "broken" in line for line in report["differences"])
    assert report["splits"]["val"] == {"identities": 3, "images": 6, "captions": 12}


def test_a_false_index(directory, tmp_path):
    shutil.copytree(directory / NAME, tmp_path / NAME)
    path = records.index_path(tmp_path / NAME / records.VERSION, "val")
    with np.load(path) as index:
        arrays = dict(index)
    arrays["identities"][2] += 1
    size = path.stat().st_size
    np.savez(path, **arrays)
    assert path.stat().st_size == size
    (sentence,) = report_of(tmp_path)["differences"]
    assert sentence.startswith("val: the index beside the shards does not fit")


def test_shared_identities_and_images(tmp_path):
    write(tmp_path, {21: {"identity": 10}, 25: {"image": photo(3)}})
    differences = report_of(tmp_path)["differences"]
    assert any(d.startswith("train and val: share 1 identities") for d in differences)
    assert "train and val: share 1 images, equal in every byte" in differences


def test_images_that_are_there_twice(tmp_path):
    write(tmp_path, {1: {"image": photo(0)}, 9: {"image": photo(12)}})
    report = report_of(tmp_path)
    assert "train: 2 images are there more than once, equal in every byte" in report["notes"]
    assert report["differences"] == ["train: 1 times one image belongs to two identities"]


def test_bad_records_are_named(tmp_path, stored_as_given):
    jpeg = photo(4, "JPEG")
    write(
        tmp_path,
        {
            2: {"image": jpeg[:200]},
            3: {"image": b"<html>404</html>"},
            4: {"captions": ["", "a coat"]},
            5: {"captions": ["word " * 800, "a \N{REPLACEMENT CHARACTER} coat"]},
        },
    )
    report = report_of(tmp_path)
    texts = "\n".join(report["differences"])
    assert "1 truncated: photo-2 (" in texts and "1 not-an-image: photo-3 (" in texts
    assert "1 empty-caption: photo-4 (caption 0 is '')" in texts
    notes = "\n".join(report["notes"])
    assert "1 long-caption: photo-5 (3,999 characters)" in notes
    assert "1 replacement-character: photo-5" in notes


def test_damage_that_pillow_hides_is_noted(tmp_path):
    pytest.importorskip("simplejpeg")
    jpeg = bytearray(photo(4, "JPEG"))
    jpeg[-100:-98] = b"\xff\xd5"
    write(tmp_path, {4: {"image": bytes(jpeg)}})
    assert any("1 damaged: photo-4 (Corrupt JPEG data" in n for n in report_of(tmp_path)["notes"])


def test_the_command_and_its_exit_codes(directory, monkeypatch, capsys):
    run = [NAME, f"--directory={directory}", "--workers=1"]
    monkeypatch.setitem(PUBLISHED, NAME, WHOLE)
    assert main([*run, "--strict"]) == 0
    assert "differences: none" in capsys.readouterr().out
    monkeypatch.setitem(PUBLISHED, NAME, changed(train=Counts(10, 20, 42)))
    assert main(run) == 0
    assert "41 captions (published 42)" in capsys.readouterr().out
    assert main([*run, "--strict", "--json"]) == 5
    assert len(json.loads(capsys.readouterr().out)["differences"]) == 1
    assert main(["icfg_pedes", f"--directory={directory}"]) == 5
    assert "Prepare it" in capsys.readouterr().err


def test_progress_tells_the_time_left(directory, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    report_of(directory)
    assert "26 of 26 records, 0 s left" in capsys.readouterr().err


def test_published_counts_add_up():
    """Totals as the papers print them; 28 captions of CUHK-PEDES are beyond two an image."""
    totals = {
        name: tuple(map(sum, zip(*PUBLISHED[name].splits.values(), strict=True)))
        for name in ("cuhk_pedes", "icfg_pedes", "rstpreid")
    }
    assert totals == {
        "cuhk_pedes": (13_003, 40_206, 80_440),
        "icfg_pedes": (4_102, 54_522, 54_522),
        "rstpreid": (4_101, 20_505, 41_010),
    }
    assert 80_440 - 2 * 40_206 == 28
    assert PUBLISHED.keys() == records.PREPARED_BY.keys() - {"synthetic_people", "synthetic_scenes"}
