"""Normalisation, and random erasing against a NumPy version of the described rule."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivt_jax.model.pixels import normalise, random_erase

HEIGHT, WIDTH, ROWS = 48, 16, 3000
FAR = 100.0  # no noise reaches it, so what differs from it was erased


def test_normalise_is_mean_and_deviation_one_half():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    found = normalise(jnp.asarray(pixels))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, (pixels / 255.0 - 0.5) / 0.5, atol=1e-6)
    assert found.min() == -1 and found.max() == 1


@pytest.fixture(scope="module")
def erased():
    images = jnp.full((ROWS, HEIGHT, WIDTH, 3), FAR)
    erase = jax.jit(lambda key, x: random_erase(key, x, probability=0.5))
    return np.asarray(erase(jax.random.key(0), images))


@pytest.fixture(scope="module")
def boxes(erased):
    """(top, left, height, width) of every erased image; asserts that each is one full box."""
    inside = (erased != FAR).all(axis=-1)
    assert ((erased != FAR).any(axis=-1) == inside).all(), "all channels are filled"
    found = []
    for mask in inside[inside.any(axis=(1, 2))]:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        assert mask.sum() == box[2] * box[3]
        found.append(box)
    return np.array(found)


def reference(count, seed):
    """Boxes by the rule in the docstring, one image at a time, as the official transform does."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        for _ in range(10):
            area = rng.uniform(0.02, 1 / 3) * HEIGHT * WIDTH
            aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height < HEIGHT and width < WIDTH:
                top, left = rng.integers(HEIGHT - height + 1), rng.integers(WIDTH - width + 1)
                found.append((top, left, height, width))
                break
    return np.array(found)


def test_half_of_the_images_get_one_box(boxes):
    assert abs(len(boxes) / ROWS - 0.5) < 4.5 * math.sqrt(0.25 / ROWS)


def test_boxes_are_distributed_as_the_rule_says(boxes):
    expected = reference(20_000, seed=1)

    def measures(boxes):
        top, left, height, width = boxes.astype(np.float64).T
        down, across = np.maximum(HEIGHT - height, 1), np.maximum(WIDTH - width, 1)
        return {
            "area": height * width / (HEIGHT * WIDTH),
            "log aspect": np.log(height / width),
            "top": top / down,
            "left": left / across,
        }

    ours, theirs = measures(boxes), measures(expected)
    for name, values in ours.items():
        grid = np.sort(theirs[name])
        ours_below = np.searchsorted(np.sort(values), grid, side="right") / len(values)
        theirs_below = np.searchsorted(grid, grid, side="right") / len(grid)
        distance = np.abs(ours_below - theirs_below).max()  # Kolmogorov and Smirnov's
        limit = 1.95 * math.sqrt(1 / len(values) + 1 / len(grid))  # p = 0.001
        assert distance < limit, (name, distance, limit)
    assert (boxes[:, 0] + boxes[:, 2] == HEIGHT).any() and (boxes[:, 0] == 0).any()
    assert (boxes[:, 1] + boxes[:, 3] == WIDTH).any() and (boxes[:, 1] == 0).any()


def test_the_filling_is_standard_normal(erased):
    noise = erased[erased != FAR]
    assert abs(noise.mean()) < 5 / math.sqrt(noise.size)
    assert abs(noise.std() - 1) < 5 / math.sqrt(noise.size)
    assert abs((np.abs(noise) < 1).mean() - 0.6827) < 0.005


def test_pixels_outside_the_box_stay_bit_for_bit():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(-1, 1, (64, HEIGHT, WIDTH, 3)), jnp.float32)
    key = jax.random.key(3)
    changed = np.asarray(random_erase(key, images, probability=1.0) != images).all(axis=-1)
    far = np.asarray(random_erase(key, jnp.full_like(images, FAR), probability=1.0) != FAR)
    assert (changed == far.all(axis=-1)).all()
    assert changed.reshape(64, -1).any(axis=1).all()
    assert 0.02 < changed.mean() < 0.34


@pytest.mark.parametrize(("key", "probability"), [(None, 1.0), (jax.random.key(0), 0.0)])
def test_without_key_or_probability_nothing_happens(key, probability):
    images = jnp.ones((2, HEIGHT, WIDTH, 3))
    assert random_erase(key, images, probability=probability) is images
