"""Weight files of strangers: nothing in them runs, and a broken one gives a sentence."""

import builtins
import json
import os
import pickle
import shutil
import struct
import zipfile
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ivt_jax.convert.files import open_weights
from ivt_jax.errors import UserError

torch = pytest.importorskip("torch")


class Touch:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_every_kind_of_file_gives_shapes_before_values(tmp_path):
    values: dict[str, Any] = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b/c": np.ones(4, np.float16),
    }
    save_file(values, tmp_path / "x.safetensors")
    np.savez(tmp_path / "x.npz", **values)
    tensors = {name: torch.tensor(value) for name, value in values.items()}
    torch.save(tensors, tmp_path / "x.pth")
    torch.save({"state_dict": tensors}, tmp_path / "x.pt")
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("x.safetensors", "x.npz", "x.pth", "x.pt", "old.pth"):
        weights = open_weights(tmp_path / name)
        assert {key: x.shape for key, x in weights.tensors.items()} == {"a": (2, 3), "b/c": (4,)}
        assert weights.tensors["b/c"].dtype == "float16"
        for key, value in values.items():
            np.testing.assert_array_equal(weights.tensors[key].read(), value)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_hostile_pth_is_refused_and_does_not_run(tmp_path, new, wrapped):
    payload = Touch(tmp_path / "touched")
    content = {"state_dict": {"w": torch.ones(2)}, "x": payload} if wrapped else payload
    torch.save(content, tmp_path / "bad.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(UserError, match="refused by PyTorch's restricted loader"):
        open_weights(tmp_path / "bad.pth")
    assert not (tmp_path / "touched").exists()
    torch.load(tmp_path / "bad.pth", weights_only=False)  # the payload would have run
    assert (tmp_path / "touched").exists()


def test_a_bare_pickle_is_refused_and_does_not_run(tmp_path):
    (tmp_path / "bad.bin").write_bytes(pickle.dumps(Touch(tmp_path / "touched")))
    with pytest.raises(UserError, match="restricted loader"):
        open_weights(tmp_path / "bad.bin")
    assert not (tmp_path / "touched").exists()


def test_an_old_pytorch_reads_no_pickle(tmp_path, monkeypatch):
    torch.save({"w": torch.ones(2)}, tmp_path / "x.pth")
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("was loaded"))
    with pytest.raises(UserError, match=r"2\.10 or newer .* is version 2\.9\.1"):
        open_weights(tmp_path / "x.pth")


def test_without_pytorch_the_cure_is_named(tmp_path, monkeypatch):
    torch.save({"w": torch.ones(2)}, tmp_path / "x.pth")
    real = builtins.__import__

    def missing(name, *rest):
        if name == "torch":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match="is not installed\\.\\npip install 'torch>=2.10', or conv"):
        open_weights(tmp_path / "x.pth")


def test_a_compressed_pth_is_refused(tmp_path):
    torch.save({"w": torch.zeros(10000)}, tmp_path / "x.pth")
    with (
        zipfile.ZipFile(tmp_path / "x.pth") as source,
        zipfile.ZipFile(tmp_path / "y.pth", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(UserError, match="is compressed"):
        open_weights(tmp_path / "y.pth")


def test_pickled_arrays_in_npz_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.array([Touch(tmp_path / "touched")], object))
    tensor = open_weights(tmp_path / "x.npz").tensors["a"]
    assert tensor.dtype == "object"
    with pytest.raises(ValueError, match="allow_pickle=False"):
        tensor.read()
    assert not (tmp_path / "touched").exists()


def test_a_header_that_promises_too_much_allocates_nothing(tmp_path):
    entry = {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}
    header = json.dumps({"a": entry}).encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    with pytest.raises(UserError, match="cannot be read"):
        open_weights(file)
    file.write_bytes(struct.pack("<Q", 2**60) + header)
    with pytest.raises(UserError, match="cannot be read"):
        open_weights(file)


@pytest.mark.parametrize("name", ["x.safetensors", "x.npz", "x.pth"])
@pytest.mark.parametrize("content", [b"", b"no weights", bytes(100), b"PK\x03\x04" + bytes(60)])
def test_what_is_no_weight_file_is_a_sentence(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        open_weights(tmp_path / name)


def test_pth_without_tensors_is_a_sentence(tmp_path):
    torch.save([torch.ones(2)], tmp_path / "x.pth")
    with pytest.raises(UserError, match="no table of named tensors"):
        open_weights(tmp_path / "x.pth")


def test_what_is_not_there_or_of_no_kind_is_a_sentence(tmp_path):
    for name in (tmp_path / "x.pth", "no/such/folder", "weights.safetensors", "../no-such-file"):
        with pytest.raises(UserError, match="no file or folder"):
            open_weights(name)
    with pytest.raises(UserError, match="none of the weight files"):
        open_weights(tmp_path)
    (tmp_path / "x.onnx").write_bytes(b"")
    with pytest.raises(UserError, match="no known kind"):
        open_weights(tmp_path / "x.onnx")


@pytest.mark.parametrize("content", ["[]", "{", "[" * 100_000])
def test_a_damaged_config_json_is_a_sentence(tmp_path, content):
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json"):
        open_weights(tmp_path)


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An offline hub with a cache that holds one repository."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = tmp_path / "models--maker--vit" / "snapshots" / commit
    folder.mkdir(parents=True)
    (tmp_path / "models--maker--vit" / "refs").mkdir()
    (tmp_path / "models--maker--vit" / "refs" / "main").write_text(commit)
    save_file({"a": np.ones(2, np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "vit"}')
    (folder / "modeling_vit.py").write_text("raise SystemExit")  # Python in it is never run
    return commit


def test_hub_names_go_through_the_cache(offline, tmp_path):
    for name in ("maker/vit", "maker/vit@main", f"maker/vit@{offline}"):
        weights = open_weights(name)
        assert weights.path.parent.name == offline and weights.settings == {"model_type": "vit"}
    for name in ("maker/other", "maker/vit@v2", "bert-base-uncased"):
        with pytest.raises(UserError, match="the Hugging Face hub does not give it"):
            open_weights(name)
    shutil.rmtree(tmp_path / "models--maker--vit")
    with pytest.raises(UserError, match="maker/vit is no file or folder here"):
        open_weights("maker/vit")
