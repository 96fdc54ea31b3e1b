"""Where the time of a fine-tuning step goes on a CPU, ours and PyTorch's.

`python -m benchmarks.step_profile --depth=12 --pairs=4 --dtype=bfloat16` runs the steps of
`benchmarks.steps` under the profilers of JAX and PyTorch and prints the kinds of operation that
take most, in milliseconds of both cores together for one step. "ynn_fusion" and "dot" are XLA's
products, "mm", "addmm" and "bmm" PyTorch's.
"""

import argparse
import collections
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import torch

from benchmarks import steps

_STEPS = 3  # of which the mean is printed
_KINDS = 12
# What contains or waits for other operations, and the ends of those.
_OUTER = ("ThunkExecutor", "SlinkyThreadPool", "end:", "while", "call", "conditional", "Threadpool")


def main() -> None:
    """Prints one table a side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", default="short", choices=sorted(steps.CASES))
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    options = parser.parse_args()
    batch = steps.make_batch(options.pairs)
    print(f"{options.pairs} pairs, {options.depth} blocks, {options.dtype}")
    _print("ours", _of_jax(steps.make_ours(options.case, batch, options)))
    _print("PyTorch, the official way", _of_torch(steps.make_theirs("pytorch", batch, options)))


def _of_jax(step: Callable[[], None]) -> dict[str, float]:
    step()
    step()
    found = collections.defaultdict(float)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(_STEPS):
                step()
        (file,) = Path(folder).rglob("*.xplane.pb")
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            for line in plane.lines:
                if "XLA" in line.name:  # the threads that compute
                    for event in line.events:
                        if not event.name.startswith(_OUTER):
                            found[event.name.split(".")[0]] += event.duration_ns / 1e6 / _STEPS
    return found


def _of_torch(step: Callable[[], None]) -> dict[str, float]:
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(_STEPS):
            step()
    # PyTorch times the thread that waits for all others, so each core counts.
    return {
        event.key.removeprefix("aten::"): event.self_cpu_time_total
        / 1e3
        / _STEPS
        * torch.get_num_threads()
        for event in profile.key_averages()
    }


def _print(name: str, found: dict[str, float]) -> None:
    total = sum(found.values())
    print(f"\n| {name} | ms of all cores | share |\n| --- | ---: | ---: |")
    for kind, time in sorted(found.items(), key=lambda pair: -pair[1])[:_KINDS]:
        print(f"| {kind} | {time:,.0f} | {time / total:.0%} |")
    print(f"| all | {total:,.0f} | |")


if __name__ == "__main__":
    main()
