"""One table of how fast everything is, against PyTorch in the same run: `make bench`.

`python -m benchmarks.bench` times training steps, encoding, ranking, masking, the input pipeline
and the start of a run; contestants take turns, each in a process of its own, and every figure is
the median of the rounds. It prints a table and the bars that were aimed at, and writes both with
every single time to results/<name>-<date>.json. On a GPU the same command times GPU jobs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import bench_report as report
from benchmarks import bench_sections as sections
from benchmarks.bench_race import Bench
from benchmarks.bench_workers import Worker, WorkerError
from configs.base import PRESETS

SECTIONS = {
    "matrix": sections.matrix,
    "plain": sections.plain,
    "step": sections.step,
    "masking": sections.masking,
    "pretrain": sections.pretrain,
    "encode": sections.encode,
    "ranking": sections.ranking,
    "fits": sections.fits,
    "input": sections.pipeline,
    "start": sections.start,
}
CPU_LEAVES_OUT = {"pretrain": "the plain pair stands for it", "fits": "a question to a GPU"}


def main(argv: list[str]) -> int:
    """Runs the sections that were asked for; 0 when every one of them gave a result."""
    arguments = _arguments(argv)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        found = _devices(Path(folder))
        gpu = found["ours"].get("platform") == "gpu"
        if gpu and found["torch"]["device"] == "cpu":
            sys.exit("JAX has a GPU here and PyTorch has none: install a PyTorch with CUDA")
        bench = Bench(
            Path(folder),
            model=arguments.model,
            sizes=PRESETS[arguments.model],
            rounds=arguments.rounds or (3 if arguments.quick else 7),
            rows=arguments.batch or _default_batch(arguments, gpu=gpu),
            dtypes=arguments.dtypes or (["bfloat16"] if gpu else ["float32", "bfloat16"]),
            gpu=gpu,
            quick=arguments.quick,
            compiled=gpu or arguments.torch_compile,
        )
        names = arguments.sections or [n for n in SECTIONS if gpu or n not in CPU_LEAVES_OUT]
        rest = {
            n: "not asked for" if gpu else CPU_LEAVES_OUT.get(n, "not asked for") for n in SECTIONS
        }
        left_out = [f"{n}: {why}" for n, why in rest.items() if n not in names]
        left_out += [] if bench.compiled else ["torch.compile: add --torch_compile"]
        failed = _run(bench, names)
    about = {
        "machine": report.machine(found),
        "arguments": vars(arguments) | {"out": str(arguments.out)},
        "rounds": bench.rounds,
        "seconds": round(time.monotonic() - began),
    }
    _print(bench, about, failed + left_out)
    file = report.write(
        arguments.out,
        arguments.name or arguments.model,
        rows=bench.found,
        bars=bench.bars,
        left_out=failed + left_out,
        about=about,
    )
    print(f"{time.monotonic() - began:.0f} s; everything is in {file}")
    return 1 if failed else 0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.bench", description=__doc__)
    parser.add_argument("--model", choices=PRESETS, help="default: base, with --quick tiny")
    parser.add_argument("--batch", type=int, help="pairs of the plain jobs; default 8, GPU 256")
    parser.add_argument("--rounds", type=int, help="default 7, with --quick 3")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, help="default: all")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"))
    parser.add_argument("--torch_compile", action="store_true", help="always so on a GPU")
    parser.add_argument("--quick", action="store_true", help="small and rough: a minute or two")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder to write to")
    parser.add_argument("--name", help="of the file; default: the model")
    arguments = parser.parse_args(argv)
    arguments.model = arguments.model or ("tiny" if arguments.quick else "base")
    return arguments


def _default_batch(arguments: argparse.Namespace, *, gpu: bool) -> int:
    return 256 if gpu else 4 if arguments.quick else 8


def _devices(folder: Path) -> dict[str, dict]:
    """What both sides compute on."""
    found = {}
    for side in ("ours", "torch"):
        with Worker(side, folder / f"{side}.log") as worker:
            found[side] = worker.ask(do="machine")
    return found


def _run(bench: Bench, names: list[str]) -> list[str]:
    """Runs each section; returns what failed, in words."""
    failed, began = [], time.monotonic()
    expected = {name: sections.expected(bench, name) for name in names}
    for number, name in enumerate(names):
        spent, rest = sum([expected[n] for n in names[:number]]), names[number:]
        pace = (time.monotonic() - began) / spent if spent else 1.0
        left = pace * sum(expected[n] for n in rest)
        bench.say(f"{name} ({number + 1} of {len(names)}); left: about {left / 60:.0f} min")
        try:
            SECTIONS[name](bench)
        except (WorkerError, RuntimeError, OSError) as error:
            failed.append(f"{name} failed: {error}")
            bench.say(failed[-1])
    return failed


def _print(bench: Bench, about: dict, left_out: list[str]) -> None:
    machine = about["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
    print(f"\n{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; ", end="")
    print(f"accelerator: {machine['accelerator']}\n{versions}; commit {machine['commit']}")
    memory = "device memory" if bench.gpu else "memory of the process"
    print(f"model {bench.model}; medians of {bench.rounds}; peak memory: {memory}\n")
    print(*report.table(bench.found), sep="\n")
    print(*(f"\n{bar}" for bar in bench.bars), sep="")
    print(*(f"left out: {what}" for what in left_out), sep="\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
