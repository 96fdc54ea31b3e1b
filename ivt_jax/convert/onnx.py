"""Both encoders as ONNX files, traced from the PyTorch twin and checked with onnxruntime."""

import importlib.util
import warnings
from pathlib import Path

import numpy as np

from ivt_jax.convert.exported import to_pytorch
from ivt_jax.convert.folder import SIZES
from ivt_jax.errors import UserError
from ivt_jax.model.ivt import IVTConfig

OPSET = 20
_TOLERANCE = 1e-4  # of an entry of a unit vector, between the runtime and PyTorch
_PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")


def write_onnx(folder: Path, params: dict, config: IVTConfig) -> float:
    """Writes image_encoder.onnx and text_encoder.onnx; both L2-normalise.

    Image: pixel_values float32 (batch, 3, H, W) in [-1, 1] -> image_embeds (batch, D). Text:
    input_ids and attention_mask int64 (batch, length) -> text_embeds (batch, D). Batch and length
    are free.

    Returns:
      The largest difference to PyTorch met in the check, on other shapes than those traced.

    Raises:
      UserError: a package is missing, or the runtime does not reproduce PyTorch.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--to=onnx needs {', '.join(missing)}: pip install '.[onnx]'")
    import torch

    twin = make_twin(params, config)
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    free = {
        "pixel_values": {0: batch},
        "input_ids": {0: batch, 1: length},
        "attention_mask": {0: batch, 1: length},
    }
    worst = 0.0
    for modality in ("image", "text"):
        file = folder / f"{modality}_encoder.onnx"
        example = _inputs(config, modality, rows=2, length=5)
        output = f"{modality}_embeds"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter about its own parts
            torch.onnx.export(
                twin,
                kwargs=example,
                f=file,
                opset_version=OPSET,
                input_names=list(example),
                output_names=[output],
                dynamic_shapes={name: free[name] for name in example},
                verbose=False,
            )
        for rows, count in ((1, 3), (3, config.max_text_positions)):
            other = _inputs(config, modality, rows=rows, length=count)
            worst = max(worst, _difference(file, twin, other, output))
    if not worst < _TOLERANCE:
        raise UserError(f"onnxruntime differs from PyTorch by {worst:.1e}; nothing was exported")
    return worst


def make_twin(params: dict, config: IVTConfig):
    """The PyTorch model with these parameters, in evaluation mode."""
    import torch

    from ivt_jax.convert.pytorch.modeling_ivt import IVTConfig as TwinConfig
    from ivt_jax.convert.pytorch.modeling_ivt import IVTModel

    sizes = {name: getattr(config, name) for name in ("image_size", *SIZES)}
    twin = IVTModel(TwinConfig(**sizes))
    weights = {name: torch.tensor(value) for name, value in to_pytorch(params, config).items()}
    twin.load_state_dict(weights)
    return twin.eval()


def _inputs(config: IVTConfig, modality: str, *, rows: int, length: int) -> dict:
    """Random inputs of one encoder; texts of 2 to `length` real tokens."""
    import torch

    random = np.random.default_rng(rows)
    if modality == "image":
        images = random.uniform(-1, 1, (rows, 3, *config.image_size)).astype(np.float32)
        return {"pixel_values": torch.from_numpy(images)}
    ids = random.integers(0, config.vocabulary_size, (rows, length))
    real = np.arange(length) < random.integers(2, length + 1, (rows, 1))
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(real.astype(np.int64))}


def _difference(file: Path, twin, inputs: dict, output: str) -> float:
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (found,) = session.run([output], {name: value.numpy() for name, value in inputs.items()})
    with torch.inference_mode():
        expected = twin(**inputs)[output].numpy()
    return float(np.abs(np.asarray(found) - expected).max())
