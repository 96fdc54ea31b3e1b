"""Vision transformers under their makers' names: Hugging Face, timm and Google's .npz.

All become official IVT names. As in the official code a ViT gives everything that images use:
patches, class token, positions, and, shared with the texts, attention and LayerNorms.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ivt_jax.convert.files import BLOCK, Source, Tensor, Weights, open_weights
from ivt_jax.errors import UserError

# Their stem -> the official stem; {} is a block's number, the rest is weight or bias.
TIMM = {
    "cls_token": "cls_token",
    "pos_embed": "pos_embed",
    "patch_embed.proj": "patch_embed.proj",
    "blocks.{}.norm1": "blocks.{}.norm1",
    "blocks.{}.attn.qkv": "blocks.{}.attn.qkv",
    "blocks.{}.attn.proj": "blocks.{}.attn.proj",
    "blocks.{}.norm2": "blocks.{}.norm2",
    "blocks.{}.mlp.fc1": "blocks.{}.mlp_vis.fc1",
    "blocks.{}.mlp.fc2": "blocks.{}.mlp_vis.fc2",
    "norm": "norm",
}
HUGGING_FACE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "encoder.layer.{}.layernorm_before": "blocks.{}.norm1",
    "encoder.layer.{}.attention.attention.query": "blocks.{}.attn.query",
    "encoder.layer.{}.attention.attention.key": "blocks.{}.attn.key",
    "encoder.layer.{}.attention.attention.value": "blocks.{}.attn.value",
    "encoder.layer.{}.attention.output.dense": "blocks.{}.attn.proj",
    "encoder.layer.{}.layernorm_after": "blocks.{}.norm2",
    "encoder.layer.{}.intermediate.dense": "blocks.{}.mlp_vis.fc1",
    "encoder.layer.{}.output.dense": "blocks.{}.mlp_vis.fc2",
    "layernorm": "norm",
}
_GOOGLE_BLOCK = "Transformer/encoderblock_{}/"
GOOGLE = {
    "cls": "cls_token",
    "Transformer/posembed_input/pos_embedding": "pos_embed",
    "embedding": "patch_embed.proj",
    _GOOGLE_BLOCK + "LayerNorm_0": "blocks.{}.norm1",
    _GOOGLE_BLOCK + "MultiHeadDotProductAttention_1/query": "blocks.{}.attn.query",
    _GOOGLE_BLOCK + "MultiHeadDotProductAttention_1/key": "blocks.{}.attn.key",
    _GOOGLE_BLOCK + "MultiHeadDotProductAttention_1/value": "blocks.{}.attn.value",
    _GOOGLE_BLOCK + "MultiHeadDotProductAttention_1/out": "blocks.{}.attn.proj",
    _GOOGLE_BLOCK + "LayerNorm_2": "blocks.{}.norm2",
    _GOOGLE_BLOCK + "MlpBlock_3/Dense_0": "blocks.{}.mlp_vis.fc1",
    _GOOGLE_BLOCK + "MlpBlock_3/Dense_1": "blocks.{}.mlp_vis.fc2",
    "Transformer/encoder_norm": "norm",
}


class _Naming(NamedTuple):
    label: str
    marker: str  # a name that no other naming has
    stems: dict[str, str]
    unused: str  # heads and the like, as a pattern


_NAMINGS = (
    _Naming(
        "Hugging Face names",
        "embeddings.cls_token",
        HUGGING_FACE,
        r"pooler\.|classifier\.|decoder\.|embeddings\.mask_token",
    ),
    _Naming("Google's names", "embedding/kernel", GOOGLE, "head/|pre_logits/"),
    _Naming("timm names", "cls_token", TIMM, r"head\.|pre_logits\."),
)
_PREFIX = re.compile(r"(module\.|model\.|vit\.|deit\.|opt/target/)*")
_OWNS = re.compile(
    r"cls_token|pos_embed|patch_embed\..*|norm\..*|blocks\.\d+\.(norm1|norm2|attn|mlp_vis)\..*"
)


def read_vit(source: str) -> Source:
    """A ViT, DeiT or AugReg model, any size: file, folder or hub name; see `open_weights`.

    Raises UserError if it cannot be read or its names are none of the three.
    """
    weights = open_weights(source)
    short = {name: _PREFIX.sub("", name, count=1) for name in weights.tensors}
    naming = next((n for n in _NAMINGS if n.marker in short.values()), None)
    if naming is None:
        some = ", ".join(list(short)[:5]) or "none"
        raise UserError(f"init.vit: {weights.path} holds no ViT that is known by name ({some})")
    found, unused, faults = {}, [], _settings_faults(weights.settings)
    google = naming.stems is GOOGLE
    for name, tensor in weights.tensors.items():
        official = official_name(short[name], naming.stems)
        if official is None and re.match(naming.unused, short[name]):
            unused.append(name)
        elif official is None or official in found:
            faults[name] = "unknown"
        else:
            try:
                found[official] = tensor.mapped(_google_layout(official)) if google else tensor
            except ValueError:
                faults[official] = f"{name} has the shape {tensor.shape}"
    heads = weights.settings.get("num_attention_heads")
    query = weights.tensors.get(_query(short))
    if google and query and len(query.shape) == 3:
        heads = query.shape[1]
    _fuse(found)
    return Source(
        label=f"init.vit: {weights.path} ({naming.label})",
        tensors=found,
        owns=_OWNS,
        unused=unused,
        faults=faults,
        heads=heads if isinstance(heads, int) else None,
        grids=_grids(weights, found),
        notes=() if heads else ("the file does not tell its attention heads; model.heads is used",),
    )


def official_name(name: str, stems: dict[str, str]) -> str | None:
    """The official name of a tensor by a table of stems; None if the table lacks it."""
    numbers = [match[2] for match in BLOCK.finditer(name)]
    name = BLOCK.sub(r"\1{}", name)
    if name in stems:
        return stems[name].format(*numbers)
    stem, _, part = name.replace("/", ".").rpartition(".")
    stem = name[: len(stem)]
    part = {"kernel": "weight", "scale": "weight", "gamma": "weight", "beta": "bias"}.get(
        part, part
    )
    if stem not in stems or part not in ("weight", "bias"):
        return None
    return f"{stems[stem].format(*numbers)}.{part}"


def _query(short: dict[str, str]) -> str:
    """The full name of Google's first query kernel, which tells the heads."""
    end = _GOOGLE_BLOCK.format(0) + "MultiHeadDotProductAttention_1/query/kernel"
    return next((name for name, value in short.items() if value == end), "")


def _google_layout(official: str) -> Callable[[np.ndarray], np.ndarray]:
    """Flax kernels (in, out), with heads apart -> PyTorch's (out, in)."""
    if official in ("cls_token", "pos_embed") or ".norm" in f".{official}":
        return lambda value: value
    if official == "patch_embed.proj.weight":
        return lambda value: value.transpose(3, 2, 0, 1)
    if official.endswith("bias"):
        return lambda value: value.reshape(-1)
    if official.endswith("attn.proj.weight"):
        return lambda value: value.reshape(-1, value.shape[-1]).T
    return lambda value: value.reshape(len(value), -1).T


def _fuse(found: dict[str, Tensor]) -> None:
    """Joins query, key and value, as the official code keeps them; an odd one is left, a fault."""
    for name in [name for name in found if ".attn.query." in name]:
        names = [name.replace("query", part) for part in ("query", "key", "value")]
        parts = [found[part] for part in names if part in found]
        if len(parts) < 3 or len({part.shape for part in parts}) > 1 or not parts[0].shape:
            continue
        rows, *rest = parts[0].shape
        found[name.replace("query", "qkv")] = Tensor(
            (3 * rows, *rest),
            next((part.dtype for part in parts if part.dtype != parts[0].dtype), parts[0].dtype),
            lambda parts=parts: np.concatenate([part.read() for part in parts]),
        )
        for part in names:
            del found[part]


def _settings_faults(settings: dict[str, Any]) -> dict[str, str]:
    """What a config.json says that this network is not."""
    known = {"hidden_act": ("gelu",), "model_type": ("vit", "deit")}
    return {
        f"config.json {key}": f"{settings[key]!r} there, {' or '.join(fitting)} here"
        for key, fitting in known.items()
        if settings.get(key, fitting[0]) not in fitting
    }


def _grids(weights: Weights, found: dict[str, Tensor]) -> tuple[tuple[int, int], ...]:
    """The table's patches down and across: as config.json says, else a square if it can be one."""
    size, patch = (_pair(weights.settings.get(key)) for key in ("image_size", "patch_size"))
    if size and patch:
        return ((size[0] // patch[0], size[1] // patch[1]),)
    table = found.get("pos_embed")
    patches = table.shape[1] - 1 if table and len(table.shape) == 3 else 0
    side = round(max(patches, 0) ** 0.5)
    return ((side, side),) if side and side**2 == patches else ()


def _pair(value: Any) -> tuple[int, int] | None:
    pair = value if isinstance(value, list) else [value, value]
    fits = len(pair) == 2 and all(type(x) is int and x > 0 for x in pair)
    return (pair[0], pair[1]) if fits else None
