"""Tensors of weight files: opened without running anything in them, read one at a time.

Anybody may have made such a file: shapes are known before anything is allocated, pickles pass
PyTorch's restricted loader or are not read, and a broken file gives a sentence.
"""

import dataclasses
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (gives numpy the bfloat16 that safetensors asks it for)
import numpy as np
from packaging.version import Version
from safetensors import safe_open

from ivt_jax.errors import UserError
from ivt_jax.validation import HUB_NAME, WEIGHT_FILES

FLOATS = ("float64", "float32", "float16", "bfloat16")
TORCH = "2.10"  # the first release whose weights_only has no known bypass (CVE-2026-24747)
# The number of a block in a name of any naming.
BLOCK = re.compile(r"((?:^|\.)blocks\.|encoder\.layer\.|encoderblock_)(\d+)")
_IN_FOLDERS = ("model.safetensors", "pytorch_model.bin")
_FROM_THE_HUB = ["config.json", "model.safetensors", "vocab.txt", "tokenizer.json"]
_SAFETENSORS_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_SAFETENSORS_TYPES |= {"I8": "int8"}  # of our own programs
_STATE_DICTS = ("state_dict", "model_state_dict", "model", "net")  # where checkpoints keep theirs


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a file, not read yet; `read` returns a numpy array of this shape."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]

    def mapped(self, layout: Callable[[np.ndarray], np.ndarray]) -> "Tensor":
        """The tensor in another layout. Raises ValueError if the shape does not allow it."""
        # One zero seen through the shape, so that nothing is allocated here.
        shape = layout(np.broadcast_to(np.float32(0), self.shape)).shape
        return dataclasses.replace(self, shape=shape, read=lambda: layout(self.read()))


@dataclasses.dataclass(frozen=True)
class Weights:
    """An opened file: its tensors by name, and what config.json or the header says of them."""

    path: Path
    tensors: dict[str, Tensor]
    settings: dict[str, Any]
    metadata: dict[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Weights under the official names of IVT, and what the parameters may take from them.

    Attributes:
      label: field, file and naming, for messages.
      tensors: official name -> Tensor.
      owns: matches the official names that this source should fill.
      unused: names in the file that are known to have no place in the network.
      faults: official name (then not taken) or a property -> what is wrong with it.
      heads: attention heads if the file tells.
      grids: (rows, columns) that position tables may have, likeliest first; () = the model's.
      notes: further lines of the report.
    """

    label: str
    tensors: dict[str, Tensor]
    owns: re.Pattern
    unused: list[str]
    faults: dict[str, str] = dataclasses.field(default_factory=dict)
    heads: int | None = None
    grids: tuple[tuple[int, int], ...] = ()
    notes: tuple[str, ...] = ()


def open_weights(source: str | Path) -> Weights:
    """Opens a weight file, a folder in the Hugging Face layout, or `owner/name[@revision]`.

    .safetensors; .npz; .pth, .pt and .bin only with PyTorch 2.10 or newer and its restricted
    loader. A name that is no path goes to huggingface_hub, which takes safetensors only.

    Raises:
      UserError: nothing there, an unknown kind of file, or one that cannot be read safely.
    """
    path = _locate(source)
    settings = {}
    if path.is_dir():
        folder = path
        path = next((folder / name for name in _IN_FOLDERS if (folder / name).is_file()), folder)
        if path == folder:
            raise UserError(f"{source} holds none of the weight files {', '.join(_IN_FOLDERS)}")
        if (folder / "config.json").is_file():
            settings = read_json(folder / "config.json")
    opener = _OPENERS.get(path.suffix)
    if opener is None:
        raise UserError(f"{path} is no known kind of weight file: {', '.join(WEIGHT_FILES)}")
    try:
        tensors, metadata = opener(path)
    except UserError:
        raise
    except Exception as error:  # parsers of damaged files raise anything
        words = " ".join(str(error).split())[:300]
        raise UserError(f"{path} cannot be read: {type(error).__name__}: {words}") from None
    return Weights(path, tensors, settings, metadata)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; UserError if it is none."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no readable JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a JSON {type(content).__name__}, not an object")
    return content


def _locate(source: str | Path) -> Path:
    path = Path(source).expanduser()
    if path.exists():
        return path
    if not HUB_NAME.fullmatch(str(source)) or path.suffix in WEIGHT_FILES:
        raise UserError(f"there is no file or folder {source}")
    from huggingface_hub import snapshot_download

    name, _, revision = str(source).partition("@")
    try:
        found = snapshot_download(name, revision=revision or None, allow_patterns=_FROM_THE_HUB)
    except Exception as error:  # network, authorisation, offline mode: many types
        raise UserError(
            f"{source} is no file or folder here, and the Hugging Face hub does not give it: "
            f"{' '.join(str(error).split())[:300]}"
        ) from None
    return Path(found)


def _open_safetensors(path: Path):
    def read(name: str) -> np.ndarray:
        with safe_open(path, framework="np") as file:
            return file.get_tensor(name)

    tensors = {}
    with safe_open(path, framework="np") as file:
        for name in file.keys():  # noqa: SIM118  (no mapping)
            view = file.get_slice(name)
            dtype = str(view.get_dtype())
            dtype = _SAFETENSORS_TYPES.get(dtype, dtype)
            tensors[name] = Tensor(tuple(view.get_shape()), dtype, lambda name=name: read(name))
        return tensors, file.metadata() or {}


def _open_npz(path: Path):
    headers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }

    def read(name: str) -> np.ndarray:
        with zipfile.ZipFile(path) as archive, archive.open(name) as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    tensors = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as file:
                shape, _, dtype = headers[np.lib.format.read_magic(file)](file)
            tensor = Tensor(shape, dtype.name, lambda name=name: read(name))
            tensors[name.removesuffix(".npy")] = tensor
    return tensors, {}


def _open_pickled(path: Path):
    try:
        import torch
    except ImportError:
        torch = None
    if torch is None or Version(torch.__version__).release < Version(TORCH).release:
        found = "is not installed" if torch is None else f"is version {torch.__version__} here"
        raise UserError(
            f"{path} is a pickle, which only PyTorch {TORCH} or newer reads safely, and PyTorch "
            f"{found}.\npip install 'torch>={TORCH}', or convert the file to .safetensors elsewhere"
        )
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
                raise UserError(f"{path} is compressed, as PyTorch never writes it; not read")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the restricted unpickler meets
        raise UserError(
            f"{path} is refused by PyTorch's restricted loader: it is damaged or holds more than "
            f"tensors; nothing in it was run.\n{type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}\nIf you trust its maker, ask for .safetensors."
        ) from None
    return {name: _torch_tensor(value) for name, value in _state_dict(content, path).items()}, {}


def _state_dict(content: Any, path: Path) -> dict[str, Any]:
    if isinstance(content, Mapping):
        nested = [content[key] for key in _STATE_DICTS if isinstance(content.get(key), Mapping)]
        content = nested[0] if nested else content
    if not isinstance(content, Mapping) or not any(hasattr(x, "dtype") for x in content.values()):
        raise UserError(f"{path} holds no table of named tensors (a state_dict)")
    return {str(name): value for name, value in content.items()}


def _torch_tensor(value: Any) -> Tensor:
    if not hasattr(value, "dtype"):  # named as unknown later: nothing disappears
        return Tensor((), type(value).__name__, lambda: np.asarray(value))
    dtype = str(value.dtype).removeprefix("torch.")
    return Tensor(tuple(value.shape), dtype, lambda: value.detach().float().numpy())


_OPENERS = {
    ".safetensors": _open_safetensors,
    ".npz": _open_npz,
    ".pth": _open_pickled,
    ".pt": _open_pickled,
    ".bin": _open_pickled,
}
