"""The ONNX encoders in onnxruntime against JAX, with batches and lengths that were not traced."""

import jax
import numpy as np
import pytest
from exporting import random_texts
from flax import nnx
from tiny import CONFIG, network

from ivt_jax.convert import onnx as export
from ivt_jax.errors import UserError

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
PARAMS = nnx.to_pure_dict(nnx.state(network(), nnx.Param))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    assert export.write_onnx(folder, PARAMS, CONFIG) < 1e-5
    return folder


def encode(folder, modality, **inputs):
    file = folder / f"{modality}_encoder.onnx"
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (found,) = session.run([f"{modality}_embeds"], inputs)
    return found


def unit(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


@pytest.mark.parametrize("rows", [1, 5])
def test_embeddings_equal_those_of_jax(rows, folder):
    images = np.random.default_rng(rows).uniform(-1, 1, (rows, *CONFIG.image_size, 3))
    images = images.astype(np.float32)
    found = encode(folder, "image", pixel_values=images.transpose(0, 3, 1, 2))
    expected = unit(jax.jit(network().image_features)(images))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for length in (4, CONFIG.max_text_positions):
        ids, mask = random_texts(CONFIG.vocabulary_size, rows=rows, length=length)
        found = encode(folder, "text", input_ids=ids, attention_mask=mask.astype(np.int64))
        expected = unit(jax.jit(network().text_features)(ids, mask))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_runtime_that_differs_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_TOLERANCE", 0.0)
    with pytest.raises(UserError, match="differs from PyTorch"):
        export.write_onnx(tmp_path, PARAMS, CONFIG)


def test_missing_packages_are_named(tmp_path, monkeypatch):
    find = export.importlib.util.find_spec
    monkeypatch.setattr(
        export.importlib.util, "find_spec", lambda name: None if name == "onnx" else find(name)
    )
    with pytest.raises(UserError, match=r"needs onnx: pip install '\.\[onnx\]'"):
        export.write_onnx(tmp_path, PARAMS, CONFIG)
    assert not list(tmp_path.iterdir())
