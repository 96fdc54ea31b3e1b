"""The exported folder: our parameters under PyTorch's names in model.safetensors, and back.

Names follow our paths: "/" becomes ".", a kernel (in, out) becomes a weight (out, in), the patch
kernel a convolution's (out, in, p, p), and stacked blocks one tensor each.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import einops
import jax
import numpy as np
from safetensors.numpy import save_file

from ivt_jax.convert.files import Tensor, open_weights
from ivt_jax.convert.folder import CONFIG, SIZES, SUMS, check_sums, read_facts
from ivt_jax.errors import UserError
from ivt_jax.model.ivt import IVTConfig
from ivt_jax.training.sharding import path_name
from ivt_jax.training.state import split_model

WEIGHTS = "model.safetensors"
NEEDED = (CONFIG, WEIGHTS, "vocab.txt", SUMS)  # what reading a folder back takes
TEMPLATES = ("modeling_ivt.py", "evaluate.py", "requirements.txt")


def to_pytorch(params: dict, config: IVTConfig) -> dict[str, np.ndarray]:
    """Names and float32 arrays of the PyTorch twin's state_dict."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        ours, value = path_name(path), np.asarray(leaf, np.float32)
        for name, part in zip(_names(ours, config), _parts(ours, value), strict=True):
            found[name] = np.ascontiguousarray(_outward(ours, part, config.patch_size))
    return found


def write_weights(folder: Path, params: dict, config: IVTConfig) -> None:
    """Writes model.safetensors, with the mark that transformers asks for."""
    save_file(to_pytorch(params, config), folder / WEIGHTS, metadata={"format": "pt"})
    # The library makes it readable to its owner alone, which surprises who shares the folder.
    (folder / WEIGHTS).chmod(folder.stat().st_mode & 0o666)


def write_templates(folder: Path) -> None:
    """Copies the stand-alone PyTorch files."""
    for name in TEMPLATES:
        shutil.copyfile(Path(__file__).parent / "pytorch" / name, folder / name)


def read_exported(folder: Path) -> tuple[dict[str, Any], IVTConfig, dict]:
    """The values of config.json, the sizes among them as IVTConfig, and the parameters.

    Nothing in the folder is executed, and nothing is allocated before the header of the weights
    fits the sizes. SHA256SUMS is checked where there is one.

    Raises:
      UserError: a file is missing, damaged or does not fit, with every misfit named.
    """
    missing = [name for name in NEEDED[:3] if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} is no exported folder: it lacks {', '.join(missing)}")
    check_sums(folder, NEEDED[:3])
    facts = read_facts(folder / CONFIG)
    try:
        config = IVTConfig(**{name: facts[name] for name in ("image_size", *SIZES)})
    except ValueError as error:
        raise UserError(f"{folder / CONFIG}: {error}") from error
    return facts, config, read_weights(folder / WEIGHTS, config)


def read_weights(file: Path, config: IVTConfig) -> dict:
    """The parameters (nested dict of float32 arrays) that `write_weights` wrote.

    Raises UserError when the header is damaged or does not fit `config`.
    """
    # First by arithmetic: a hostile config must not make us even name a million blocks.
    kernels = 4 + 4 * config.mlp_ratio
    floats = config.depth * config.width * config.width * kernels
    tables = config.vocabulary_size + config.max_text_positions + 2 * config.image_tokens
    if 4 * (floats + tables * config.width) > file.stat().st_size:
        raise UserError(f"{file} is smaller than the model of its config.json")
    _, shapes = split_model(config)
    tensors = open_weights(file).tensors
    _check_header(tensors, shapes, config, file)

    def read(path, _):
        ours = path_name(path)
        parts = [_inward(ours, tensors[name].read()) for name in _names(ours, config)]
        return np.stack(parts) if ours.startswith("blocks/") else parts[0]

    return jax.tree_util.tree_map_with_path(read, shapes)


def _check_header(tensors: dict[str, Tensor], shapes: dict, config: IVTConfig, file: Path) -> None:
    expected = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        ours = path_name(path)
        # One zero seen through the shape: what the layout makes of it, at no cost.
        zeros = np.broadcast_to(np.float32(0), leaf.shape)
        part = zeros[0] if ours.startswith("blocks/") else zeros
        shape = _outward(ours, part, config.patch_size).shape
        expected |= dict.fromkeys(_names(ours, config), shape)
    faults = [f"{name}: missing" for name in expected.keys() - tensors.keys()]
    faults += [f"{name}: unknown" for name in tensors.keys() - expected.keys()]
    for name in expected.keys() & tensors.keys():
        found, shape = tensors[name], expected[name]
        if (found.dtype, found.shape) != ("float32", shape):
            faults.append(f"{name}: {found.dtype} {found.shape} instead of float32 {shape}")
    if faults:
        shown = "\n  ".join(sorted(faults)[:20])
        raise UserError(f"{file} does not fit its config.json, {len(faults)} faults:\n  {shown}")


def _names(ours: str, config: IVTConfig) -> list[str]:
    name = ours.replace("/", ".").replace("kernel", "weight").replace("scale", "weight")
    if not ours.startswith("blocks/"):
        return [name]
    return [name.replace("blocks", f"blocks.{index}") for index in range(config.depth)]


def _parts(ours: str, value: np.ndarray) -> Iterator[np.ndarray]:
    return iter(value if ours.startswith("blocks/") else value[None])


def _outward(ours: str, value: np.ndarray, patch: int) -> np.ndarray:
    if ours == "patch/kernel":
        return einops.rearrange(value, "(p q c) d -> d c p q", p=patch, q=patch)
    return value.T if ours.endswith("/kernel") else value


def _inward(ours: str, value: np.ndarray) -> np.ndarray:
    if ours == "patch/kernel":
        return einops.rearrange(value, "d c p q -> (p q c) d")
    return np.ascontiguousarray(value.T) if ours.endswith("/kernel") else value
