"""`python -m ivt_jax demo`: the whole way on drawn people, from nothing to a scored search.

Runs the same commands a user would, then puts the four models side by side.
"""

import argparse
import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ivt_jax.errors import UserError

_PRETRAIN = ("pretrain.main", "configs/demo.py:pretrain", "pretrain", "")
_FINETUNE = ("finetune.main", "configs/demo.py:finetune", "finetune", "pretrain")
_SCRATCH = ("finetune.main", "configs/demo.py:finetune", "scratch", "")


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ivt_jax demo", description=__doc__)
    parser.add_argument("--data", default="data", help="folder of datasets (default: data)")
    parser.add_argument("--runs", default="runs/demo", help="folder of runs (default: runs/demo)")
    parser.add_argument("--seed", type=int, default=1234, help="of training (default: 1234)")
    arguments = parser.parse_args(argv)
    if not Path("configs/demo.py").is_file():
        raise UserError("run this in the folder that holds configs/, pretrain/ and finetune/")
    began = time.monotonic()
    for module, config, name, start in (_PRETRAIN, _FINETUNE, _SCRATCH):
        options = [f"--config={config}", f"--workdir={arguments.runs}/{name}"]
        options += [f"--config.data.directory={arguments.data}", f"--config.seed={arguments.seed}"]
        options += [f"--config.init.run={arguments.runs}/{start}"] if start else []
        _call(module, *options)
    _compare(Path(arguments.runs), arguments.data)
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    print(f"the demo took {minutes} min {seconds} s")
    return 0


def _call(module: str, *arguments: str) -> None:
    """Runs `python -m module ...`, shown as a user would type it."""
    print(f"\n$ python -m {module} {' '.join(arguments)}", flush=True)
    process = subprocess.Popen([sys.executable, "-m", module, *arguments])
    previous = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    while True:
        try:
            code = process.wait()
            break
        except KeyboardInterrupt:
            continue  # the command got it too, and saves before it leaves
    signal.signal(signal.SIGTERM, previous)
    if code:
        raise UserError(
            f"python -m {module} ended with exit code {code}; its message is above",
            exit_code=code if code > 0 else 1,
        )


def _compare(runs: Path, directory: str) -> None:
    """Scores random, pretrained, scratch and fine-tuned weights on the test people."""
    import jax

    from ivt_jax.data.synthetic import contact_sheet
    from ivt_jax.evaluate import evaluate, print_table, spread_queries, strip_rows, summary
    from ivt_jax.inference import load
    from ivt_jax.model.ivt import IVTConfig
    from ivt_jax.retrieval.figures import ranking_strip
    from ivt_jax.training.state import random_params

    tuned = load(runs / "finetune")
    config = IVTConfig(**tuned.config.model)
    models = {
        "random weights": dataclasses.replace(
            tuned, step=0, params=random_params(config, jax.random.key(tuned.config.seed))
        ),
        "pretrained only": load(runs / "pretrain"),
        "fine-tuned only": load(runs / "scratch"),
        "both stages": tuned,
    }
    results = [
        evaluate(model, name=name, directory=directory, dataset="synthetic_people", split="test")
        for name, model in models.items()
    ]
    facts = [summary(result, model=result.name) for result in results]
    print_table(
        results,
        title=f"\nsynthetic_people test: {facts[0]['queries']} captions, {facts[0]['gallery']} "
        f"photos of {facts[0]['identities']} people never seen in training (percent)",
    )
    folder = runs / "results"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(facts, indent=2) + "\n")
    contact_sheet().save(folder / "data.png")
    shown = [results[1], results[3]]
    rows = strip_rows(shown, spread_queries(shown[0].encoded, 4), k=8)
    ranking_strip(rows, k=8, title="drawn people, test split").save(folder / "ranking.png")
    _val_chart(runs).finish("light", scale=2).save(folder / "training.png")
    print(f"wrote {folder}/results.json, data.png, ranking.png and training.png")
    print("next: the same steps on your data, see README.md")


def _val_chart(runs: Path):
    """R1 on the split that chooses the best step, with pretraining and without: a Canvas."""
    from ivt_jax.reporting.sheet import MARGIN, WIDTH, begin, end, line_chart
    from ivt_jax.training.telemetry import read_metrics

    series = {}
    for label, name in (("with pretraining", "finetune"), ("without pretraining", "scratch")):
        lines = [line for line in read_metrics(runs / name) if line["kind"] == "val"]
        series[label] = ([line["step"] for line in lines], [line["R1"] for line in lines])
    canvas, top = begin("R1 on val people")
    box = (MARGIN, top, WIDTH - 2 * MARGIN, 330)
    line_chart(canvas, box, series, title="percent", x_label="step of fine-tuning")
    return end(canvas, top + 344, "Each line is one run; val chooses the best step.")
