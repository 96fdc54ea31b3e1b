"""Addresses on the hub, without a network: what would be asked for, and what is refused."""

import json
from types import SimpleNamespace

import huggingface_hub
import jax
import numpy as np
import pytest
from exporting import write_people, write_run

import ivt_jax
from ivt_jax.__main__ import main
from ivt_jax.convert.hub import fetch, push
from ivt_jax.errors import UserError

COMMIT = "0123456789" * 4


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    data = write_people(tmp_path_factory.mktemp("data"), identities=2)
    return write_run(tmp_path_factory.mktemp("runs") / "run", data)


class Hub:
    """Stands in for the hub: keeps what is uploaded, and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def create_repo(self, *asked, **more):
        self.asked.append((asked, more))

    def upload_folder(self, *, repo_id, folder_path):
        self.asked.append((repo_id, sorted(path.name for path in folder_path.iterdir())))
        return SimpleNamespace(oid=COMMIT)


def test_a_pushed_model_is_private_and_loads_by_its_commit(run, tmp_path, monkeypatch, capsys):
    hub, asked = Hub(), []
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    out = tmp_path / "model"
    assert main(["export", f"--run={run}", f"--out={out}", "--push=me/people"]) == 0
    address = f"hf://me/people@{COMMIT}"
    assert address in capsys.readouterr().out
    (created, (name, files)) = hub.asked
    assert created == (("me/people",), {"private": True, "exist_ok": True})
    assert name == "me/people" and {"README.md", "model.safetensors", "SHA256SUMS"} <= set(files)

    def download(repository, **more):
        asked.append((repository, more))
        return str(out)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    found, expected = ivt_jax.load(address), ivt_jax.load(run)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, found.params, expected.params)))
    ((repository, more),) = asked
    assert (repository, more["revision"]) == ("me/people", COMMIT)
    assert not any(pattern.endswith((".py", "*")) for pattern in more["allow_patterns"])


@pytest.mark.parametrize(
    "address", ["hf://me/people", "hf://me/people@main", "hf://me@" + COMMIT, "hf://../x@" + COMMIT]
)
def test_addresses_without_a_commit_are_refused(address):
    with pytest.raises(UserError, match="must be hf://USER/NAME@COMMIT"):
        ivt_jax.load(address)


def test_what_the_hub_refuses_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(UserError, match="must be USER/NAME"):
        push(tmp_path, "people")

    def refuse(*asked, **more):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(UserError, match="cannot be fetched: no network"):
        fetch(f"hf://me/people@{COMMIT}")
    monkeypatch.setattr(Hub, "create_repo", refuse)
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    with pytest.raises(UserError, match="was not uploaded: no network"):
        push(tmp_path, "me/people")
