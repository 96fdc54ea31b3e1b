"""What a caller of `encode_image`, `encode_text` and `evaluate` may hand over, and what is said."""

import dataclasses
import io
import re

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from tiny import CONFIG, network

from configs import base
from ivt_jax.data.builders.dataset import write_dataset
from ivt_jax.data.builders.ingest import Split
from ivt_jax.data.images import ImageError
from ivt_jax.data.records import DataError
from ivt_jax.data.texts import SPECIAL_TOKENS, load_tokenizer
from ivt_jax.errors import EXIT_DIVERGED, UserError
from ivt_jax.evaluate import evaluate, summary
from ivt_jax.inference import Retriever
from ivt_jax.retrieval.encoding import make_encoders
from ivt_jax.training.sharding import make_mesh

WORDS = ("a", "man", "woman", "red", "coat")
LENGTH = 4  # [CLS] and three words


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    vocabulary = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    vocabulary.write_text("\n".join([*SPECIAL_TOKENS, *WORDS]))
    config = base.get_config()
    config.model.update(dataclasses.asdict(CONFIG))
    config.data.text_length = LENGTH
    config.evaluation.batch_size = 8
    graphdef, params = nnx.split(network())
    encoders = make_encoders(graphdef, make_mesh(data=-1, fsdp=1))
    return Retriever(config, 0, nnx.to_pure_dict(params), encoders, load_tokenizer(vocabulary))


def photo(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 20, 3), np.uint8)


def test_paths_pil_images_and_arrays_give_the_same(model, tmp_path):
    pixels = photo(0)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "a.png")
    embeddings = model.encode_image([image, pixels, tmp_path / "a.png", str(tmp_path / "a.png")])
    assert embeddings.shape == (4, CONFIG.width)
    for row in embeddings[1:]:
        np.testing.assert_allclose(row, embeddings[0], atol=1e-6)
    np.testing.assert_allclose(model.encode_image(pixels[None])[0], embeddings[0], atol=1e-6)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ("a.jpg", "write [image]"),
        (Image.new("RGB", (8, 8)), "write [image]"),
        ([], "the list is empty"),
        (photo(0), "uint8 (B, H, W, 3), 0 to 255 in RGB, not uint8 (40, 20, 3)"),
        (np.zeros((2, 3, 40, 20), np.uint8), "not uint8 (2, 3, 40, 20)"),
        (np.zeros((2, 40, 20, 3), np.float32), "not float32 (2, 40, 20, 3)"),
        (np.zeros((0, 40, 20, 3), np.uint8), "the list is empty"),
        ([np.zeros((40, 20), np.uint8)], "uint8 (H, W, 3), 0 to 255 in RGB, not uint8 (40, 20)"),
        ([None], "not NoneType"),
    ],
)
def test_wrong_images_are_sentences(model, images, words):
    with pytest.raises(UserError, match=re.escape(words)):
        model.encode_image(images)


def test_an_unreadable_file_is_named(model, tmp_path):
    (tmp_path / "notes.txt").write_text("no photo")
    with pytest.raises(ImageError, match="notes.txt"):
        model.encode_image([tmp_path / "notes.txt"])


@pytest.mark.parametrize(
    ("captions", "words"),
    [
        ("a man", "write [caption]"),
        ([], "the list is empty"),
        (["a man", None], "not of NoneType"),
    ],
)
def test_wrong_captions_are_sentences(model, captions, words):
    with pytest.raises(UserError, match=re.escape(words)):
        model.encode_text(captions)


def test_cut_sentences_are_told(model, recwarn):
    whole = model.encode_text(["a red coat"])
    assert not recwarn
    message = "1 of 2 captions were cut to data.text_length=4 tokens"
    with pytest.warns(UserWarning, match=message):
        both = model.encode_text(["a red coat a man", "a man"])
    np.testing.assert_allclose(both[0], whole[0], atol=1e-6)


def record(i: int) -> dict:
    buffer = io.BytesIO()
    Image.fromarray(photo(i)).save(buffer, "PNG")
    return {
        "image": buffer.getvalue(),
        "captions": ["a man", "a woman a red coat"],
        "identity": i,
        "source": "synthetic_people",
        "key": f"photos/{i}.png",
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_dataset("synthetic_people", {"test": Split(range(3), record)}, out=folder, workers=1)
    return folder


def scored(model, data):
    return evaluate(model, name="tiny", directory=data, dataset="synthetic_people", split="test")


def test_evaluation_tells_how_many_captions_were_cut(model, data, capsys):
    result = scored(model, data)
    assert result.encoded.truncated == summary(result)["truncated"] == 3
    sentence = "synthetic_people test: 3 of 6 captions were cut to data.text_length=4 tokens"
    assert sentence in capsys.readouterr().out


def test_an_unreadable_photo_ends_an_evaluation_with_its_name(model, data, monkeypatch):
    def refuse(data, *, key):
        raise ImageError("truncated", key, "its end is missing")

    monkeypatch.setattr("ivt_jax.retrieval.evaluate.decode", refuse)
    with pytest.raises(DataError, match="synthetic_people test: image photos/.*png") as one:
        scored(model, data)
    assert one.value.exit_code == 5


def test_embeddings_that_cannot_be_scored_are_a_sentence(model, data):
    broken = jax.tree.map(lambda leaf: leaf * np.nan, model.params)
    with pytest.raises(UserError, match="embeddings that are not finite") as raised:
        scored(dataclasses.replace(model, params=broken), data)
    assert raised.value.exit_code == EXIT_DIVERGED
