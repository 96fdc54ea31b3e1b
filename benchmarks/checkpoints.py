"""Prints what a checkpoint costs: how long training waits for it, and what runs beside it.

`python -m benchmarks.checkpoints` saves and restores a state of the base model (166 million
parameters and as many of the optimizer) in a temporary folder. Each figure is the median.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import optax

from configs import base
from ivt_jax.model.ivt import IVTConfig
from ivt_jax.training import integrity, steps
from ivt_jax.training.checkpoint import Checkpoints
from ivt_jax.training.sharding import make_mesh
from ivt_jax.training.state import TrainState, abstract_state, create_state


def timed(function: Callable) -> tuple[float, object]:
    """Milliseconds a call takes, and what it returns."""
    began = time.perf_counter()
    result = jax.block_until_ready(function())
    return 1000 * (time.perf_counter() - began), result


def measure(preset: str, rounds: int, folder: Path) -> tuple[float, dict[str, list[float]]]:
    """GiB of the state, and milliseconds by what was done."""
    config = IVTConfig(**base.get_config(preset).model)
    optimizer = optax.sgd(0.1, momentum=0.9)
    mesh = make_mesh(data=-1, fsdp=1)
    shapes, shardings = abstract_state(config, optimizer, mesh=mesh)
    state = create_state(config, optimizer, shardings=shardings, seed=0)
    arrays = {"params": state.params, "optimizer": state.opt_state}
    integrity.fingerprints(arrays)  # compiles
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 2**30
    rows: dict[str, list[float]] = {}

    def note(name: str, function: Callable):
        elapsed, result = timed(function)
        rows.setdefault(name, []).append(elapsed)
        return result

    with Checkpoints(folder, keep=1) as checkpoints:
        for step in range(1, rounds + 1):
            state = TrainState(state.step + 1, state.params, state.opt_state)
            note("training waits for save()", lambda s=state: checkpoints.save(s, metrics={}))
            note("until it is committed, with its manifest", checkpoints.wait)
            note("  fingerprints of all arrays", lambda: integrity.fingerprints(arrays))
            where = steps.step_folder(folder, step), steps.manifest_file(folder, step)
            note("  SHA-256 manifest", lambda where=where: integrity.write_manifest(*where))
            note("restore, all verified", lambda: checkpoints.restore_newest(shapes, shardings))
    return size, rows


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="base", help="base, small or tiny (default: base)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="on the disk to be measured (default: a temporary one)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        size, rows = measure(arguments.preset, arguments.rounds, Path(folder))
    device = jax.devices()[0]
    print(
        f"state of the {arguments.preset} model, {size:.2f} GiB, on {jax.device_count()} x "
        f"{device.device_kind}; median of {arguments.rounds}"
    )
    for name, values in rows.items():
        print(f"{name:<44}{statistics.median(values):>10,.0f} ms")


if __name__ == "__main__":
    main()
