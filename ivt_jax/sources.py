"""Where a model comes from: a run, an exported folder, the hub, or official weights."""

import dataclasses
import logging
from pathlib import Path
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from configs import base
from ivt_jax.convert.assemble import assemble
from ivt_jax.convert.exported import WEIGHTS, read_exported
from ivt_jax.convert.hub import SCHEME, fetch
from ivt_jax.convert.official_files import official_run_config, read_official
from ivt_jax.data.texts import Tokenizer, load_tokenizer
from ivt_jax.errors import UserError
from ivt_jax.model.ivt import IVTConfig
from ivt_jax.model.precision import held_as
from ivt_jax.retrieval.encoding import Encoders, make_encoders
from ivt_jax.training.checkpoint import choose_step, read_config, restore_params
from ivt_jax.training.state import split_model


class Source(NamedTuple):
    """A trained model as it was stored; `params` are nested dicts of float32 arrays."""

    config: ConfigDict
    step: int
    params: dict
    tokenizer: Tokenizer


def read(path: str | Path, step: int | None, vocabulary: str | Path | None = None) -> Source:
    """Reads what `ivt_jax.load` takes, but for programs; arguments and errors as there."""
    if Path(path).is_file():
        return _read_official(Path(path), vocabulary)
    folder = fetch(str(path)) if str(path).startswith(SCHEME) else Path(path)
    part = _read_exported if (folder / WEIGHTS).is_file() else read_run
    return Source(*part(folder, step), load_tokenizer(folder / "vocab.txt"))


def held(source: Source, dtype: str) -> Source:
    """The source as an encoder computes with it: in one of DTYPES, "" = the run's own."""
    config = source.config.copy_and_resolve_references()
    if dtype in ("float32", "bfloat16"):
        config.model.dtype = dtype
    return source._replace(
        config=config, params=held_as(source.params, dtype or config.model.dtype)
    )


def encoders_of(config: ConfigDict, mesh: jax.sharding.Mesh, *, dtype: str) -> Encoders:
    """The encoders of a source `held` in a dtype, to be traced at their first call."""
    graphdef, _ = split_model(IVTConfig(**config.model))
    return make_encoders(graphdef, mesh, dtype=dtype or config.model.dtype)


def read_run(run: Path, step: int | None) -> tuple[ConfigDict, int, dict]:
    """Configuration, step and parameters of a run; step and errors as for `ivt_jax.load`."""
    config = read_config(run)
    step = choose_step(run, -1 if step is None else step)
    _, shapes = split_model(IVTConfig(**config.model))
    return config, step, restore_params(run, step, shapes)


def _read_exported(folder: Path, step: int | None) -> tuple[ConfigDict, int, dict]:
    facts, sizes, params = read_exported(folder)
    if step not in (None, facts["step"]):
        raise UserError(f"{folder} holds step {facts['step']} and no other, so not {step}")
    config = base.get_config()
    config.model.update(dataclasses.asdict(sizes))
    config.data.update(text_length=facts["text_length"], separator=facts["separator"])
    return config, facts["step"], params


def _read_official(file: Path, vocabulary: str | Path | None) -> Source:
    source, stated = read_official(file, field="official weights")
    config = official_run_config(source, stated)
    tokenizer = load_tokenizer(vocabulary or file.with_name("vocab.txt"))
    params, report = assemble(IVTConfig(**config.model), [source], strict=True, seed=0)
    logging.info("%s", report)
    return Source(config, 0, params, tokenizer)
