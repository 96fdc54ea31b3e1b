"""The matching objective: from a training batch to features to CMPM; both stages share it."""

import collections
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import einops
import jax
import jax.numpy as jnp

from ivt_jax.losses.cmpm import cmpm
from ivt_jax.losses.cmpm_rows import cmpm_rows
from ivt_jax.model.ivt import IVT, Part, Views
from ivt_jax.model.masking import drop_words, mask_images, visible_words
from ivt_jax.model.pixels import normalise, random_erase
from ivt_jax.training.sharding import all_rows, batch_sharded, gathered, per_device


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a step minimises, in two parts, so that features of many micro-batches can meet."""

    features: Callable  # (model, batch, key) -> tree of arrays (B, ...)
    loss: Callable  # (features, identities (B,)) -> (scalar, dict of float32 scalars)

    def __call__(self, model, batch: dict, key):
        """Both in one: the scalar loss of a batch and its metrics."""
        return self.loss(self.features(model, batch, key), batch["identities"])


def matching_objective(
    *,
    views: tuple[str, ...],
    erase: float,
    masking: dict,
    levels: str,
    lengths: tuple[int, ...] = (),
    **loss,
) -> Objective:
    """CMPM of the features of a batch, as `training.loop` differentiates it.

    Args:
      views: names of the V texts of a sample, the text levels; one may come more than once.
      erase: probability of random erasing, `config.data.erase`.
      masking: `config.masking`.
      lengths: the most tokens a text of each view has, () = as many as the batch has places.
      levels: "joint" = one CMPM over all views, so every pair of one identity is a positive
        across levels (official code); "separate" = the sum of one CMPM a text (paper Fig. 2),
        and a metric for each level, the sum over its texts;
        "sentence", with its one view, is the baseline without MLA.
      **loss: the keyword arguments of `match`, the rest of `config.objective`.
    """

    def matched(features, identities):
        image, text = features  # (B, V or 1, D), (B, V, D)
        image = jnp.broadcast_to(image, text.shape)  # one image view meets every text
        if levels != "separate":
            total = match(image, text, identities, **loss)
            return total, {"loss": total}
        by_level: dict[str, Any] = collections.defaultdict(float)
        for v, name in enumerate(views):
            by_level[f"loss_{name}"] += match(image[:, [v]], text[:, [v]], identities, **loss)
        total = sum(by_level.values())
        return total, {"loss": total, **by_level}

    features = functools.partial(masked_features, erase=erase, masking=masking, lengths=lengths)
    return Objective(features, matched)


def masked_features(
    model: IVT, batch: dict, key, *, erase: float, masking: dict, lengths: tuple[int, ...] = ()
):
    """Erases, embeds, masks and encodes every view of a batch, all in one pass over the blocks.

    Args:
      batch: images uint8 (B, V or 1, H, W, 3), one for each text or one for all; token_ids int32
        and token_mask bool (B, V, L), padding last.
      key: randomness of erasing, dropout, masking and stochastic depth.
      erase: probability of random erasing.
      masking: strategy, draws and the two ratios, as `mask_images` and `visible_words` take them.
      lengths: the most tokens a text of each view has; texts of one length are encoded together
        and without the padding behind it, which changes nothing but the time. () = L each.

    Returns:
      image_features (B, V or 1, D), text_features (B, V, D): float32, not normalised.
    """
    erase_key, dropout_key, mask_key, image_key, text_key = jax.random.split(key, 5)
    mask_key, words_key = jax.random.split(mask_key)
    options = {name: masking[name] for name in ("strategy", "draws")}
    ratio = masking["text_ratio"]
    views, length = batch["token_ids"].shape[1:]  # V, L
    images = normalise(einops.rearrange(batch["images"], "b v h w c -> (b v) h w c"))
    images = random_erase(erase_key, images, probability=erase)
    tokens, mask = mask_images(
        mask_key, model.embed_image(images), ratio=masking["image_ratio"], **options
    )
    parts = [Part(tokens, mask, "image", image_key)]
    ids = einops.rearrange(batch["token_ids"], "b v l -> (b v) l")
    visible = einops.rearrange(batch["token_mask"], "b v l -> (b v) l")
    visible = visible_words(words_key, visible, ratio=ratio, **options)
    groups = _groups(lengths or (length,) * views)
    for own, most in groups.items():
        share = Views(views, own, length)
        tokens = model.embed_text(share.of(ids)[:, :most], key=dropout_key, views=share)
        tokens, mask = drop_words(
            tokens, share.of(visible)[:, :most], strategy=masking["strategy"], ratio=ratio
        )
        real = jnp.sum(mask, axis=1, dtype=jnp.int32)  # what is hidden stands last
        parts.append(Part(tokens, real, "text", text_key, share))
    image, *texts = model.encode_together(parts)
    by_view = {}
    for own, text in zip(groups, texts, strict=True):
        by_view |= zip(own, jnp.unstack(_by_view(text, len(own)), axis=1), strict=True)
    image = _by_view(image, batch["images"].shape[1])
    return image, jnp.stack([by_view[view] for view in range(views)], axis=1)


def _groups(lengths: tuple[int, ...]) -> dict[tuple[int, ...], int]:
    """Views of one length -> that length."""
    return {
        tuple(view for view, other in enumerate(lengths) if other == length): length
        for length in lengths
    }


def _by_view(rows, views: int):
    return einops.rearrange(rows, "(b v) d -> b v d", v=views)


def match(
    image_features, text_features, identities, *, negatives: str, chunk: int = 0, **options
) -> jax.Array:
    """CMPM of all rows of (B, V, D) features against each other.

    negatives="global" compares the whole batch; "local" compares within each device's share
    and averages, as the official code does, so its value depends on the number of devices.
    With a `chunk` each device computes the rows of its own share, so many columns at a time;
    chunk=0 is the plain form, a whole matrix on every device.
    """
    identities = einops.repeat(identities, "b -> b v", v=image_features.shape[1])
    rows = (image_features, text_features, identities)
    if chunk:
        gather = all_rows if negatives == "global" else lambda own: own
        by_row = functools.partial(cmpm_rows, chunk=chunk, gather=gather, **options)
        return per_device(by_row)(
            *(einops.rearrange(x, "b v ... -> (b v) ...") for x in rows)
        ).mean()
    groups = 1
    if negatives == "local":
        mesh = jax.sharding.get_abstract_mesh()
        groups = 1 if mesh.empty else mesh.size
    rows = [einops.rearrange(x, "(g b) v ... -> g (b v) ...", g=groups) for x in rows]
    if negatives == "local":
        rows = [batch_sharded(x) for x in rows]
        return jax.vmap(lambda *row: cmpm(*row, **options))(*rows).mean()
    return cmpm(*(gathered(x[0]) for x in rows), **options)
