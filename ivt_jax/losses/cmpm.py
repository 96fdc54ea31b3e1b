"""Cross-modal projection matching (CMPM), the one objective of IVT (paper Eq. 5 to 7)."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def cmpm(
    image_features: ArrayLike,
    text_features: ArrayLike,
    identities: ArrayLike,
    *,
    logits: str = "projection",
    target_norm: str = "l2",
    epsilon: float = 1e-8,
) -> jax.Array:
    """KL divergence from the identity targets to the matching probabilities, both directions.

    With p_i = softmax over j of the logits and q_ij = y_ij / ||y_i||, the loss is the mean over
    rows of sum_j p_ij log(p_ij / (q_ij + epsilon)), image-to-text plus text-to-image.

    Args:
      image_features, text_features: (B, D) class tokens after the final norm, not normalised.
      identities: (B,) int; rows with equal identities are positives of each other.
      logits: "projection" = f_i . f_j / |f_j|, the scalar projection onto the other modality
        (official code); "dot" = f_i . f_j (paper Eq. 6).
      target_norm: "l2" = y / ||y||_2 (official code: the minimum is then -log n for n positives,
        so a negative loss is normal); "sum" = y / sum(y) (paper Eq. 6: the minimum is 0).
      epsilon: inside the logarithm of the target.

    Returns:
      A float32 scalar, computed in float32 whatever the dtype of the features.

    Raises:
      ValueError: unknown `logits` or `target_norm`, or shapes that do not fit.
    """
    images, texts, identities = checked(image_features, text_features, identities, logits)
    image_to_text, text_to_image = _matching_logits(images, texts, logits)  # (B, B) each
    log_target = _log_target(identities, target_norm, epsilon)  # (B, B)
    return _divergence(image_to_text, log_target) + _divergence(text_to_image, log_target)


def checked(image_features, text_features, identities, logits: str):
    """What every form of CMPM takes: float32 (B, D) twice and (B,), or a ValueError."""
    images = jnp.asarray(image_features, jnp.float32)  # (B, D)
    texts = jnp.asarray(text_features, jnp.float32)  # (B, D)
    identities = jnp.asarray(identities)  # (B,)
    if images.shape != texts.shape or images.ndim != 2:
        raise ValueError(
            "cmpm needs image and text features of one shape (B, D); "
            f"got {images.shape} and {texts.shape}"
        )
    if identities.shape != images.shape[:1]:
        raise ValueError(f"cmpm needs {len(images)} identities; got {identities.shape}")
    if logits not in ("projection", "dot"):
        raise ValueError(f'logits must be "projection" or "dot", not {logits!r}')
    return images, texts, identities


def inverse_norm(features):
    """1 / |f| of features (B, D): (B,)."""
    # The floor keeps value and gradient finite for a feature of zeros.
    return jax.lax.rsqrt(jnp.maximum(jnp.sum(features * features, axis=1), 1e-24))


def row_norm(positives, target_norm: str):
    """The norm of target rows y by their number of positives, float (B,); or a ValueError."""
    if target_norm not in ("l2", "sum"):
        raise ValueError(f'target_norm must be "l2" or "sum", not {target_norm!r}')
    return jnp.sqrt(positives) if target_norm == "l2" else positives


def _matching_logits(images, texts, logits: str):
    """Both directions come from one matrix of products: the norms only scale its columns."""
    products = jnp.matmul(images, texts.T, precision=jax.lax.Precision.HIGHEST)  # (B, B)
    if logits == "dot":
        return products, products.T
    return products * inverse_norm(texts), products.T * inverse_norm(images)


def _log_target(identities, target_norm: str, epsilon: float):
    match = (identities[:, None] == identities[None, :]).astype(jnp.float32)  # (B, B)
    positives = jnp.sum(match, axis=1, keepdims=True)  # (B, 1)
    return jnp.log(match / row_norm(positives, target_norm) + epsilon)


def _divergence(logits, log_target):
    log_probability = jax.nn.log_softmax(logits, axis=1)
    return jnp.mean(jnp.sum(jnp.exp(log_probability) * (log_probability - log_target), axis=1))
