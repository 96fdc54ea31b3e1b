"""Explanations equal what leaving out words and patches by hand gives."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from galleries import memory_model
from PIL import Image
from tiny import CONFIG, network

from ivt_jax.errors import UserError
from ivt_jax.model.pixels import normalise
from ivt_jax.retrieval.explain import drop_patches, word_maps

CAPTION = "A woman, red coat."


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return memory_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def photo():
    pixels = np.random.default_rng(0).integers(0, 256, (*CONFIG.image_size, 3), np.uint8)
    return Image.fromarray(pixels)


def unit(features) -> np.ndarray:
    features = np.asarray(features, np.float64)[0]
    return features / np.linalg.norm(features)


def text_of(model, left_out: tuple[str, ...]) -> np.ndarray:
    """Features of CAPTION as the network has them when tokens are taken out of its input."""
    ids, mask, _ = model.tokenizer.encode([CAPTION], length=10)
    names = model.tokenizer.tokens()
    net = network()
    tokens = net.embed_text(jnp.asarray(ids))
    kept = [i for i in range(int(mask.sum())) if names[ids[0, i]] not in left_out]
    return unit(net.encode(tokens[:, np.array(kept)], modality="text"))


def photo_without(photo, patch: int | None) -> np.ndarray:
    net = network()
    tokens = net.embed_image(normalise(jnp.asarray(np.asarray(photo))[None]))
    kept = [i for i in range(tokens.shape[1]) if i - 1 != patch]
    return unit(net.encode(tokens[:, np.array(kept)], modality="image"))


PHRASES = {"A": ("a", "woman"), "woman": ("a", "woman"), "red": ("red", "coat")}
PHRASES |= {"coat": ("red", "coat")}
TOKENS = ("a", "woman", ",", "[UNK]", "red", "coat", ".")


@pytest.mark.slow
def test_words_phrases_and_patches_are_left_out(model, photo):
    found = word_maps(model, photo, CAPTION)
    assert found.words == ["A", "woman", "red", "coat"]
    assert [CAPTION[a:b] for a, b in found.spans] == found.words
    text, image, empty = text_of(model, ()), photo_without(photo, None), text_of(model, TOKENS)
    assert found.score == pytest.approx(image @ text, abs=1e-5)
    expected = [image @ (text - text_of(model, (word.lower(),))) for word in found.words]
    np.testing.assert_allclose(found.word_scores, expected, atol=1e-5)
    rows, columns = CONFIG.grid
    assert found.maps.shape == (4, rows, columns) and found.maps.dtype == np.float32
    for patch in (0, 3, rows * columns - 1):
        lost = image - photo_without(photo, patch)
        assert found.sentence_map.ravel()[patch] == pytest.approx(lost @ text, abs=1e-5)
        for word, heat in zip(found.words, found.maps, strict=True):
            others = tuple(token for token in TOKENS if token not in PHRASES[word])
            in_caption = text - text_of(model, PHRASES[word])
            alone = text_of(model, others) - empty
            direction = sum(part / np.linalg.norm(part) for part in (in_caption, alone))
            assert heat.ravel()[patch] == pytest.approx(lost @ direction, abs=1e-4)


def test_large_grids_lose_blocks_of_patches():
    masks, block = drop_patches(CONFIG)  # 4 x 2 patches
    assert block.tolist() == list(range(8)) and masks.shape == (9, 9)
    large = dataclasses.replace(CONFIG, image_size=(384, 128))  # 24 x 8
    masks, block = drop_patches(large)
    assert masks.shape == (12 * 4 + 1, 193) and masks[0].all() and masks[:, 0].all()
    dropped = [set(np.flatnonzero(~row) - 1) for row in masks[1:]]
    assert dropped[0] == {0, 1, 8, 9} and dropped[-1] == {182, 183, 190, 191}
    assert set.union(*dropped) == set(range(192)) and sum(map(len, dropped)) == 192
    assert all(patch in dropped[number] for patch, number in enumerate(block))


def test_parts_of_a_word_are_one_word(model, photo):
    found = word_maps(model, photo, "red-coat, back-pack backpack")
    assert found.words == ["red-coat", "back-pack", "backpack"]
    assert found.maps.shape[0] == len(found.word_scores) == 3


def test_only_words_that_the_model_reads_are_explained(model, photo):
    caption = "a man a man a man a man red coat"  # nine words fit
    found = word_maps(model, photo, caption)
    assert " ".join(found.words) == caption.rpartition(" ")[0]


def test_pixels_paths_and_images_are_the_same(model, photo, tmp_path):
    photo.save(tmp_path / "a.png")
    maps = [
        word_maps(model, one, "a man").maps
        for one in (photo, np.asarray(photo), tmp_path / "a.png")
    ]
    np.testing.assert_array_equal(maps[0], maps[1])
    np.testing.assert_array_equal(maps[0], maps[2])


@pytest.mark.parametrize("caption", ["", " . ,"])
def test_nothing_to_explain_is_a_sentence(model, photo, caption):
    with pytest.raises(UserError, match="no word"):
        word_maps(model, photo, caption)


def test_scanned_layers_give_the_same(model, photo):
    config = model.config.copy_and_resolve_references()
    config.model.layers = "scan"
    scanned = dataclasses.replace(model, config=config)
    np.testing.assert_allclose(
        word_maps(scanned, photo, CAPTION).maps, word_maps(model, photo, CAPTION).maps, atol=1e-6
    )
