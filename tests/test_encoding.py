"""Batches, lengths and devices: how rows are encoded together must not change what they give."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from galleries import WORDS, memory_model
from tiny import CONFIG, network

from ivt_jax.data.threads import in_threads
from ivt_jax.errors import EXIT_DIVERGED, UserError
from ivt_jax.model.pixels import normalise
from ivt_jax.retrieval import encoding
from ivt_jax.retrieval.encoding import encode_images, encode_texts, make_encoders
from ivt_jax.training.sharding import make_mesh

LENGTH = 10
# 2 to 10 tokens with [CLS], in no order; the last is cut.
CAPTIONS = [" ".join((WORDS[:5] * 3)[:words]) for words in (9, 1, 4, 2, 8, 1, 3, 6, 5, 1, 12)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return memory_model(tmp_path_factory.mktemp("vocabulary"))


def one_by_one(features):
    """What the protocol asks for, without batches, padding or jit."""
    rows = np.asarray(features, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def texts(model, encoders, *, batch_size):
    return encode_texts(
        encoders,
        model.params,
        CAPTIONS,
        tokenizer=model.tokenizer,
        length=LENGTH,
        separator="none",
        batch_size=batch_size,
    )


def test_texts_are_as_long_as_their_batch_needs(model, monkeypatch):
    monkeypatch.setattr(encoding, "BUCKET", 4)
    shapes = []

    def text(params, ids, mask):
        shapes.append(ids.shape)
        return model.encoders.text(params, ids, mask)

    found, cut = texts(model, dataclasses.replace(model.encoders, text=text), batch_size=8)
    assert shapes == [(8, 8), (8, 10)], "eight short ones, then three of up to ten tokens"
    assert cut == 1
    ids, mask, _ = model.tokenizer.encode(CAPTIONS, length=LENGTH)
    rows = [
        network().text_features(ids[i : i + 1], jnp.asarray(mask[i : i + 1]))[0] for i in (1, 4)
    ]
    np.testing.assert_allclose(found[[1, 4]], one_by_one(rows), atol=1e-6)
    whole = network().text_features(jnp.asarray(ids), jnp.asarray(mask))
    np.testing.assert_allclose(found, one_by_one(whole), atol=1e-6)


@pytest.mark.parametrize("devices", [1, 8])
def test_devices_and_the_uneven_tail_change_nothing(model, devices):
    graphdef, _ = nnx.split(network())
    mesh = make_mesh(data=-1, fsdp=1, devices=jax.devices()[:devices])
    encoders = make_encoders(graphdef, mesh)
    images = np.random.default_rng(0).integers(0, 256, (11, *CONFIG.image_size, 3), np.uint8)
    found = encode_images(encoders, model.params, iter(images), batch_size=8)
    expected = one_by_one(network().image_features(normalise(jnp.asarray(images))))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    ids, mask, _ = model.tokenizer.encode(CAPTIONS, length=LENGTH)
    expected = one_by_one(network().text_features(jnp.asarray(ids), jnp.asarray(mask)))
    np.testing.assert_allclose(texts(model, encoders, batch_size=8)[0], expected, atol=1e-6)


def test_each_image_is_encoded_once_and_in_whole_batches(model):
    batches = []

    def image(params, images):
        batches.append(np.asarray(images))
        return np.zeros((len(images), 2), np.float32)

    encoders = dataclasses.replace(model.encoders, image=image)
    rows = [np.full((2, 2, 3), i, np.uint8) for i in range(11)]
    assert encode_images(encoders, None, rows, batch_size=8).shape == (11, 2)
    numbers = [batch[:, 0, 0, 0].tolist() for batch in batches]
    assert numbers == [list(range(8)), [8, 9, *[10] * 6]]


def test_threads_keep_the_order_and_stay_near():
    begun = []

    def read(number):
        begun.append(number)
        if number == 7:
            raise ValueError("seven")
        return number * number

    results = in_threads(read, range(9), threads=3, ahead=2)
    assert next(results) == (0, 0)
    assert max(begun) <= 2
    assert [next(results) for _ in range(6)] == [(i, i * i) for i in range(1, 7)]
    with pytest.raises(ValueError, match="seven"):
        next(results)


def test_a_model_that_has_diverged_gives_a_sentence_and_no_embeddings(model):
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), model.params)
    image = np.zeros((*CONFIG.image_size, 3), np.uint8)
    with pytest.raises(UserError, match="not finite") as raised:
        encode_images(model.encoders, broken, [image], batch_size=8)
    assert raised.value.exit_code == EXIT_DIVERGED
    with pytest.raises(UserError, match="not finite"):
        texts(dataclasses.replace(model, params=broken), model.encoders, batch_size=8)
