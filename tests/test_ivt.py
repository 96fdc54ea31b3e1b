"""What must never change a feature, and what stochastic depth does to a branch."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import CONFIG, network, training_batch

from ivt_jax.model import ivt
from ivt_jax.model.ivt import IVT, IVTConfig

KEY = jax.random.key(3)


def variant(**changes):
    """The same parameters, computed in another way."""
    graphdef, params = nnx.split(network())
    model = nnx.merge(graphdef, params)
    model.config = dataclasses.replace(CONFIG, **changes)
    return model


def texts(length=10):
    batch = training_batch(rows=4, views=1, length=length)
    return jnp.asarray(batch["token_ids"][:, 0]), jnp.asarray(batch["token_mask"][:, 0])


def images(rows=4):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.normal(size=(rows, *CONFIG.image_size, 3)), jnp.float32)


text_features = jax.jit(lambda ids, mask: network().text_features(ids, mask))


@pytest.mark.parametrize("padding", [1, 6])
def test_padding_never_changes_a_text_feature(padding):
    ids, mask = texts()
    expected = text_features(ids, mask)
    rng = np.random.default_rng(2)
    junk = rng.integers(0, CONFIG.vocabulary_size, (len(ids), padding))
    ids = jnp.where(mask, ids, rng.integers(0, CONFIG.vocabulary_size, ids.shape))
    longer = jnp.concatenate([ids, junk], axis=1)
    found = text_features(longer, jnp.pad(mask, ((0, 0), (0, padding))))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_real_tokens_do_change_a_text_feature():
    ids, mask = texts()
    assert np.abs(text_features(ids.at[:, 1].add(1), mask) - text_features(ids, mask)).max() > 1e-2


def both_towers(model, key=None, output="class"):
    """All features of one model, jitted: images, then texts."""
    ids, mask = texts()

    @jax.jit
    def run():
        keys = (None, None, None) if key is None else jax.random.split(key, 3)
        image_tokens, text_tokens = model.embed_image(images()), model.embed_text(ids, key=keys[0])
        return (
            model.encode(image_tokens, modality="image", key=keys[1], output=output),
            model.encode(text_tokens, mask, modality="text", key=keys[2], output=output),
        )

    return run()


@pytest.fixture(scope="module")
def features():
    return both_towers(network())


def assert_same(found, expected, atol=1e-5):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=atol)


def test_class_only_last_block_equals_the_full_one(features):
    tokens = both_towers(network(), output="tokens")
    assert tokens[0].shape == (4, CONFIG.image_tokens, CONFIG.width)
    assert_same(features, [x[:, 0] for x in tokens])


@pytest.mark.parametrize("changes", [{"layers": "scan"}, {"remat": "block"}])
def test_the_way_of_computing_changes_no_feature(features, changes):
    assert_same(both_towers(variant(**changes)), features)


def test_scan_and_unroll_drop_the_same_branches():
    random = {"drop_path": 0.5, "text_dropout": 0.3}
    unrolled = both_towers(variant(**random), key=KEY)
    assert_same(both_towers(variant(layers="scan", **random), key=KEY), unrolled)
    rematerialised = variant(layers="scan", remat="block", **random)
    assert_same(both_towers(rematerialised, key=KEY), unrolled)
    assert np.abs(unrolled[0] - both_towers(network())[0]).max() > 1e-2


def test_remat_changes_no_gradient():
    batch = images(2)

    def gradients(model):
        graphdef, params = nnx.split(model)

        def loss(params):
            return jnp.sum(nnx.merge(graphdef, params).image_features(batch, key=KEY) ** 3)

        return jax.jit(jax.grad(loss))(params)

    plain = gradients(variant(drop_path=0.5))
    again = gradients(variant(drop_path=0.5, remat="block"))
    assert_same(jax.tree.leaves(again), jax.tree.leaves(plain), atol=1e-4)


def test_without_a_key_nothing_is_random(features):
    assert_same(both_towers(variant(drop_path=0.9, text_dropout=0.9)), features, atol=0)


def test_rates_of_stochastic_depth_grow_linearly():
    model = variant(drop_path=0.1, depth=12)
    np.testing.assert_allclose(model._drop_rates(), np.linspace(0, 0.1, 12), rtol=1e-6)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5])
def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean(rate):
    branch = jnp.asarray(np.random.default_rng(0).normal(size=(20_000, 2, 3)), jnp.float32)
    dropped = np.asarray(ivt._drop_path(branch, KEY, jnp.float32(rate)))
    zero = (dropped == 0).all(axis=(1, 2))
    assert abs(zero.mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / len(zero)) + 1e-9
    np.testing.assert_allclose(dropped[~zero], np.asarray(branch)[~zero] / (1 - rate), rtol=1e-6)
    assert ivt._drop_path(branch, None, jnp.float32(rate)) is branch


def test_stochastic_depth_keeps_the_mean_in_bfloat16():
    """The rate itself is not rounded, which would scale every branch by the same 0.2 % more."""
    branch = jnp.asarray(np.random.default_rng(0).normal(size=(2000, 2, 3)), jnp.bfloat16)
    dropped = np.asarray(ivt._drop_path(branch, KEY, jnp.float32(0.1)), np.float64)
    before = np.where(dropped == 0, 0.0, np.asarray(branch, np.float64))
    scale = np.sum(dropped * before) / np.sum(before**2)
    assert scale == pytest.approx(1 / 0.9, rel=5e-4)


def test_the_two_branches_of_a_block_are_dropped_independently():
    block = jax.tree.map(lambda leaf: leaf[0], network().blocks)
    row = np.random.default_rng(0).normal(size=(1, 3, CONFIG.width))
    tokens = jnp.asarray(np.repeat(row, 64, axis=0), jnp.float32)
    out = block(tokens, None, modality="text", key=KEY, drop_rate=jnp.float32(0.5))
    outcomes, counts = np.unique(np.round(out, 3).reshape(64, -1), axis=0, return_counts=True)
    assert len(outcomes) == 4 and counts.min() >= 6, counts


def test_text_dropout_scales_what_it_keeps():
    model = variant(text_dropout=0.3)
    ids = jnp.ones((300, 10), jnp.int32)
    plain, dropped = model.embed_text(ids), model.embed_text(ids, key=KEY)
    zero = np.asarray(dropped) == 0
    assert abs(zero.mean() - 0.3) < 0.01
    np.testing.assert_allclose(dropped[~zero], plain[~zero] / 0.7, rtol=1e-5)


def test_bfloat16_is_close_and_features_are_float32(features):
    graphdef, _ = nnx.split(network(dataclasses.replace(CONFIG, dtype="bfloat16")))
    half = nnx.merge(graphdef, nnx.state(network()))
    found = both_towers(half)
    assert all(x.dtype == jnp.float32 for x in found)
    for ours, theirs in zip(found, features, strict=True):
        cosine = np.sum(ours * theirs, 1) / np.linalg.norm(ours, axis=1)
        assert (cosine / np.linalg.norm(theirs, axis=1) > 0.999).all()
        assert np.abs(ours - theirs).max() > 1e-4  # else it was not bfloat16 at all


def test_a_text_longer_than_the_table_is_an_error():
    ids = jnp.ones((1, CONFIG.max_text_positions + 1), jnp.int32)
    with pytest.raises(ValueError, match="17 tokens.*max_text_positions=16"):
        network().embed_text(ids)


@pytest.mark.parametrize("fault", [{"heads": 5}, {"image_size": (64, 15)}])
def test_impossible_sizes_are_errors(fault):
    with pytest.raises(ValueError, match=r"heads=5|a patch of 16"):
        dataclasses.replace(CONFIG, **fault)


def test_a_list_of_sizes_is_as_good_as_a_tuple():
    assert IVTConfig(image_size=[384, 128]).image_size == (384, 128)  # type: ignore[arg-type]
    assert IVTConfig().image_tokens == 193
    assert IVTConfig(patch_stride=12).grid == (31, 10)


@pytest.mark.parametrize(("stride", "size"), [(12, (64, 40)), (16, (64, 40))])
def test_patches_are_the_windows_of_the_image(stride, size):
    config = dataclasses.replace(CONFIG, patch_stride=stride, image_size=size)
    model = network(config)
    batch = np.random.default_rng(1).normal(size=(2, *size, 3)).astype(np.float32)
    assert model.patch.bias is not None
    kernel, bias = np.float64(model.patch.kernel[...]), np.asarray(model.patch.bias[...])
    rows = []
    for y in range(0, size[0] - 15, stride):
        for x in range(0, size[1] - 15, stride):
            window = np.float64(batch[:, y : y + 16, x : x + 16]).reshape(2, -1)
            rows.append(window @ kernel + bias)
    expected = np.stack(rows, axis=1)  # (B, N - 1, D)
    class_row = np.broadcast_to(model.class_token[...], (2, 1, CONFIG.width))
    expected = np.concatenate([class_row, expected], axis=1)
    expected = (
        expected + np.asarray(model.image_positions[...]) + np.asarray(model.image_types[...])
    )
    found = jax.jit(lambda x: model.embed_image(x))(batch)
    assert found.shape == (2, config.image_tokens, CONFIG.width)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_sincos_tables_are_the_waves_of_each_place():
    config = dataclasses.replace(CONFIG, position_init="sincos")
    model = IVT(config, rngs=nnx.Rngs(0))

    def wave(place, width):
        angles = [place / 10_000 ** (2 * i / width) for i in range(width // 2)]
        return 0.02 * 2**0.5 * np.array([*map(math.sin, angles), *map(math.cos, angles)])

    texts = [wave(place, config.width) for place in range(config.max_text_positions)]
    np.testing.assert_allclose(model.position_table[...], texts, atol=1e-6)
    patches = [
        np.concatenate([wave(y, config.width // 2), wave(x, config.width // 2)])
        for y in range(config.grid[0])
        for x in range(config.grid[1])
    ]
    expected = [np.zeros(config.width), *patches]
    np.testing.assert_allclose(model.image_positions[...], expected, atol=1e-6)


def test_sincos_needs_a_width_of_fours():
    with pytest.raises(ValueError, match="divisible by 4"):
        dataclasses.replace(CONFIG, position_init="sincos", width=34, heads=2)
