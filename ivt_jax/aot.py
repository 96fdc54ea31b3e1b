"""Encoders as programs: traced once when they are exported, loaded without the model's code.

A program is a serialised `jax.export` of one encoder for CPU, CUDA and TPU, any number of rows and
any text length; the weights lie beside it in safetensors and come with each call.
"""

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export
from jax.sharding import Mesh
from safetensors.numpy import save_file

from ivt_jax.convert.files import open_weights
from ivt_jax.convert.folder import CONFIG, check_sums, read_facts
from ivt_jax.dtypes import DTYPES
from ivt_jax.errors import UserError
from ivt_jax.model.precision import Int8
from ivt_jax.retrieval.encoding import Encoders, encoding_functions, jitted
from ivt_jax.training.sharding import BATCH, REPLICATED, path_name

PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAMS = ("image_encoder.jaxexport", "text_encoder.jaxexport")
WEIGHTS = "weights.safetensors"
NEEDED = (*PROGRAMS, WEIGHTS, CONFIG, "vocab.txt")
_CALL = "custom_call"  # how a program leaves XLA, perhaps for code of its maker's
_ALLOWED = re.compile(r"custom_call @(shape_assertion|Sharding)\(")


def write_programs(
    folder: Path, graphdef, params: dict, *, image_size: tuple[int, int], length: int
) -> None:
    """Writes both programs and the weights of an encoder, in the dtypes that it holds.

    Args:
      folder: is there already.
      graphdef: of the model, see `split_model`.
      params: as `held_as` gives them: what is int8 in memory is int8 in the file.
      image_size: (H, W) of the images.
      length: of the longest text, in tokens.
    """
    tree, weights = jax.tree.structure(params), flat(params)
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in weights.items()}
    (rows,) = export.symbolic_shape("rows", constraints=("rows >= 1",))
    images = [jax.ShapeDtypeStruct((rows, *image_size, 3), np.uint8)]
    limits = ("rows >= 1", "tokens >= 2", f"tokens <= {length}")
    text = export.symbolic_shape("rows, tokens", constraints=limits)
    texts = [jax.ShapeDtypeStruct(text, kind) for kind in (np.int32, np.bool_)]
    for name, encode, inputs in zip(
        PROGRAMS, encoding_functions(graphdef), (images, texts), strict=True
    ):

        @jax.jit
        def program(weights, *inputs, encode=encode):
            return encode(jax.tree.unflatten(tree, [weights[name] for name in shapes]), *inputs)

        exported = export.export(program, platforms=PLATFORMS)(shapes, *inputs)
        (folder / name).write_bytes(exported.serialize())
    save_file({name: np.asarray(x) for name, x in weights.items()}, folder / WEIGHTS)
    # The library makes it readable to its owner alone, which surprises who shares the folder.
    (folder / WEIGHTS).chmod(folder.stat().st_mode & 0o666)


def flat(params: dict) -> dict[str, Any]:
    """Arrays by their path, as "blocks/attention/qkv/kernel", in the order of the tree."""
    return {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(params)}


def nested(weights: dict[str, Any], *, tokens: str = "float") -> dict:
    """The parameters that `flat` took apart; `tokens` as in Int8, for the kernels among them."""
    tree: dict = {}
    for name, value in weights.items():
        *places, last = name.split("/")
        node = tree
        for place in places:
            node = node.setdefault(place, {})
        node[last] = value

    return _with_int8(tree, tokens)


def _with_int8(tree: dict, tokens: str) -> dict:
    def one(name: str, node):
        if not isinstance(node, dict):
            return node
        if node.keys() == {"values", "scale"}:
            return Int8(**node, tokens=tokens if name == "kernel" else "float")
        return _with_int8(node, tokens)

    return {name: one(name, node) for name, node in tree.items()}


def read_programs(folder: Path) -> tuple[dict[str, Any], dict, list[export.Exported]]:
    """The values of config.json, the weights by their path, the programs for images and texts.

    SHA256SUMS is checked where there is one, and the header of the weights before they are read.
    A program that calls out of XLA is refused, as that might run code of its maker's.

    Raises:
      UserError: a file is missing, damaged or does not fit, or a program is not for this JAX or
        this kind of device.
    """
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} is no exported folder: it lacks {', '.join(missing)}")
    check_sums(folder, NEEDED)
    facts = read_facts(folder / CONFIG)
    if facts.get("dtype") not in DTYPES or facts.get("computation") not in DTYPES[:2]:
        raise UserError(f"{folder / CONFIG} does not say in which dtype its programs compute")
    programs = [_read_program(folder / name, facts) for name in PROGRAMS]
    wanted = [_wanted(folder / name, one) for name, one in zip(PROGRAMS, programs, strict=True)]
    tensors = open_weights(folder / WEIGHTS).tensors
    found = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    for name, expected in zip(PROGRAMS, wanted, strict=True):
        if expected != found:
            odd = sorted({str(name) for name, _ in expected.items() ^ found.items()})
            raise UserError(f"{folder / WEIGHTS} does not fit {name}: {', '.join(odd[:9])}")
    return facts, {name: tensor.read() for name, tensor in tensors.items()}, programs


def _read_program(file: Path, facts: dict[str, Any]) -> export.Exported:
    try:
        program = export.deserialize(bytearray(file.read_bytes()))
        text = program.mlir_module()
    except Exception as error:  # the parser of a damaged file raises anything
        words = " ".join(str(error).split())[:200]
        raise UserError(
            f"{file} cannot be read by JAX {jax.__version__}: {type(error).__name__}: {words}\nIt "
            f"was written by JAX {facts.get('jax', 'of unknown version')}; export it again"
        ) from None
    if text.count(_CALL) != len(_ALLOWED.findall(text)) or program.ordered_effects:
        raise UserError(f"{file} calls code outside of XLA, which no encoder does; it is not run")
    platform = export.default_export_platform()
    if platform not in program.platforms:
        known = ", ".join(program.platforms)
        raise UserError(f"{file} is for {known}, and the devices here are {platform}")
    return program


def _wanted(file: Path, program: export.Exported) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and shape of each weight that a program takes."""
    try:
        (weights, *_), _ = jax.tree.unflatten(program.in_tree, program.in_avals)
        return {name: (x.dtype.name, tuple(x.shape)) for name, x in weights.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is a program, but none that ivt_jax wrote: {error}") from None


def program_encoders(programs: list[export.Exported], mesh: Mesh, *, dtype: str = "") -> Encoders:
    """Encoders that run programs on the share of each device; `dtype` as in `jitted`."""

    def everywhere(program):
        def encode(params, *inputs):
            specs = (REPLICATED, *[BATCH] * len(inputs))
            run = jax.shard_map(program.call, mesh=mesh, in_specs=specs, out_specs=BATCH)
            return run(flat(params), *inputs)

        return jitted(encode, mesh, dtype=dtype)

    image, text = map(everywhere, programs)
    return Encoders(image, text, mesh)
