"""Official IVT checkpoints as files: read from .safetensors or .pth, and written back.

Written safetensors carry what tensors do not tell (image size, stride, heads, text settings) as
JSON in their header, so that they load without a configuration.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from safetensors.numpy import save_file

from configs import base
from ivt_jax.convert.files import TORCH, Source, open_weights
from ivt_jax.convert.official import NOT_THE_ENCODER, PREFIX, official_config, to_official
from ivt_jax.errors import UserError
from ivt_jax.model.ivt import IVT
from ivt_jax.validation import find_faults, leaves

KEY = "ivt_jax"  # of the JSON in the header
STATED = (
    "model.image_size",
    "model.patch_stride",
    "model.heads",
    "data.text_length",
    "data.separator",
)
_STRIDES = {193: 16, 311: 12}  # rows of the tables at the official 384 x 128 -> patch stride
_HEAD = 64  # width of a head in the official code and in every DeiT


def read_official(path: str | Path, *, field: str) -> tuple[Source, dict[str, Any]]:
    """An official checkpoint as a source of all parameters, and the fields its header states.

    Names lose "module." and "encoder_vl."; heads that retrieval does not use are `unused`.

    Raises:
      UserError: the file cannot be read safely, or its header states what cannot be.
    """
    weights = open_weights(path)
    found, unused, faults = {}, [], {}
    for name, tensor in weights.tensors.items():
        short = PREFIX.sub("", name)
        if NOT_THE_ENCODER.fullmatch(short):
            unused.append(name)
        elif short in found:
            faults[name] = "is there twice"
        else:
            found[short] = tensor
    stated = _stated(weights.metadata, weights.path)
    source = Source(
        label=f"{field}: {weights.path} (official names)",
        tensors=found,
        owns=re.compile(".*"),
        unused=unused,
        faults=faults,
        heads=stated.get("model.heads"),
    )
    return source, stated


def official_run_config(source: Source, stated: dict[str, Any]) -> ConfigDict:
    """The configuration under which official weights work, from their sizes and header.

    What no header states is as the official scripts have it: photos of 384 x 128 pixels, heads
    of 64, the stride that the rows of pos_embed tell.

    Raises UserError where the sizes and the header do not go together.
    """
    shapes = {name: tensor.shape for name, tensor in source.tensors.items()}
    rows, width = (shapes.get("pos_embed", ()) + (0, 0, 0))[1:3]
    config = base.get_config()
    config.update_from_flattened_dict(stated)
    try:
        sizes = official_config(
            shapes,
            image_size=config.model.image_size,
            num_heads=stated.get("model.heads", max(width // _HEAD, 1)),
            patch_stride=stated.get("model.patch_stride", _STRIDES.get(rows, 16)),
        )
    except ValueError as error:
        raise UserError(f"{source.label}: {error}") from None
    config.model.update(dataclasses.asdict(sizes))
    if "data.text_length" not in stated:
        config.data.text_length = min(config.data.text_length, sizes.max_text_positions)
    _refuse(config, source.label)
    if rows != sizes.image_tokens:
        raise UserError(
            f"{source.label}: pos_embed has {rows} rows; photos of {sizes.image_size} pixels give "
            f"{sizes.image_tokens} at stride {sizes.patch_stride}. Start a run from it with "
            "init.run, which interpolates, or use ivt_jax.convert.official.from_official"
        )
    return config


def write_official(model: IVT, out: Path, *, config: ConfigDict) -> None:
    """Writes a model under the names of the official wrapper ("encoder_vl."), float32.

    .safetensors with the fields STATED of `config` in the header; .pth needs PyTorch.

    Raises UserError for another suffix or without PyTorch.
    """
    if out.suffix not in (".safetensors", ".pth"):
        raise UserError(f"--out: {out} must end in .safetensors or .pth")
    tensors = {f"encoder_vl.{name}": value for name, value in to_official(model).items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    written = out.with_name(out.name + ".tmp")
    if out.suffix == ".safetensors":
        values = leaves(config)
        stated = json.dumps({field: values[field] for field in STATED})
        save_file(tensors, written, metadata={"format": "pt", KEY: stated})
    else:
        _save_pickled(tensors, written)
    written.replace(out)


def _save_pickled(tensors: dict[str, np.ndarray], file: Path) -> None:
    try:
        import torch
    except ImportError:
        raise UserError(
            f"writing .pth needs PyTorch: pip install 'torch>={TORCH}', or write .safetensors"
        ) from None
    torch.save({name: torch.from_numpy(value.copy()) for name, value in tensors.items()}, file)


def _stated(metadata: dict[str, str], path: Path) -> dict[str, Any]:
    """The header's fields, checked as a configuration is; {} if somebody else wrote the file."""
    if KEY not in metadata:
        return {}
    try:
        fields = json.loads(metadata[KEY])
        if not isinstance(fields, dict) or not fields.keys() <= set(STATED):
            raise ValueError(f"it states other fields than {', '.join(STATED)}")
        if isinstance(fields.get("model.image_size"), list):
            fields["model.image_size"] = tuple(fields["model.image_size"])
        config = base.get_config()
        config.update_from_flattened_dict(fields)
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"the header of {path} is damaged ({KEY}): {error}") from None
    _refuse(config, f"the header of {path}", only=set(fields))
    return fields


def _refuse(config: ConfigDict, label: str, *, only: set[str] | None = None) -> None:
    fields = {field for field in leaves(config) if field.startswith("model.")} | set(STATED)
    faults = [fault for fault in find_faults(config) if fault.field in (only or fields)]
    if faults:
        raise UserError("\n  ".join([f"{label} gives no valid model:", *map(str, faults)]))
