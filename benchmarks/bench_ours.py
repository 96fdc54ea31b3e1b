"""This project's side of the benchmark: what a run computes, on the weights and batch of a case."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from benchmarks.bench_case import plain_pairs, read_batch
from configs import cuhk_pedes
from ivt_jax.convert.exported import WEIGHTS, read_weights
from ivt_jax.inference import load
from ivt_jax.model.ivt import IVTConfig
from ivt_jax.retrieval.encoding import make_encoders
from ivt_jax.training.compilation_cache import use_compilation_cache
from ivt_jax.training.program import make_program
from ivt_jax.training.sharding import BATCH, REPLICATED, make_mesh, to_global
from ivt_jax.training.state import create_state, split_model
from pretrain.objective import make_objective


def run_config(folder: Path, spec: dict[str, Any]) -> ConfigDict:
    """The recommended fine-tuning on CUHK-PEDES with the model of the case.

    spec: "dtype"; and if need be "config", dotted fields that differ, and "rows" of the batch.
    """
    facts = json.loads((folder / "config.json").read_text())
    config = cuhk_pedes.get_config()
    config.model.update({name: facts[name] for name in facts if name in config.model})
    config.model.update(image_size=tuple(facts["image_size"]), layers="unroll")
    config.model.dtype = spec["dtype"]
    config.update_from_flattened_dict(spec.get("config", {}))
    return config


def functions(folder: Path, spec: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Everything that is timed, by name; each call returns when the device is done."""
    use_compilation_cache()
    config = run_config(folder, spec)
    mesh = make_mesh(data=-1, fsdp=1)
    params = read_weights(folder / WEIGHTS, IVTConfig(**{**config.model, "dtype": "float32"}))
    batch = read_batch(folder, rows=spec.get("rows", 0))
    encoders = make_encoders(split_model(IVTConfig(**config.model))[0], mesh)
    held: dict[str, Any] = {}

    def encoded(which: str):
        if not held:
            pairs = plain_pairs(batch)
            held.update(jax.device_put(pairs, NamedSharding(mesh, BATCH)))
            held["params"] = jax.device_put(params, NamedSharding(mesh, REPLICATED))
        with jax.set_mesh(mesh):
            if which == "images":
                found = encoders.image(held["params"], held["images"])
            else:
                found = encoders.text(held["params"], held["token_ids"], held["token_mask"])
        return {which: jax.block_until_ready(found)}

    return {
        "images": lambda: encoded("images"),
        "captions": lambda: encoded("captions"),
        "step": _step(config, mesh, params, batch),
        "encode": _encode_files(folder, spec["dtype"]),
    }


def _step(config: ConfigDict, mesh, params: dict, batch: dict[str, np.ndarray]) -> Callable:
    """The training step of a run, from a batch on the host to new parameters."""
    rows, views = batch["images"].shape[:2]
    if config.objective.levels == "sentence":
        views, batch = 1, {**batch, **{n: x[:, -1:] for n, x in batch.items() if x.ndim > 1}}
    for name in ("token_ids", "token_mask"):
        batch = {**batch, name: batch[name][..., : config.data.text_length]}
    config.training.batch_size = rows
    held: dict[str, Any] = {}

    def begin():
        names = ("word", "phrase", "sentence")[-views:]
        steps = {"total_steps": 1_000_000, "epoch_steps": 2000}
        program = make_program(
            config, mesh=mesh, make_objective=make_objective, views=names, **steps
        )
        with jax.set_mesh(mesh):
            held["state"] = create_state(
                program.model,
                program.optimizer,
                shardings=program.shardings,
                seed=0,
                params=params,
            )
        held["program"] = program

    def step():
        if not held:
            begin()
        with jax.set_mesh(mesh):
            given = to_global(mesh, batch)
            held["state"], metrics = held["program"].step(held["state"], given, jax.random.key(0))
        return {"loss": jax.block_until_ready(metrics["loss"]), "params": held["state"].params}

    return step


def _encode_files(folder: Path, dtype: str) -> Callable:
    """A test set from files: each photo and each caption once."""
    split = json.loads((folder / "captions.json").read_text())
    photos = [folder / f"{number}.jpg" for number in dict.fromkeys(split["photos"])]
    held: dict[str, Any] = {}

    def encode():
        if not held:
            held["model"] = _retriever(folder, dtype)
        model = held["model"]
        return {
            "images": model.encode_image(photos),
            "captions": model.encode_text(split["captions"]),
        }

    return encode


def _retriever(folder: Path, dtype: str):
    """The exported model as `ivt_jax.load` reads it, computing in another dtype."""
    model = load(folder)
    sizes = IVTConfig(**{**model.config.model, "dtype": dtype, "layers": "unroll"})
    encoders = make_encoders(split_model(sizes)[0], model.encoders.mesh)
    return dataclasses.replace(model, encoders=encoders)


def matrix_rate(dtype: str, size: int) -> Callable[[], float]:
    """A function that multiplies two square matrices; its result is the FLOPs of one call."""
    # Random values: zeros cost less power, so a product of them runs too fast.
    keys = jax.random.split(jax.random.key(0))
    left, right = (jax.random.normal(key, (size, size), jnp.dtype(dtype)) for key in keys)

    # bfloat16 products with float32 results take the fastest path of every backend.
    product = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32))

    def run() -> float:
        jax.block_until_ready(product(left, right))
        return 2.0 * size**3

    return run


def machine() -> dict[str, Any]:
    """Versions and the device, for the report."""
    devices = jax.devices()
    names = {"jax": jax.__version__, "device": devices[0].device_kind}
    return {**names, "devices": len(devices), "platform": devices[0].platform}


def peak_memory() -> int | None:
    """Bytes allocated on the accelerator at most; None on a CPU."""
    found = jax.devices()[0].memory_stats() or {}
    return found.get("peak_bytes_in_use")


def release() -> None:
    """JAX keeps its memory; it takes only what it needs (see the worker's environment)."""
