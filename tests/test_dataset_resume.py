"""A dataset stopped in any way goes on where it was, and ends with the same bytes."""

import contextlib
import functools
import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tensorflow_datasets as tfds
from PIL import Image

from ivt_jax import prepare
from ivt_jax.data import records
from ivt_jax.data.builders.dataset import write_dataset
from ivt_jax.data.builders.ingest import Split
from ivt_jax.data.records import DataError

ROOT = Path(__file__).parent.parent
TRAIN, VAL = 1000, 70  # 16 shards of 64, the last smaller, and 2


def load(number, *, seconds=0.0):
    """Record `number`; some images, and one caption, are bad."""
    time.sleep(seconds)
    stream = io.BytesIO()
    Image.new("RGB", (8, 16), (number % 256, number // 256, 0)).save(stream, "JPEG")
    return {
        "image": b"" if number % 200 == 7 else stream.getvalue(),
        "captions": [f"a red coat {number}", "" if number == 30 else "a man"][: 1 + number % 2],
        "words": ["red, coat", "man"][: 1 + number % 2],
        "identity": number // 4,
        "source": "test",
        "key": f"p{number}",
    }


def splits(**how):
    one = functools.partial(load, **how)
    return {"train": Split(range(TRAIN), one), "val": Split(range(TRAIN, TRAIN + VAL), one)}


def sums(folder):
    """Every file below a folder, with its hash."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def finished_shards(out):
    """The shards that a restart will not write again, with the time each was written."""
    notes = list(out.glob(".cc3m.unfinished/*/notes/*.json"))
    found = [next(note.parent.parent.glob("cc3m/*/*" + _ending(note))) for note in notes]
    return {path: path.stat().st_mtime_ns for path in found}


def _ending(note):
    label, number = note.stem.rsplit("-", 1)
    return f"-{label}.array_record-{number}-of-*"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    write_dataset("cc3m", splits(), out=out)
    return sums(out / "cc3m")


def test_the_whole_is_a_tfds_folder_in_the_order_of_the_items(tmp_path, undisturbed):
    manifest = write_dataset("cc3m", splits(), out=tmp_path)
    assert sums(tmp_path / "cc3m") == undisturbed
    builder = tfds.builder_from_directory(tmp_path / "cc3m" / records.VERSION)
    assert builder.info.splits["train"].num_examples == TRAIN - 5
    assert len(builder.info.splits["train"].shard_lengths) == 16
    source = records.open_dataset(tmp_path, "cc3m", "train")
    good = [n for n in range(TRAIN) if n % 200 != 7]
    assert [source[i]["key"] for i in range(len(source))] == [f"p{n}" for n in good]
    assert source.identities.tolist() == [n // 4 for n in good]
    assert source.captions_per_record.tolist() == [1 + (n % 2 and n != 30) for n in good]
    folder = tmp_path / "cc3m" / records.VERSION
    for files in manifest["sha256"].values():
        for name, found in files.items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == found


def test_the_number_of_workers_changes_nothing(tmp_path, undisturbed):
    for workers in (2, 3):
        write_dataset("cc3m", splits(), out=tmp_path / str(workers), workers=workers)
        assert sums(tmp_path / str(workers) / "cc3m") == undisturbed


# A suite that was started in the background hands on that SIGINT is ignored.
SCRIPT = """
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {tests!r})
from test_dataset_resume import splits
from ivt_jax.data.builders.dataset import write_dataset
if __name__ == "__main__":
    write_dataset("cc3m", splits(seconds=0.004), out=Path({out!r}), workers={workers})
"""


def started(tmp_path, workers):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(ROOT / "tests"), out=str(tmp_path), workers=workers))
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    return process


def wait_for(condition, process=None):
    end = time.monotonic() + 60
    while not condition():
        assert process is None or process.poll() is None
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


def group_is_gone(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 0)
        return False
    return True


@pytest.mark.parametrize("workers", [1, 2])
def test_kill_9_loses_no_finished_shard(tmp_path, undisturbed, workers):
    process = started(tmp_path, workers)
    wait_for(lambda: len(finished_shards(tmp_path)) >= 3, process)
    process.kill()
    process.communicate()  # returns when the last worker has closed the pipe, too
    wait_for(lambda: group_is_gone(process))  # its workers end with it
    kept = finished_shards(tmp_path)
    assert 3 <= len(kept) < 18
    with pytest.raises(DataError, match="Prepare it"):
        records.open_dataset(tmp_path, "cc3m", "train")
    # A half-written shard is there under another name, or as good as none.
    torn = next(iter(kept)).with_name("cc3m-train.array_record-00015-of-00016.0.tmp")
    torn.write_bytes(b"half")
    told = []
    written = {}
    folder = torn.parent.parent.parent

    def look():
        written.update({path: path.stat().st_mtime_ns for path in kept})
        return contextlib.nullcontext(lambda count: None)

    # The same items and options: only how long loading takes differs.
    write_dataset("cc3m", splits(), out=tmp_path, say=told.append, show=lambda done, total: look())
    assert sums(tmp_path / "cc3m") == undisturbed
    assert not folder.exists() and "Going on: " in told[0]
    final = tmp_path / "cc3m" / records.VERSION
    assert {path.name: (final / path.name).stat().st_mtime_ns for path in kept} == {
        path.name: when for path, when in kept.items()
    }


def test_ctrl_c_stops_at_once_and_can_go_on(tmp_path, undisturbed):
    process = started(tmp_path, 2)
    wait_for(lambda: len(finished_shards(tmp_path)) >= 2, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it, to the workers too
    told, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert told.count("KeyboardInterrupt") == 1, told  # of the parent alone
    wait_for(lambda: group_is_gone(process))
    assert not list(tmp_path.rglob("*.tmp"))
    write_dataset("cc3m", splits(), out=tmp_path, workers=2)
    assert sums(tmp_path / "cc3m") == undisturbed


def test_the_command_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("ivt_jax.data.builders.dataset.write_dataset", stopped)
    assert prepare.main(["synthetic", f"--out={tmp_path}"]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def interrupted_at(number, item):
    if item == number:
        raise KeyboardInterrupt
    return load(item)


@pytest.mark.parametrize("change", ["items", "about", "images"])
def test_changed_input_starts_anew_and_says_so(tmp_path, change):
    stopping = Split(range(TRAIN), functools.partial(interrupted_at, 130))
    with pytest.raises(KeyboardInterrupt):
        write_dataset("cc3m", {"train": stopping}, out=tmp_path, about={"seed": 0})
    assert len(finished_shards(tmp_path)) == 2
    items, about, one = list(range(TRAIN)), {"seed": 0}, load
    if change == "items":
        items[500] = 2000
    elif change == "about":
        about = {"seed": 1}
    else:

        def one(number, *, seconds=0.0):
            return load(number) | {"image": load(number)["image"] + b"\0"}

    told = []
    changed = {"train": Split(items, one)}
    write_dataset("cc3m", changed, out=tmp_path, about=about, say=told.append)
    assert len(told) == 1 and "starting anew" in told[0]
    write_dataset("cc3m", changed, out=tmp_path / "plain", about=about)
    assert sums(tmp_path / "cc3m") == sums(tmp_path / "plain" / "cc3m")


def test_a_shard_cut_after_it_was_finished_is_written_again(tmp_path, undisturbed):
    stopping = splits() | {"val": Split(range(TRAIN, TRAIN + VAL), interrupted)}
    with pytest.raises(KeyboardInterrupt):
        write_dataset("cc3m", stopping, out=tmp_path)
    shard = max(finished_shards(tmp_path))
    shard.write_bytes(shard.read_bytes()[:-10])
    write_dataset("cc3m", splits(), out=tmp_path)
    assert sums(tmp_path / "cc3m") == undisturbed


def interrupted(number):
    if number == TRAIN + 1:  # no item of the estimate
        raise KeyboardInterrupt
    return load(number)
