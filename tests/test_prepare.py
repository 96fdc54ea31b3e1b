"""What `prepare` says: one line inside a run, a report and the next command from the shell."""

import errno
import io
from concurrent.futures.process import BrokenProcessPool

import pytest
from PIL import Image

import ivt_jax.data
from ivt_jax import prepare
from ivt_jax.data.texts import SPECIAL_TOKENS


def drawn(split, *, seed):
    """Stands in for a split of the drawn datasets: four records."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 16)).save(stream, "PNG")
    fields = {"image": stream.getvalue(), "captions": ["a coat"], "source": "synthetic_people"}
    return [fields | {"identity": i, "key": f"{split}/{i}"} for i in range(4)]


class Synthetic:
    people_records = scene_records = staticmethod(drawn)
    vocabulary = staticmethod(lambda: [*SPECIAL_TOKENS, "coat"])


def test_a_run_that_draws_its_data_tells_one_line_each(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ivt_jax.data, "synthetic", Synthetic, raising=False)
    prepare.ensure_embedded(tmp_path, ["synthetic_people", "cc3m", ""])
    told = capsys.readouterr().out
    assert "synthetic_people: 4 train, 4 val, 4 test images\n" in told
    assert "next:" not in told and "left out" not in told
    prepare.ensure_embedded(tmp_path, ["synthetic_people"])
    assert not capsys.readouterr().out
    monkeypatch.setattr(prepare, "_drawing", lambda: -1)
    prepare.ensure_embedded(tmp_path, ["synthetic_people", "cc3m"])
    told = capsys.readouterr().out
    assert told.startswith(f"{tmp_path / 'synthetic_people'} was drawn by another version")


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (
            OSError(errno.ENOSPC, "No space left"),
            73,
            "not finished. Finished shards are kept: the same",
        ),
        (BrokenProcessPool("gone"), 5, "try --workers=1"),
    ],
)
def test_an_interrupted_preparation_tells_how_to_go_on(
    tmp_path, capsys, monkeypatch, error, code, words
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("ivt_jax.data.builders.dataset.write_dataset", fail)
    monkeypatch.setattr(prepare, "_splits", lambda *_, **__: {})
    assert prepare.main(["vg", f"--source={tmp_path}", f"--out={tmp_path}"]) == code
    told = capsys.readouterr()
    assert words.format(out=tmp_path) in told.err and str(tmp_path / "vg") in told.err
