"""Full disks, dead workers and bad data end in a sentence, and nothing half-written is read."""

import errno
import functools
import json
import os
import types

import numpy as np
import pytest
from test_builders import folder_of, photo, prepared, record

from ivt_jax import prepare
from ivt_jax.data import records
from ivt_jax.data.builders import dataset, shards, space
from ivt_jax.data.builders.dataset import QUARANTINE, write_dataset
from ivt_jax.data.builders.ingest import Split
from ivt_jax.data.records import DataError
from ivt_jax.errors import UserError


def corpus(tmp_path, images=100):
    content = [{"image": f"imgs/{n}.jpg", "caption": "a bus"} for n in range(images)]
    return folder_of(tmp_path / "c", "sbu.json", content, [f"{n}.jpg" for n in range(images)])


def test_a_disk_too_small_is_refused_before_the_start(tmp_path, capsys, monkeypatch):
    source, out = corpus(tmp_path), tmp_path / "out"
    disk = types.SimpleNamespace(free=10 << 20)
    monkeypatch.setattr(space.shutil, "disk_usage", lambda folder: disk)
    code, told = prepared(capsys, "sbu", f"--source={source}", f"--out={out}")
    assert code == 73
    assert "not enough disk space" in told.err and f"{out} has 10 MB free" in told.err
    assert not list(out.rglob("*.array_record*"))
    disk.free = 1 << 30
    assert prepared(capsys, "sbu", f"--source={source}", f"--out={out}")[0] == 0


def test_two_processes_never_write_one_dataset(tmp_path):
    def second(number):
        with pytest.raises(UserError, match="another process"):
            write_dataset("vg", splits, out=tmp_path)
        return record(number)

    splits = {"train": Split(range(2), second)}
    write_dataset("vg", splits, out=tmp_path)
    assert len(records.open_dataset(tmp_path, "vg", "train")) == 2


def test_the_estimate_is_near_what_is_written(tmp_path):
    noise = np.random.default_rng(0).bytes(20_000)  # what follows a JPEG is kept, too
    splits = {"train": Split(range(400), functools.partial(record, image=photo() + noise))}
    manifest = write_dataset("vg", splits, out=tmp_path)
    written = sum(manifest["files"]["train"].values())
    estimate = 400 * space.item_bytes(splits["train"])
    assert 0.9 * written < estimate < 1.2 * written


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError(f"write() failed: {os.strerror(errno.ENOSPC)}; writing x; at byte 7"),
    ],
)
def test_a_disk_that_fills_up_leaves_whole_shards(tmp_path, capsys, monkeypatch, error):
    source, out = corpus(tmp_path), tmp_path / "out"
    writer = shards.file_adapters.ArrayRecordFileAdapter
    write = writer.write_examples

    def fails_at_the_second(path, examples):
        write(path, examples)
        if list(out.glob(".sbu.unfinished/*/notes/*.json")):
            raise error

    monkeypatch.setattr(writer, "write_examples", fails_at_the_second)
    code, told = prepared(capsys, "sbu", f"--source={source}", f"--out={out}")
    assert code == 73
    assert os.strerror(errno.ENOSPC) in told.err and "the same command goes on" in told.err
    assert not list(out.rglob("*.tmp"))
    monkeypatch.undo()
    code, told = prepared(capsys, "sbu", f"--source={source}", f"--out={out}")
    assert code == 0 and "Going on: 64 of 100 records" in told.out
    assert len(records.open_dataset(out, "sbu", "train")) == 100


def dies_at(fatal, number):
    if number == fatal:
        os._exit(9)
    return record(number)


def test_a_dead_worker_is_reported_and_its_shard_made_again(tmp_path, capsys, monkeypatch):
    dying = {"train": Split(range(200), functools.partial(dies_at, 77))}
    monkeypatch.setattr(prepare, "_splits", lambda *_, **__: dying)
    arguments = ["vg", f"--source={tmp_path}", f"--out={tmp_path / 'out'}", "--workers=2"]
    assert prepare.main(arguments) == 5
    assert "--workers=1" in capsys.readouterr().err
    whole = {"train": Split(range(200), record)}
    monkeypatch.setattr(prepare, "_splits", lambda *_, **__: whole)
    assert prepare.main(arguments) == 0
    assert len(records.open_dataset(tmp_path / "out", "vg", "train")) == 200


def bad_every(step, number):
    return record(number, **({"image": b"GIF89a"} if number % step == step - 1 else {}))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_bad_share_decides(tmp_path, workers):
    splits = {"train": Split(range(400), functools.partial(bad_every, 10))}
    with pytest.raises(
        DataError, match=r"of 400 records are bad, more than 9\.9%: .* not-an-image"
    ):
        write_dataset("vg", splits, out=tmp_path, workers=workers, bad_share=0.099)
    assert [path.name for path in tmp_path.iterdir()] == [f"vg.{QUARANTINE}"]
    assert len((tmp_path / f"vg.{QUARANTINE}").read_text().splitlines()) == 40
    manifest = write_dataset("vg", splits, out=tmp_path, workers=workers, bad_share=0.1)
    assert manifest["left_out"] == {"not-an-image": 40}
    assert manifest["splits"]["train"]["records"] == 360
    rows = (tmp_path / "vg" / QUARANTINE).read_text().splitlines()
    assert [json.loads(row)["key"] for row in rows] == [f"p{n}" for n in range(9, 400, 10)]


def test_a_hopeless_dataset_is_refused_early(tmp_path):
    read = []

    def loaded(number):
        read.append(number)
        return bad_every(2, number)

    with pytest.raises(DataError, match="100 of 6,400 records are bad"):
        splits = {"train": Split(range(6400), loaded)}
        write_dataset("vg", splits, out=tmp_path, bad_share=0.001)
    assert len(read) < 500


def test_the_bad_share_is_a_share(tmp_path, capsys):
    source = corpus(tmp_path)
    arguments = ("sbu", f"--source={source}", f"--out={tmp_path}", "--bad_share=1.5")
    code, told = prepared(capsys, *arguments)
    assert code == 2 and "from 0 to 1" in told.err
    assert issubclass(DataError, UserError)


def test_shards_and_splits_without_a_good_record_can_be_read(tmp_path):
    """A whole shard of bad images, and a split of nothing else."""

    def load(number):
        return record(number, **({"image": b""} if 64 <= number < 128 or number > 300 else {}))

    splits = {"train": Split(range(200), load), "val": Split(range(301, 305), load)}
    write_dataset("vg", splits, out=tmp_path, bad_share=1.0)
    source = records.open_dataset(tmp_path, "vg", "train")
    found = [source[i]["key"] for i in range(len(source))]
    assert found == [f"p{n}" for n in range(200) if not 64 <= n < 128]
    assert len(records.open_dataset(tmp_path, "vg", "val")) == 0


def test_shards_depend_on_the_data_alone():
    assert shards.items_per_shard(10, 1e3) == 64
    assert shards.items_per_shard(100_000, 3e3) == 3125
    assert shards.items_per_shard(4_000_000, 3e4) == 4096
    assert shards.items_per_shard(4_000_000, 1e6) == 134
    assert shards.items_per_shard(10, 1e12) == 1
    assert dataset.BAD_SHARE == 0.01
