"""What a run starts from: the parameters of another, official weights, or a ViT and a BERT."""

import hashlib
from pathlib import Path

import jax

from ivt_jax.convert.assemble import assemble
from ivt_jax.convert.bert import read_bert
from ivt_jax.convert.official_files import read_official
from ivt_jax.convert.positions import resize_positions
from ivt_jax.convert.vit import read_vit
from ivt_jax.data.texts import Tokenizer
from ivt_jax.errors import UserError
from ivt_jax.model.ivt import IVTConfig
from ivt_jax.training.checkpoint import choose_step, read_config, restore_params
from ivt_jax.training.sharding import path_name
from ivt_jax.training.state import split_model


def initial_params(
    config: IVTConfig,
    *,
    tokenizer: Tokenizer,
    seed: int,
    run: str,
    step: int,
    vit: str,
    bert: str,
    strict: bool,
) -> tuple[dict | None, str]:
    """Parameters a run starts from, as `config.init` asks, and a report of what came from where.

    `run` (a run folder or an official checkpoint) gives all of them; `vit` and `bert` give, as in
    the official code, everything shared and the image MLPs, and the text embeddings and text MLPs.
    None = all random.

    Raises:
      UserError: something cannot be read or does not fit, all misfits in one message.
    """
    if run and Path(run).is_dir():
        return params_of_run(run, config, step=step, vocabulary_sha256=tokenizer.sha256)
    if run:
        source, _ = read_official(run, field="init.run")
        params, report = assemble(config, [source], strict=strict, seed=seed)
        return params, f"{report}\nits words are taken to be those of {tokenizer.path}"
    sources = [read_vit(vit)] if vit else []
    sources += [read_bert(bert, tokens=tokenizer.tokens())] if bert else []
    if not sources:
        return None, "random parameters"
    return assemble(config, sources, strict=strict, seed=seed)


def params_of_run(
    run: str | Path, config: IVTConfig, *, step: int, vocabulary_sha256: str
) -> tuple[dict, str]:
    """Parameters of another run, made to fit `config`, and a sentence on what was taken.

    The image position and type tables are interpolated to another image size or stride.

    Raises:
      UserError: no such checkpoint, another vocabulary (its word ids would mean other words), or
        parameters that differ in shape, all listed.
    """
    run = Path(run)
    step = choose_step(run, step)
    if hashlib.sha256((run / "vocab.txt").read_bytes()).hexdigest() != vocabulary_sha256:
        raise UserError(
            f"init.run: {run} was trained with another vocabulary ({run / 'vocab.txt'}); "
            "set data.vocabulary to that file"
        )
    theirs = IVTConfig(**read_config(run).model)
    _, their_shapes = split_model(theirs)
    params = restore_params(run, step, their_shapes)
    for name in ("image_positions", "image_types"):
        params[name] = resize_positions(params[name], source=theirs.grid, target=config.grid)
    _check(params, split_model(config)[1], run, heads=(theirs.heads, config.heads))
    note = f"parameters from {run}, step {step}"
    if theirs.grid != config.grid:
        note += f"; image positions and types resized from {theirs.grid} to {config.grid} patches"
    return params, note


def _check(params, shapes, run: Path, *, heads: tuple[int, int]) -> None:
    ours = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)}
    theirs = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    faults = [
        f"{name}: {theirs[name].shape} there, {leaf.shape} here"
        for name, leaf in ours.items()
        if theirs[name].shape != leaf.shape
    ]
    if heads[0] != heads[1]:  # no shape tells them
        faults.append(f"heads: {heads[0]} there, {heads[1]} here")
    if faults:
        raise UserError(f"init.run: {run} holds another architecture:\n  " + "\n  ".join(faults))
