"""Addresses on the hub, without a network: what would be asked for, and what is refused."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import jax
import numpy as np
import pytest
from exporting import write_people, write_run
from huggingface_hub import hub_mixin

import ivt_jax
from ivt_jax.__main__ import main
from ivt_jax.convert.hub import fetch, push
from ivt_jax.errors import UserError

COMMIT = "0123456789" * 4


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    data = write_people(tmp_path_factory.mktemp("data"), identities=2)
    return write_run(tmp_path_factory.mktemp("runs") / "run", data)


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "model"
    assert main(["export", f"--run={run}", f"--out={out}"]) == 0
    return out


def twin_without(monkeypatch, *absent) -> Any:
    """modeling_ivt.py as a module, imported where the packages `absent` are not installed."""
    for name in absent:
        monkeypatch.setitem(sys.modules, name, None)
    file = Path(ivt_jax.__file__).parent / "convert" / "pytorch" / "modeling_ivt.py"
    spec = importlib.util.spec_from_file_location("modeling_ivt_alone", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_the_twin_reads_one_commit_of_the_hub_by_the_mixin(folder, tmp_path, monkeypatch):
    torch, asked = pytest.importorskip("torch"), []

    def download(repository, **more):
        asked.append((repository, more["revision"]))
        assert not any(pattern.endswith((".py", "*", ".bin")) for pattern in more["allow_patterns"])
        return str(folder)

    def download_one(repo_id, filename, revision, **_):
        assert (repo_id, filename, revision) == ("me/people", "config.json", COMMIT)
        return str(folder / filename)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(hub_mixin, "hf_hub_download", download_one)
    twin = twin_without(monkeypatch, "transformers")
    assert huggingface_hub.PyTorchModelHubMixin in twin.IVTModel.__mro__
    found = twin.IVTModel.from_pretrained("me/people", revision=COMMIT)
    expected = twin.IVTModel.from_pretrained(folder)
    assert asked == [("me/people", COMMIT)] and not found.training
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


def test_the_twin_pushes_a_private_folder_that_loads(folder, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    created, kept = [], tmp_path / "hub"

    class Api:
        def __init__(self, **_):
            pass

        def create_repo(self, repo_id, private, exist_ok):
            created.append((repo_id, private, exist_ok))
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, folder_path, **_):
            shutil.copytree(folder_path, kept)

    monkeypatch.setattr(hub_mixin, "HfApi", Api)
    twin = twin_without(monkeypatch, "transformers")
    model = twin.IVTModel.from_pretrained(folder)
    with torch.no_grad():
        model.class_token += 1  # fine-tuned a little: the old sums must not travel with it
    model.push_to_hub("me/people")
    assert created == [("me/people", True, True)]
    left = {path.name for path in folder.iterdir()} - {path.name for path in kept.iterdir()}
    assert left == {"SHA256SUMS"}
    assert json.loads((kept / "config.json").read_text()) == json.loads(
        (folder / "config.json").read_text()
    )
    assert torch.equal(twin.IVTModel.from_pretrained(kept).class_token, model.class_token)


def test_the_twin_refuses_a_branch_and_changed_weights(folder, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(hub_mixin, "hf_hub_download", lambda **_: str(folder / "config.json"))
    twin = twin_without(monkeypatch, "transformers")
    for revision in (None, "main", COMMIT[:7]):
        with pytest.raises(ValueError, match="named with its commit"):
            twin.IVTModel.from_pretrained("me/people", revision=revision)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    with pytest.raises(ValueError, match="is not the file that SHA256SUMS lists"):
        twin.IVTModel.from_pretrained(copy)


def test_the_twin_reads_a_folder_without_the_hub_package(folder, monkeypatch):
    pytest.importorskip("torch")
    twin = twin_without(monkeypatch, "transformers", "huggingface_hub")
    assert not twin.IVTModel.from_pretrained(folder).training
    with pytest.raises(ValueError, match="there is no folder me/people"):
        twin.IVTModel.from_pretrained("me/people")
