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

# Our path -> the official name, in the official order; {} is the number of the block our leading
# axis holds.
NAMES = {
    "class_token": "cls_token",
    "image_positions": "pos_embed",
    "image_types": "type_embed",
    "word_table": "embeddings.word_embeddings.weight",
    "position_table": "embeddings.position_embeddings.weight",
    "type_table": "embeddings.token_type_embeddings.weight",
    "text_norm/scale": "embeddings.LayerNorm.weight",
    "text_norm/bias": "embeddings.LayerNorm.bias",
    "patch/kernel": "patch_embed.proj.weight",
    "patch/bias": "patch_embed.proj.bias",
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

PREFIX = re.compile(r"^(module\.|encoder_vl\.)+")
TABLES = ("pos_embed", "type_embed")  # one row for each patch: they depend on size and stride

# In official checkpoints but not in the retrieval network: unused or pretraining-only heads.
NOT_THE_ENCODER = re.compile(
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
    config = official_config(
        {name: value.shape for name, value in weights.items()},
        image_size=image_size,
        num_heads=num_heads,
        patch_stride=patch_stride,
    )
    _fit_tables(weights, config)
    graphdef, shapes = split_model(config)
    _check(weights, config)

    def read(path, leaf):
        ours = path_name(path)
        value = _read(ours, weights, config.depth)
        assert value.shape == leaf.shape, (ours, value.shape, leaf.shape)
        return jax.numpy.asarray(value)

    return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(read, shapes))


def to_official(model: IVT) -> dict[str, np.ndarray]:
    """The encoder's official names and layouts, float32, without "encoder_vl." in front.

    Names come in the official order and include the buffer `embeddings.position_ids`, so a strict
    PyTorch load accepts them.
    """
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    leaves = {
        path_name(path): np.asarray(leaf, np.float32)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    positions = np.arange(model.config.max_text_positions, dtype=np.int64)
    official = {}
    for name, (ours, index) in official_names(model.config).items():
        if ours == "word_table":  # the buffer stands before it
            official["embeddings.position_ids"] = positions[None]
        value = leaves[ours] if index is None else leaves[ours][index]
        official[name] = np.ascontiguousarray(_to_layout(ours, value, model.config.patch_size))
    return official


def official_names(config: IVTConfig) -> dict[str, tuple[str, int | None]]:
    """Official name -> our path and, for blocks, the number on our leading axis; official order."""
    blocks = [ours for ours in NAMES if ours.startswith("blocks/")]
    names = [ours for ours in NAMES if ours not in blocks]
    entries: list[tuple[str, int | None]] = [(ours, None) for ours in names]
    first = next(i for i, ours in enumerate(names) if ours.startswith("norm/"))
    entries[first:first] = [(ours, i) for i in range(config.depth) for ours in blocks]
    return {NAMES[ours].format(index): (ours, index) for ours, index in entries}


def official_shapes(config: IVTConfig) -> dict[str, tuple[int, ...]]:
    """Official name -> the shape in the official layout, nothing allocated."""
    shapes = {
        path_name(path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(split_model(config)[1])
    }
    found = {}
    for name, (ours, index) in official_names(config).items():
        # One zero seen through the shape: what the official layout makes of it, at no cost.
        shape = shapes[ours] if index is None else shapes[ours][1:]
        found[name] = _to_layout(ours, np.broadcast_to(np.float32(0), shape), config.patch_size)
    return {name: value.shape for name, value in found.items()}


def _encoder_weights(state_dict) -> dict[str, np.ndarray]:
    weights, left_out = {}, []
    for name, value in state_dict.items():
        short = PREFIX.sub("", name)
        if NOT_THE_ENCODER.fullmatch(short):
            left_out.append(name)
        else:
            value = value.detach().float().cpu().numpy() if hasattr(value, "detach") else value
            weights[short] = np.asarray(value, np.float32)
    if left_out:
        logging.info("official weights: not part of the encoder: %s", ", ".join(left_out))
    return weights


def official_config(
    shapes, *, image_size: tuple[int, int], num_heads: int, patch_stride: int
) -> IVTConfig:
    """The sizes of official weights from the shapes of their tensors (name -> shape).

    Raises ValueError when the tensors that tell them are missing or of another rank.
    """
    ranks = {"cls_token": 3, "patch_embed.proj.weight": 4, "blocks.0.mlp_vis.fc1.weight": 2}
    ranks |= {NAMES["word_table"]: 2, NAMES["position_table"]: 2}
    missing = [name for name in ranks if name not in shapes]
    if missing:
        raise ValueError(f"these are not official IVT weights: {', '.join(missing)} missing")
    odd = [name for name, rank in ranks.items() if len(shapes[name]) != rank or 0 in shapes[name]]
    if odd:
        found = ", ".join(f"{name}: {tuple(shapes[name])}" for name in odd)
        raise ValueError(f"these are not official IVT weights: shapes of {found}")
    width = shapes["cls_token"][-1]
    return IVTConfig(
        image_size=image_size,
        patch_size=shapes["patch_embed.proj.weight"][-1],
        patch_stride=patch_stride,
        width=width,
        depth=len({m[1] for name in shapes if (m := re.match(r"blocks\.(\d+)\.", name))}),
        heads=num_heads,
        mlp_ratio=shapes["blocks.0.mlp_vis.fc1.weight"][0] // width,
        vocabulary_size=shapes[NAMES["word_table"]][0],
        max_text_positions=shapes[NAMES["position_table"]][0],
    )


def image_grids(config: IVTConfig) -> list[tuple[int, int]]:
    """Grids that tables of this image size can have: its own, and those of the usual strides."""
    strides = (config.patch_stride, config.patch_size, 12)  # 12: the official CUHK and ICFG scripts
    return [dataclasses.replace(config, patch_stride=stride).grid for stride in strides]


def _fit_tables(weights, config: IVTConfig) -> None:
    """Interpolates the image tables when they were made for another stride or image size."""
    for name in TABLES:
        table = weights.get(name)
        if table is None or table.shape[1] == config.image_tokens:
            continue
        source = guess_grid(table.shape[1], image_grids(config))
        logging.warning("official weights: %s resized from %s to %s", name, source, config.grid)
        weights[name] = resize_positions(table[0], source=source, target=config.grid)[None]


def _check(weights, config: IVTConfig) -> None:
    expected, faults = official_shapes(config), []
    for name, shape in expected.items():
        if name not in weights:
            faults.append(f"{name}: missing")
        elif weights[name].shape != shape:
            faults.append(f"{name}: {weights[name].shape} instead of {shape}")
    faults += [f"{name}: unknown" for name in sorted(set(weights) - set(expected))]
    if faults:
        raise ValueError("official weights do not fit:\n  " + "\n  ".join(faults))


def _read(ours: str, weights, depth: int) -> np.ndarray:
    if not ours.startswith("blocks/"):
        return from_layout(ours, weights[NAMES[ours]])
    return np.stack([from_layout(ours, weights[NAMES[ours].format(i)]) for i in range(depth)])


def from_layout(ours: str, value: np.ndarray) -> np.ndarray:
    """An official tensor in the layout of our parameter at path `ours`, or of one block of it."""
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
