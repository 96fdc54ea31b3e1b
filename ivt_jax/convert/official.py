"""The official PyTorch implementation's names and layouts, as one table read both ways.

Official layouts: Linear (out, in), convolution (out, in, kh, kw), one tensor a block.
Ours: kernels (in, out), patches flattened (kh, kw, in), blocks stacked along a first axis.
"""

import dataclasses
import logging
import re

import einops
import jax
import numpy as np
from flax import nnx

from ivt_jax.convert.positions import guess_grid, resize_positions
from ivt_jax.model.ivt import IVT, IVTConfig
from ivt_jax.training.sharding import path_name
from ivt_jax.training.state import split_model

# Our path -> the official name; {} is the number of the block our leading axis holds.
NAMES = {
    "class_token": "cls_token",
    "image_positions": "pos_embed",
    "image_types": "type_embed",
    "patch/kernel": "patch_embed.proj.weight",
    "patch/bias": "patch_embed.proj.bias",
    "word_table": "embeddings.word_embeddings.weight",
    "position_table": "embeddings.position_embeddings.weight",
    "type_table": "embeddings.token_type_embeddings.weight",
    "text_norm/scale": "embeddings.LayerNorm.weight",
    "text_norm/bias": "embeddings.LayerNorm.bias",
    "blocks/norm1/scale": "blocks.{}.norm1.weight",
    "blocks/norm1/bias": "blocks.{}.norm1.bias",
    "blocks/attention/qkv/kernel": "blocks.{}.attn.qkv.weight",
    "blocks/attention/qkv/bias": "blocks.{}.attn.qkv.bias",
    "blocks/attention/projection/kernel": "blocks.{}.attn.proj.weight",
    "blocks/attention/projection/bias": "blocks.{}.attn.proj.bias",
    "blocks/norm2/scale": "blocks.{}.norm2.weight",
    "blocks/norm2/bias": "blocks.{}.norm2.bias",
    "blocks/mlp_image/up/kernel": "blocks.{}.mlp_vis.fc1.weight",
    "blocks/mlp_image/up/bias": "blocks.{}.mlp_vis.fc1.bias",
    "blocks/mlp_image/down/kernel": "blocks.{}.mlp_vis.fc2.weight",
    "blocks/mlp_image/down/bias": "blocks.{}.mlp_vis.fc2.bias",
    "blocks/mlp_text/up/kernel": "blocks.{}.mlp_txt.fc1.weight",
    "blocks/mlp_text/up/bias": "blocks.{}.mlp_txt.fc1.bias",
    "blocks/mlp_text/down/kernel": "blocks.{}.mlp_txt.fc2.weight",
    "blocks/mlp_text/down/bias": "blocks.{}.mlp_txt.fc2.bias",
    "norm/scale": "norm.weight",
    "norm/bias": "norm.bias",
}

# In official checkpoints but not in the retrieval network: unused or pretraining-only heads.
_NOT_THE_ENCODER = re.compile(
    r"temp|(classifier_img|bottleneck_img|itm|encoder_fusion)\..*|embeddings\.position_ids"
)


def from_official(
    state_dict, *, image_size: tuple[int, int], num_heads: int, patch_stride: int = 16
) -> IVT:
    """An IVT (float32, deterministic until given keys) from an official state_dict.

    Args:
      state_dict: name -> array or torch tensor; names with or without "module." and
        "encoder_vl." in front. Heads that retrieval does not use are left out and logged.
      image_size: (height, width) in pixels the model shall take.
      num_heads: attention heads, which the weights do not tell.
      patch_stride: pixels. Tables of another stride or size are interpolated (the official
        loader drops them silently).

    Raises:
      ValueError: names missing, unknown or of the wrong shape, all listed at once.
    """
    weights = _encoder_weights(state_dict)
    config = _read_config(weights, image_size, num_heads, patch_stride)
    _fit_tables(weights, config)
    graphdef, shapes = split_model(config)
    _check(weights, shapes, config)

    def read(path, leaf):
        ours = path_name(path)
        value = _read(ours, weights, config.depth)
        assert value.shape == leaf.shape, (ours, value.shape, leaf.shape)
        return jax.numpy.asarray(value)

    return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(read, shapes))


def to_official(model: IVT) -> dict[str, np.ndarray]:
    """The encoder's official names and layouts, float32, without "encoder_vl." in front.

    Includes the buffer `embeddings.position_ids`, so a strict PyTorch load accepts it.
    """
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    patch = model.config.patch_size
    official = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        ours = path_name(path)
        value = np.asarray(leaf, np.float32)
        blocks = value if ours.startswith("blocks/") else value[None]
        for index, part in enumerate(blocks):
            official[NAMES[ours].format(index)] = np.ascontiguousarray(
                _to_layout(ours, part, patch)
            )
    positions = np.arange(model.config.max_text_positions, dtype=np.int64)
    return official | {"embeddings.position_ids": positions[None]}


def _encoder_weights(state_dict) -> dict[str, np.ndarray]:
    weights, left_out = {}, []
    for name, value in state_dict.items():
        short = re.sub(r"^(module\.|encoder_vl\.)+", "", name)
        if _NOT_THE_ENCODER.fullmatch(short):
            left_out.append(name)
        else:
            value = value.detach().float().cpu().numpy() if hasattr(value, "detach") else value
            weights[short] = np.asarray(value, np.float32)
    if left_out:
        logging.info("official weights: not part of the encoder: %s", ", ".join(left_out))
    return weights


def _read_config(weights, image_size, num_heads, patch_stride) -> IVTConfig:
    needed = ("cls_token", "patch_embed.proj.weight", NAMES["word_table"], NAMES["position_table"])
    needed += ("blocks.0.mlp_vis.fc1.weight",)
    missing = [name for name in needed if name not in weights]
    if missing:
        raise ValueError(f"these are not official IVT weights: {', '.join(missing)} missing")
    width = weights["cls_token"].shape[-1]
    blocks = {int(m[1]) for name in weights if (m := re.match(r"blocks\.(\d+)\.", name))}
    return IVTConfig(
        image_size=tuple(image_size),
        patch_size=weights["patch_embed.proj.weight"].shape[-1],
        patch_stride=patch_stride,
        width=width,
        depth=max(blocks) + 1,
        heads=num_heads,
        mlp_ratio=weights["blocks.0.mlp_vis.fc1.weight"].shape[0] // width,
        vocabulary_size=len(weights[NAMES["word_table"]]),
        max_text_positions=len(weights[NAMES["position_table"]]),
    )


def _fit_tables(weights, config: IVTConfig) -> None:
    """Interpolates the image tables when they were made for another stride or image size."""
    grids = [dataclasses.replace(config, patch_stride=s).grid for s in (config.patch_size, 12)]
    for name in ("pos_embed", "type_embed"):
        table = weights.get(name)
        if table is None or table.shape[1] == config.image_tokens:
            continue
        source = guess_grid(table.shape[1], grids)
        logging.warning("official weights: %s resized from %s to %s", name, source, config.grid)
        weights[name] = resize_positions(table[0], source=source, target=config.grid)[None]


def _check(weights, shapes, config: IVTConfig) -> None:
    faults, expected = [], set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        ours = path_name(path)
        stacked = ours.startswith("blocks/")
        # One zero seen through the shape: what the official layout makes of it, at no cost.
        zeros = np.broadcast_to(np.float32(0), leaf.shape[1:] if stacked else leaf.shape)
        shape = _to_layout(ours, zeros, config.patch_size).shape
        for index in range(config.depth if stacked else 1):
            name = NAMES[ours].format(index)
            expected.add(name)
            if name not in weights:
                faults.append(f"{name}: missing")
            elif weights[name].shape != shape:
                faults.append(f"{name}: {weights[name].shape} instead of {shape}")
    faults += [f"{name}: unknown" for name in sorted(set(weights) - expected)]
    if faults:
        raise ValueError("official weights do not fit:\n  " + "\n  ".join(faults))


def _read(ours: str, weights, depth: int) -> np.ndarray:
    if not ours.startswith("blocks/"):
        return _from_layout(ours, weights[NAMES[ours]])
    return np.stack([_from_layout(ours, weights[NAMES[ours].format(i)]) for i in range(depth)])


def _from_layout(ours: str, value: np.ndarray) -> np.ndarray:
    if ours == "patch/kernel":
        return einops.rearrange(value, "d c p q -> (p q c) d")
    if ours.endswith("/kernel"):
        return value.T
    if ours in ("class_token", "image_positions", "image_types"):
        return value.reshape(value.shape[1:] if ours != "class_token" else -1)
    return value


def _to_layout(ours: str, value: np.ndarray, patch: int) -> np.ndarray:
    if ours == "patch/kernel":
        value = einops.rearrange(value, "(p q c) d -> d c p q", p=patch, q=patch)
    elif ours.endswith("/kernel"):
        value = value.T
    elif ours == "class_token":
        value = value[None, None]
    elif ours in ("image_positions", "image_types"):
        value = value[None]
    return value
