"""Two small runs, never trained, and a split of drawn people whose captions are hostile."""

import argparse
from pathlib import Path

from exporting import write_run

from ivt_jax.data import synthetic
from ivt_jax.data.builders.dataset import write_dataset
from ivt_jax.data.builders.ingest import Split

HOSTILE = ' <script>alert("1")</script> & </title>'
STEPS = 7  # the checkpoint of write_run


def write_hostile_people(folder: Path, *, identities: int) -> Path:
    """synthetic_people with val and test splits whose captions would be HTML."""
    people = {
        split: [dict(record) for record in synthetic.people_records(split, identities=count)]
        for split, count in (("val", 2), ("test", identities))
    }
    for record in (*people["val"], *people["test"]):
        record["captions"] = [caption + HOSTILE for caption in record["captions"]]
    write_dataset(
        "synthetic_people",
        {split: Split(range(len(r)), r.__getitem__) for split, r in people.items()},
        out=folder,
        vocabulary=synthetic.vocabulary(),
    )
    return folder


def write_runs(folder: Path) -> tuple[Path, Path, Path]:
    """The data and two runs on it, called ours and base."""
    data = write_hostile_people(folder / "data", identities=8)
    ours, base = write_run(folder / "ours", data), write_run(folder / "base", data, mlp_ratio=2)
    for run, last in ((ours, 14), (base, 9)):
        lines = [
            f'{{"step": {step}, "kind": "train", "loss": {last / step}, "learning_rate": 0.1, '
            f'"gradient_norm": {"null" if step == 3 else step}}}'
            for step in range(1, STEPS + 1)
        ]
        lines.append(f'{{"step": {STEPS}, "kind": "val", "R1": 12.5, "mAP": 20.0}}')
        (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return data, ours, base


def options(run: Path, **changed) -> argparse.Namespace:
    """What the command line gives without options, but for `changed`."""
    given = {"run": run, "base": None, "compare": [], "split": "test", "dataset": "", "data": ""}
    given |= {"step": None, "unmatched": "error", "replace": False}
    return argparse.Namespace(**given | changed)
