"""BMM: how many tokens go, which ones, and that dropping is the same as hiding."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import CONFIG, network

from ivt_jax.model import masking
from ivt_jax.model.masking import (
    drop_words,
    hidden_keys,
    image_slots,
    mask_images,
    text_slots,
    visible_words,
)

KEY = jax.random.key(7)


def numbered(rows, count, width=4):
    """Tokens that carry their own position in the first entry, from 1, so none looks empty."""
    tokens = np.zeros((rows, count, width), np.float32)
    tokens[..., 0] = np.arange(count) + 1
    return jnp.asarray(tokens)


def drop_image_tokens(key, tokens, *, ratio, draws):
    kept, mask = mask_images(key, tokens, strategy="drop", ratio=ratio, draws=draws)
    assert mask is None
    return kept


def drop_text_tokens(key, tokens, mask, *, ratio, draws):
    visible = visible_words(key, mask, strategy="drop", ratio=ratio, draws=draws)
    return drop_words(tokens, visible, strategy="drop", ratio=ratio)


def places(tokens):
    """The positions that `numbered` tokens came from."""
    return np.asarray(tokens[..., 0]).round().astype(int) - 1


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.2, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("count", [2, 9, 193])
@pytest.mark.parametrize("draws", ["sample", "batch"])
def test_images_lose_exactly_their_share_and_never_the_class_token(ratio, count, draws):
    kept = drop_image_tokens(KEY, numbered(5, count), ratio=ratio, draws=draws)
    found = places(kept)
    assert found.shape == (5, count - int(ratio * (count - 1)))
    assert found.shape[1] == image_slots(count, strategy="drop", ratio=ratio)
    assert (found[:, 0] == 0).all()
    assert (np.diff(found, axis=1) > 0).all() and found.max() < count
    if draws == "batch":
        assert (found == found[0]).all()
    elif ratio > 0.1 and count == 193:
        assert not (found == found[0]).all()


def test_every_patch_is_equally_likely_to_go():
    found = places(drop_image_tokens(KEY, numbered(6000, 9), ratio=0.3, draws="sample"))
    counts = np.bincount(found.ravel(), minlength=9)
    assert counts[0] == 6000
    expected = 6000 * 6 / 8
    assert np.abs(counts[1:] - expected).max() < 4.5 * np.sqrt(6000 * 0.25 * 0.75)


@pytest.mark.parametrize("draws", ["sample", "batch"])
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.2, 0.3, 0.7])
@pytest.mark.parametrize("length", [5, 20])
def test_texts_lose_their_share_of_real_tokens_whatever_their_length(length, ratio, draws):
    real = np.arange(length)  # a text of every length: n real tokens besides [CLS]
    mask = np.arange(length)[None] <= real[:, None]
    tokens, kept_mask = drop_text_tokens(
        KEY, numbered(length, length), jnp.asarray(mask), ratio=ratio, draws=draws
    )
    drops = np.array([int(ratio * n) for n in real])
    assert tokens.shape == (length, 1 + (real - drops).max(), 4)
    assert tokens.shape[1] == text_slots(length, strategy="drop", ratio=ratio)
    found, kept_mask = places(tokens), np.asarray(kept_mask)
    assert (kept_mask.sum(axis=1) == 1 + real - drops).all()
    assert (found[:, 0] == 0).all()
    for row, n in enumerate(real):
        visible = found[row, kept_mask[row]]
        assert kept_mask[row, : len(visible)].all(), "padding stands last"
        assert (np.diff(visible) > 0).all(), "order is kept"
        assert visible.max() <= n, "padding is never visible"


def test_masks_with_holes_stay_right():
    """Real tokens need not be contiguous for the counts to hold."""
    rng = np.random.default_rng(0)
    mask = rng.random((40, 12)) < 0.6
    mask[:, 0] = True
    tokens, kept = drop_text_tokens(
        KEY, numbered(40, 12), jnp.asarray(mask), ratio=0.4, draws="sample"
    )
    real = mask.sum(axis=1) - 1
    assert (kept.sum(axis=1) == 1 + real - (0.4 * real).astype(int)).all()
    for row in range(40):
        assert mask[row, places(tokens)[row, np.asarray(kept)[row]]].all()


def test_text_positions_of_a_batch_follow_one_ranking():
    mask = jnp.ones((6, 20), bool)
    tokens, _ = drop_text_tokens(KEY, numbered(6, 20), mask, ratio=0.3, draws="batch")
    assert (places(tokens) == places(tokens)[0]).all()
    tokens, _ = drop_text_tokens(KEY, numbered(6, 20), mask, ratio=0.3, draws="sample")
    assert not (places(tokens) == places(tokens)[0]).all()


@pytest.fixture(scope="module")
def encode():
    """(tokens, mask, modality) -> features of the tiny network."""
    return {
        side: jax.jit(lambda tokens, mask, side=side: network().encode(tokens, mask, modality=side))
        for side in ("image", "text")
    }


@pytest.mark.parametrize("draws", ["sample", "batch"])
def test_dropping_gives_the_features_of_hiding(encode, draws):
    rng = np.random.default_rng(0)
    rows, count, width = 4, CONFIG.image_tokens, CONFIG.width
    content = jnp.asarray(rng.normal(size=(rows, count, width)), jnp.float32)
    tagged = content.at[..., 0].set(jnp.arange(count) + 1.0)
    dropped = drop_image_tokens(KEY, tagged, ratio=0.4, draws=draws)
    visible = np.stack([np.isin(np.arange(count), row) for row in places(dropped)])
    everything = jnp.ones(dropped.shape[:2], bool)
    np.testing.assert_allclose(
        encode["image"](dropped, everything), encode["image"](tagged, visible), atol=1e-5
    )
    mask = jnp.arange(count) < jnp.array([[9], [6], [3], [2]])
    dropped, kept = drop_text_tokens(KEY, tagged, mask, ratio=0.4, draws=draws)
    visible = np.stack(
        [
            np.isin(np.arange(count), row[k])
            for row, k in zip(places(dropped), np.asarray(kept), strict=True)
        ]
    )
    np.testing.assert_allclose(
        encode["text"](dropped, kept), encode["text"](tagged, visible), atol=1e-5
    )


def test_official_counts_are_uniform_and_include_none():
    hidden = np.asarray(hidden_keys(KEY, 41, ratio=0.2, rows=9000, draws="sample"))
    assert hidden.shape == (9000, 41)
    assert not hidden[:, 0].any()
    counts = np.bincount(hidden.sum(axis=1), minlength=9)
    assert len(counts) == 9, "0 .. floor(0.2 * 41)"
    statistic = ((counts - 1000) ** 2 / 1000).sum()
    assert statistic < 26.1, counts  # chi-square with 8 degrees of freedom, p = 0.001


def test_official_positions_are_equally_likely():
    hidden = np.asarray(hidden_keys(KEY, 41, ratio=0.2, rows=9000, draws="sample"))
    share = hidden[:, 1:].mean(axis=0)
    assert np.abs(share - 4 / 40).max() < 5 * np.sqrt(0.1 * 0.9 / 9000)


def test_official_draws_once_for_a_batch():
    hidden = hidden_keys(KEY, 41, ratio=0.5, rows=32, draws="batch")
    assert hidden.shape == (1, 41) and hidden.any()


def run(**changes):
    """What comes in, and what masking makes of it: images, their lengths, texts, their mask."""
    options = {"strategy": "official", "ratio": 0.5, "draws": "sample"} | changes
    keys = [options.pop("key")] * 2 if "key" in options else jax.random.split(KEY)
    mask = jnp.arange(12)[None] < jnp.full((64, 1), 4)
    images, texts = numbered(64, 21), numbered(64, 12)
    visible = visible_words(keys[1], mask, **options)
    del options["draws"]
    masked = mask_images(keys[0], images, draws=changes.get("draws", "sample"), **options)
    found: Any = (*masked, *drop_words(texts, visible, **options))
    return (images, texts, mask), found


def test_official_hides_keys_of_both_modalities_and_can_draw_padding():
    (_, _, mask), (image_tokens, lengths, text_tokens, text_mask) = run()
    keys = jax.random.split(KEY)
    hidden = hidden_keys(keys[0], 21, ratio=0.5, rows=64, draws="sample")
    words = hidden_keys(keys[1], 12, ratio=0.5, rows=64, draws="sample")
    text_mask, mask = np.asarray(text_mask), np.asarray(mask)
    for row in range(64):
        patches = places(image_tokens)[row]
        assert sorted(patches) == list(range(21)), "none is removed"
        assert list(patches[: lengths[row]]) == list(np.flatnonzero(~hidden[row]))
        shown = places(text_tokens)[row, text_mask[row]]
        assert list(shown) == list(np.flatnonzero(mask[row] & ~words[row]))
        assert text_mask[row, : len(shown)].all(), "what is hidden stands last"
    lost = mask.sum(axis=1) - text_mask.sum(axis=1)
    # Up to 6 of 11 places are drawn, of which 3 are real: padding takes its share of the draws.
    assert set(lost) == {0, 1, 2, 3} and 0.4 < lost.mean() < 1.3


def test_the_two_modalities_are_drawn_independently():
    _, (_, image_count, _, text_mask) = run(ratio=0.9)
    text_count = np.asarray(text_mask).sum(axis=1)
    assert abs(np.corrcoef(image_count, text_count)[0, 1]) < 0.4


@pytest.mark.parametrize("changes", [{"key": None}, {"strategy": "none"}])
def test_nothing_is_touched(changes):
    strategy = changes.get("strategy", "official")
    assert image_slots(21, strategy=strategy, ratio=0.5) == 21
    assert text_slots(12, strategy=strategy, ratio=0.5) == 12
    (images, texts, mask), found = run(**changes)
    assert found[0] is images and found[1] is None
    assert np.array_equal(found[2], texts) and np.array_equal(found[3], mask)


@pytest.mark.parametrize("changes", [{"strategy": "zero"}, {"draws": "everywhere"}])
def test_unknown_options_are_named(changes):
    for function, rows in ((mask_images, numbered(2, 3)), (visible_words, jnp.ones((2, 3), bool))):
        options = {"strategy": "drop", "ratio": 0.5, "draws": "sample"} | changes
        with pytest.raises(ValueError, match=next(iter(changes.values()))):
            function(None, rows, **options)


@pytest.mark.parametrize("shared", [True, False])
def test_selection_and_its_gradient_equal_those_of_a_gather(shared):
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.normal(size=(3, 8, 5)), jnp.float32)
    indices = jnp.asarray(np.stack([rng.permutation(8)[:4] for _ in range(1 if shared else 3)]))
    weights = jnp.asarray(rng.normal(size=(3, 4, 5)), jnp.float32)

    def gather(tokens):
        return jnp.take_along_axis(tokens, indices[..., None], axis=1)

    assert np.array_equal(masking._select(tokens, indices), gather(tokens))
    ours = jax.grad(lambda t: jnp.sum(weights * masking._select(t, indices)))(tokens)
    theirs = jax.grad(lambda t: jnp.sum(weights * gather(t)))(tokens)
    np.testing.assert_array_equal(ours, theirs)


def test_selection_in_bfloat16_is_exact():
    tokens = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 4)), jnp.bfloat16)
    found = masking._select(tokens, jnp.array([[3, 0, 8]]))
    assert found.dtype == jnp.bfloat16 and np.array_equal(found, tokens[:, [3, 0, 8]])
