"""Parameters from weight files: what fits is taken, what does not is listed, all of it at once."""

import dataclasses
import re
from collections.abc import Iterable, Sequence

import jax
import numpy as np

from ivt_jax.convert.files import BLOCK, FLOATS, Source, Tensor
from ivt_jax.convert.official import (
    TABLES,
    from_layout,
    image_grids,
    official_names,
    official_shapes,
)
from ivt_jax.convert.positions import guess_grid, resize_positions
from ivt_jax.errors import UserError
from ivt_jax.model.ivt import IVTConfig
from ivt_jax.training.sharding import path_name
from ivt_jax.training.state import random_params, split_model


def assemble(
    config: IVTConfig, sources: Sequence[Source], *, strict: bool, seed: int
) -> tuple[dict, str]:
    """Parameters (numpy, float32) from one or more sources, the rest random, and a report.

    Image tables of another grid are interpolated, bilinear as in the official code. The random
    part is what `create_state` draws from the same seed.

    Args:
      strict: True = any misfit is an error; False = it stays random and the report names it.

    Raises:
      UserError: all misfits of all sources in one message (strict), a source of which nothing
        fits, or values that are not finite.
    """
    wanted = official_shapes(config)
    taken: dict[str, Tensor] = {}
    report, misfits = [], []
    for source in sources:
        source, resized = _fit_tables(source, config)
        faults = _faults(source, config, wanted)
        fitting = {
            name: tensor
            for name, tensor in source.tensors.items()
            if name not in faults and wanted.get(name) == tensor.shape
        }
        if faults and (strict or not fitting):
            misfits += [source.label, *_indented(_grouped(faults))]
        taken |= fitting
        report.append(f"{source.label} gave {_names(fitting)}")
        report += _indented([*resized, *source.notes])
        if source.unused:
            report += _indented([f"left out, as in the official code: {_names(source.unused)}"])
        if faults:
            report += _indented(["does not fit (init.strict=False):", *_indented(_grouped(faults))])
    if misfits:
        if misfits[0].startswith("init."):
            misfits.append("Change config.model, or set init.strict=False to take only what fits.")
        raise UserError("\n".join(["the weights do not fit the model:", *misfits]))
    report.append(f"stayed random: {_names(wanted.keys() - taken.keys()) or 'nothing'}")
    return _fill(config, taken, seed), "\n".join(report)


def _fit_tables(source: Source, config: IVTConfig) -> tuple[Source, list[str]]:
    """Image tables interpolated to the grid of the model, when they are read."""
    tensors, faults, lines = dict(source.tensors), dict(source.faults), []
    for name in TABLES:
        table = tensors.get(name)
        if (
            table is None
            or len(table.shape) != 3
            or table.shape[0] != 1
            or table.dtype not in FLOATS
        ):
            continue
        rows, width = table.shape[1:]
        try:
            grid = guess_grid(rows, [*source.grids, *image_grids(config)])
        except ValueError:
            faults[name] = f"{rows} rows are a class token and patches of no known grid"
            continue
        if grid == config.grid or width != config.width:
            continue
        lines.append(f"{name} resized from {_by(grid)} to {_by(config.grid)} patches")

        def read(table=table, grid=grid):
            return resize_positions(table.read()[0], source=grid, target=config.grid)[None]

        tensors[name] = Tensor((1, config.image_tokens, width), "float32", read)
    return dataclasses.replace(source, tensors=tensors, faults=faults), lines


def _faults(source: Source, config: IVTConfig, wanted: dict) -> dict[str, str]:
    """Official name or property -> what does not fit."""
    faults = dict(source.faults)
    numbers = {int(match[2]) for name in source.tensors if (match := BLOCK.search(name))}
    depth = max(numbers, default=-1) + 1
    if depth != config.depth:
        faults["depth"] = f"{depth} blocks there, model.depth={config.depth} here"
    if source.heads is not None and source.heads != config.heads:
        faults["heads"] = f"{source.heads} there, model.heads={config.heads} here"
    for name, shape in wanted.items():
        tensor = source.tensors.get(name)
        beyond = (match := BLOCK.search(name)) is not None and int(match[2]) >= depth
        if name in faults or not source.owns.fullmatch(name) or beyond:
            continue  # named already, another source's, or said by the depth
        if tensor is None:
            faults[name] = "missing"
        elif tensor.shape != shape:
            faults[name] = f"{tensor.shape} there, {shape} here"
        elif tensor.dtype not in FLOATS:
            faults[name] = f"holds {tensor.dtype}, not floating-point numbers"
    for name in source.tensors.keys() - wanted.keys():
        match = BLOCK.search(name)
        if name not in faults and (match is None or int(match[2]) < config.depth):
            faults[name] = "unknown"
    return faults


def _fill(config: IVTConfig, taken: dict[str, Tensor], seed: int) -> dict:
    _, shapes = split_model(config)
    names = official_names(config)
    incomplete = {ours for name, (ours, _) in names.items() if name not in taken}

    def draw(key):
        leaves = jax.tree_util.tree_leaves_with_path(random_params(config, key))
        return {path_name(path): leaf for path, leaf in leaves if path_name(path) in incomplete}

    drawn = jax.jit(draw)(jax.random.key(seed)) if incomplete else {}
    leaves = {
        path_name(path): np.array(drawn[ours])
        if (ours := path_name(path)) in drawn
        else np.empty(leaf.shape, np.float32)
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    }
    for name, tensor in taken.items():
        ours, index = names[name]
        value = from_layout(ours, tensor.read())
        if not np.isfinite(np.asarray(value, np.float32)).all():
            raise UserError(f"the weights hold values that are not finite, in {name}")
        leaves[ours][... if index is None else index] = value
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[path_name(path)], shapes)


def _grouped(faults: dict[str, str]) -> list[str]:
    """Lines `name: sentence`, the blocks with the same fault in one."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, sentence in faults.items():
        groups.setdefault((BLOCK.sub(r"\1{}", name, count=1), sentence), []).append(name)
    return [f"{_merged(names)}: {sentence}" for (_, sentence), names in groups.items()]


def _names(names: Iterable[str]) -> str:
    """Names in few words: weight and bias together, and all blocks with the same stem."""
    groups: dict[str, set[str]] = {}
    for name in names:
        stem = re.sub(r"[./](weight|bias|kernel|scale|gamma|beta)$", "", name)
        groups.setdefault(BLOCK.sub(r"\1{}", stem, count=1), set()).add(stem)
    return ", ".join(_merged(groups[stem]) for stem in sorted(groups))


def _merged(names: Iterable[str]) -> str:
    """`blocks.0.norm1`, `blocks.1.norm1` -> `blocks.0-1.norm1`."""
    names = sorted(names)
    numbers = sorted({int(match[2]) for name in names if (match := BLOCK.search(name))})
    if len(numbers) < 2:
        return names[0]
    whole = numbers == list(range(numbers[0], numbers[-1] + 1))
    text = f"{numbers[0]}-{numbers[-1]}" if whole else ",".join(map(str, numbers))
    return BLOCK.sub(lambda match: match[1] + text, names[0], count=1)


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _by(grid: tuple[int, int]) -> str:
    return f"{grid[0]} x {grid[1]}"
