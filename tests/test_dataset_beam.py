"""The Beam pipeline writes the same bytes as the worker processes."""

import pytest
from test_dataset_resume import splits, sums

from ivt_jax import prepare
from ivt_jax.data.builders import shards, workers
from ivt_jax.data.builders.dataset import write_dataset
from ivt_jax.errors import UserError


@pytest.mark.filterwarnings("ignore")  # Beam's own, at its import
def test_beam_writes_what_processes_write(tmp_path):
    pytest.importorskip("apache_beam")
    for folder, beam in (("processes", None), ("beam", "--runner=DirectRunner")):
        write_dataset("cc3m", splits(), out=tmp_path / folder, beam=beam)
    assert sums(tmp_path / "beam" / "cc3m") == sums(tmp_path / "processes" / "cc3m")


@pytest.mark.filterwarnings("ignore")
def test_beam_workers_that_share_no_folder_are_noticed(tmp_path, monkeypatch):
    pytest.importorskip("apache_beam")
    monkeypatch.setattr(workers, "write_shard", len)
    tasks = shards.tasks(tmp_path, "cc3m", "val", splits()["val"], items=64)
    monkeypatch.setattr(shards.Task, "__len__", lambda task: 0, raising=False)
    with pytest.raises(UserError, match="every Beam worker"):
        list(workers.in_beam(tasks, options=[]))


def test_without_beam_the_command_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"pip install '\.\[beam\]'"):
        write_dataset("cc3m", splits(), out=tmp_path, beam="")


def test_an_object_store_is_refused_with_the_way_out(tmp_path, capsys):
    assert prepare.main(["synthetic", "--out=gs://bucket/data"]) == 2
    assert "copy it" in capsys.readouterr().err
