"""Prints the time from the start of a process to its first embedding: traced, or exported.

`python -m benchmarks.encoder_start --run=runs/demo/finetune` exports the run with --to=jax and
starts processes by turns, each of which loads a model and encodes one sentence: from the run and
from the export, with an empty compilation cache and with a full one. Median, least and most
seconds, and CPU seconds of all threads.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

_CODE = """
import sys, ivt_jax
ivt_jax.load(sys.argv[1]).encode_text(["a woman in a red coat"])
"""


def start(model: Path, cache: Path) -> tuple[float, float]:
    """Wall and CPU seconds of one process."""
    kept = {
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    argv = [sys.executable, "-c", _CODE, str(model)]
    subprocess.run(argv, env=os.environ | kept, check=True, capture_output=True)
    taken = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return taken, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Prints one line for each of the four ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="runs/demo/finetune")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export = ["export", f"--run={arguments.run}", f"--out={folder / 'model'}", "--to=jax"]
        command = [sys.executable, "-m", "ivt_jax", *export]
        subprocess.run(command, cwd=Path.cwd(), check=True, stdout=subprocess.DEVNULL)
        models = {"traced": Path(arguments.run).resolve(), "exported": folder / "model"}
        ways = list(itertools.product(models, ("empty", "full")))
        taken: dict[tuple[str, str], list[tuple[float, float]]] = {way: [] for way in ways}
        for number in range(-1, arguments.rounds):
            for model, state in ways:
                cache = folder / f"cache-{model}"
                if state == "empty":
                    shutil.rmtree(cache, ignore_errors=True)
                found = start(models[model], cache)
                if number >= 0:  # the first round warms the disk
                    taken[model, state].append(found)
    for (model, state), times in taken.items():
        walls, cpus = zip(*times, strict=True)
        median, least, most = statistics.median(walls), min(walls), max(walls)
        print(
            f"{model:<8}, {state:<5} cache: {median:.2f} s ({least:.2f} to {most:.2f}), "
            f"CPU {statistics.median(cpus):.2f} s"
        )


if __name__ == "__main__":
    main()
