"""What happens to pixels on the device: normalisation and random erasing."""

import math

import jax
import jax.numpy as jnp

_ATTEMPTS = 10  # boxes tried for each image, as timm's RandomErasing does


def normalise(images) -> jax.Array:
    """uint8 (..., H, W, 3) -> float32 in [-1, 1]: mean and deviation 0.5 (official code)."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def random_erase(key, images, *, probability: float) -> jax.Array:
    """Fills one random box of an image with N(0, 1) noise, with the given probability.

    The box covers 2 % to a third of the image with an aspect of 0.3 to 1 / 0.3, log-uniform;
    the first of ten draws that fits inside is taken (timm's "pixel" mode, in the official code).

    Args:
      key: randomness; None = unchanged (evaluation).
      images: (B, H, W, 3) float, normalised.
    """
    if key is None or probability == 0:
        return images
    rows, height, width, _ = images.shape
    choice, box, noise = jax.random.split(key, 3)
    area_key, aspect_key, top_key, left_key = jax.random.split(box, 4)
    shape = (rows, _ATTEMPTS)
    area = jax.random.uniform(area_key, shape, minval=0.02, maxval=1 / 3) * height * width
    limit = math.log(1 / 0.3)
    aspect = jnp.exp(jax.random.uniform(aspect_key, shape, minval=-limit, maxval=limit))
    box_height = jnp.round(jnp.sqrt(area * aspect))
    box_width = jnp.round(jnp.sqrt(area / aspect))
    fits = (box_height < height) & (box_width < width)
    first = jnp.argmax(fits, axis=1)[:, None]
    box_height = jnp.take_along_axis(box_height, first, axis=1)  # (B, 1)
    box_width = jnp.take_along_axis(box_width, first, axis=1)
    top = jnp.floor(jax.random.uniform(top_key, (rows, 1)) * (height - box_height + 1))
    left = jnp.floor(jax.random.uniform(left_key, (rows, 1)) * (width - box_width + 1))
    y, x = jnp.arange(height), jnp.arange(width)
    inside = ((y >= top) & (y < top + box_height))[:, :, None]
    inside &= ((x >= left) & (x < left + box_width))[:, None, :]  # (B, H, W)
    erased = jnp.any(fits, axis=1) & jax.random.bernoulli(choice, probability, (rows,))
    inside &= erased[:, None, None]
    return jnp.where(inside[..., None], jax.random.normal(noise, images.shape), images)
