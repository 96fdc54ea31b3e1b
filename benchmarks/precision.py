"""Prints what float32, bfloat16 and int8 encoders cost and lose: scores, rates, memory.

`python -m benchmarks.precision --run=runs/demo/finetune` scores a run on its test split in every
dtype and then times them by turns, the median of several rounds. `--preset=base` times untrained
weights of that size instead, where scores mean nothing. "same first" is the share of captions with
the same first photo as in float32; memory is that of the weights, and of what the compiled image
encoder needs besides.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

import ivt_jax
from configs import base
from ivt_jax.aot import flat
from ivt_jax.dtypes import DTYPES
from ivt_jax.evaluate import Evaluation, evaluate
from ivt_jax.model.ivt import IVTConfig
from ivt_jax.retrieval.encoding import Encoders
from ivt_jax.sources import Source, encoders_of, held
from ivt_jax.training.sharding import make_mesh
from ivt_jax.training.state import random_params


@dataclasses.dataclass(frozen=True)
class Case:
    """A model in one dtype, ready to be timed."""

    dtype: str
    params: dict
    encoders: Encoders
    scores: Evaluation | None


def of_run(run: str, data: str, split: str) -> tuple[list[Case], tuple[int, int], int]:
    """A run in every dtype, scored."""
    cases = []
    for dtype in DTYPES:
        model = ivt_jax.load(run, dtype=dtype)
        config = model.config
        dataset, folder = config.evaluation.dataset, data or config.data.directory
        scores = evaluate(model, name=dtype, directory=folder, dataset=dataset, split=split)
        cases.append(Case(dtype, model.params, model.encoders, scores))
    return cases, tuple(model.config.model.image_size), model.config.data.text_length


def of_preset(preset: str, layers: str) -> tuple[list[Case], tuple[int, int], int]:
    """Untrained weights in every dtype."""
    config = base.get_config(preset)
    config.model.update(dtype="float32", layers=layers)
    params = random_params(IVTConfig(**config.model), jax.random.key(0))
    source = Source(config, 0, params, None)
    mesh = make_mesh(data=-1, fsdp=1)
    cases = []
    for dtype in DTYPES:
        one = held(source, dtype)
        cases.append(Case(dtype, one.params, encoders_of(one.config, mesh, dtype=dtype), None))
    return cases, tuple(config.model.image_size), 32


def seconds(calls: list[Callable], *, rounds: int) -> list[float]:
    """The median time of each call, all of them taking turns."""
    for call in calls:
        jax.block_until_ready(call())
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, times in zip(calls, taken, strict=True):
            began = time.perf_counter()
            jax.block_until_ready(call())
            times.append(time.perf_counter() - began)
    return [statistics.median(times) for times in taken]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="runs/demo/finetune")
    parser.add_argument("--data", default="", help="folder of datasets (default: the run's)")
    parser.add_argument("--split", default="test")
    parser.add_argument("--preset", choices=tuple(base.PRESETS), help="untrained, instead of a run")
    parser.add_argument("--layers", choices=("scan", "unroll"), default="scan")
    parser.add_argument("--images", type=int, default=64, help="in a batch; as many captions")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.preset:
        cases, size, length = of_preset(arguments.preset, arguments.layers)
    else:
        cases, size, length = of_run(arguments.run, arguments.data, arguments.split)
    rng, rows = np.random.default_rng(0), arguments.images
    images = jax.device_put(rng.integers(0, 256, (rows, *size, 3), np.uint8))
    texts = [
        (jax.device_put(rng.integers(5, 500, (n, length), np.int32)), np.ones((n, length), bool))
        for n in (rows, 1)
    ]
    encode = [[lambda c=c: c.encoders.image(c.params, images) for c in cases]]
    encode += [[lambda c=c, t=t: c.encoders.text(c.params, *t) for c in cases] for t in texts]
    taken = [seconds(calls, rounds=arguments.rounds) for calls in encode]
    print_table(cases, taken, images, length)


def print_table(cases: list[Case], taken: list[list[float]], images, length: int) -> None:
    """One row a dtype; `taken` are seconds for a batch of images, one of captions, one caption."""
    table = Table(
        title=f"{jax.device_count()} x {jax.devices()[0].device_kind}, {len(images)} rows"
    )
    columns = ("dtype", "R1", "mAP", "same first", "images/s", f"captions/s ({length} tokens)")
    for column in (*columns, "one caption, ms", "weights, MiB", "working memory, MiB"):
        table.add_column(column, justify="right")
    for number, case in enumerate(cases):
        scores = ["", "", ""]
        if case.scores is not None:
            same = first_photos(case) == first_photos(cases[0])
            values = [case.scores.metrics["R1"], case.scores.metrics["mAP"], 100 * same.mean()]
            scores = [f"{value:.2f}" for value in values]
        photo, caption, alone = (times[number] for times in taken)
        program = case.encoders.image.lower(case.params, images).compile()
        held_bytes = sum(leaf.nbytes for leaf in flat(case.params).values())
        working = program.memory_analysis().temp_size_in_bytes
        rates = [f"{len(images) / photo:.1f}", f"{len(images) / caption:.1f}", f"{1e3 * alone:.2f}"]
        memory = [f"{size / 2**20:.1f}" for size in (held_bytes, working)]
        table.add_row(case.dtype, *scores, *rates, *memory)
    Console(width=140).print(table)


def first_photos(case: Case) -> np.ndarray:
    """The row of the best photo of each caption."""
    assert case.scores is not None
    encoded = case.scores.encoded
    return (encoded.text_embeddings @ encoded.image_embeddings.T).argmax(axis=1)


if __name__ == "__main__":
    main()
