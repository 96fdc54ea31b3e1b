"""What a run wrote down of itself: where it stands, and what happened to it. Nothing is changed."""

import json
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from configs import base
from ivt_jax.errors import UserError
from ivt_jax.training.goodput import FILE as GOODPUT
from ivt_jax.training.goodput import Line, read_goodput
from ivt_jax.training.lock import FILE as LOCK
from ivt_jax.training.restore import read_config
from ivt_jax.training.setup import open_data
from ivt_jax.training.steps import ABANDONED, FOLDER, damaged_steps, saved_steps
from ivt_jax.training.watchdog import FOLDER as STALLS
from ivt_jax.validation import leaves

CAPTION_CORPORA = ("synthetic_scenes", "cc3m", "sbu", "coco", "vg")  # none has identities


@dataclass(frozen=True)
class Record:
    """A run as its folder tells it."""

    path: Path
    config: ConfigDict  # complete: fields of later releases have their defaults
    strange: list[str]  # fields of its configuration that this release does not know
    lines: list[dict]  # of metrics.jsonl
    torn: int  # lines there that are no JSON
    saved: list[int]  # steps of checkpoints
    total: int | None  # steps of the whole run; None = not known, its data is not here
    goodput: list[Line]

    @property
    def stage(self) -> str:
        """ "pretrain" or "finetune", by what it was trained on."""
        return stage_of(self.config)

    @property
    def reached(self) -> int:
        """The last step that anything tells of."""
        return max([line["step"] for line in self.lines] + self.saved, default=0)

    @property
    def finished(self) -> bool:
        """Whether the last step is saved."""
        return self.total is not None and self.total in self.saved

    @property
    def standing(self) -> str:
        """A sentence on how far it is."""
        if self.finished:
            return f"Finished: step {self.total:,} of {self.total:,} is saved."
        of = f"of {self.total:,}" if self.total else "of an unknown number (its data is not here)"
        saved = f"step {self.saved[-1]:,} is saved" if self.saved else "no checkpoint is saved yet"
        return f"Not finished: step {self.reached:,} {of} was reached, {saved}."


def read_record(run: Path) -> Record:
    """Reads a run folder; UserError if it is none or holds a damaged config.json."""
    stored = read_config(run)
    if not {"data", "training"} <= set(stored):
        raise UserError(f"{run} is no run folder: its config.json is not that of a training")
    config, strange = complete(stored)
    lines, torn = read_lines(run / "metrics.jsonl")
    return Record(
        path=run,
        config=config,
        strange=strange,
        lines=[line for line in lines if {"step", "kind"} <= line.keys()],
        torn=torn,
        saved=saved_steps(run),
        total=total_steps(config),
        goodput=read_goodput(run) if (run / GOODPUT).is_file() else [],
    )


def stage_of(config: ConfigDict) -> str:
    """ "pretrain" or "finetune", by what a configuration trains on."""
    return "pretrain" if set(config.data.mixture) <= set(CAPTION_CORPORA) else "finetune"


def complete(stored: ConfigDict) -> tuple[ConfigDict, list[str]]:
    """A stored configuration with the defaults of fields that it lacks, and what is unknown."""
    config, known, strange = base.get_config(), leaves(base.get_config()), []
    for field, value in leaves(stored).items():
        if field in known:
            config.update_from_flattened_dict({field: value})
        else:
            strange.append(field)
    return config, strange


def total_steps(config: ConfigDict) -> int | None:
    """Steps of the whole run; None where they follow from data that is not here."""
    if config.training.steps:
        return int(config.training.steps)
    try:
        entries = open_data(config, views=("sentence",)).epoch_entries
    except UserError:
        return None
    return round(config.training.epochs * max(entries // config.training.batch_size, 1))


def read_lines(file: Path) -> tuple[list[dict], int]:
    """The JSON objects of a file of lines, and how many lines are none; empty without the file."""
    found, torn = [], 0
    for text in file.read_text("utf-8", "replace").splitlines() if file.is_file() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            line = None
        if isinstance(line, dict):
            found.append(line)
        else:
            torn += 1
    return found, torn


def events(record: Record) -> list[tuple[str, str]]:
    """What happened to the run: kind and sentence, in the order of kinds; empty if nothing."""
    run, found = record.path, []
    found += _restarts(record.goodput)
    last = next((line for line in reversed(record.lines) if line.get("skipped")), None)
    if last:
        spikes = last.get("spikes") or 0
        words = f"{last['skipped']:.0f} steps were left out, {spikes:.0f} of them as spikes."
        found.append(("skipped steps", words))
    for file in sorted(run.glob("skipped-*.json"), key=_number):
        found.append(("rollback", _rollback(file)))
    for folder in sorted((run / FOLDER).glob(f"*{ABANDONED}*")):
        step = folder.name.partition(".")[0]
        found.append(("rollback", f"Checkpoint {step} was set aside: the run went back past it."))
    for name in damaged_steps(run):
        found.append(
            (
                "damaged checkpoint",
                f"Checkpoint {name.partition('.')[0]} was damaged and set aside.",
            )
        )
    for file in sorted((run / STALLS).glob("*.txt")):
        first = file.read_text("utf-8", "replace").partition("\n")[0]
        found.append(("watchdog", f"No progress, {file.stem}: {first}."))
    replaced, _ = read_lines(run / "substituted.jsonl")
    if replaced:
        reasons = sorted({str(line.get("reason", "unknown reason")) for line in replaced})
        words = f"{len(replaced):,} unreadable images were replaced ({', '.join(reasons)})."
        found.append(("bad images", words))
    if record.torn:
        found.append(("torn lines", f"{record.torn} lines of metrics.jsonl could not be read."))
    if (run / LOCK).is_file():
        words = f"{LOCK} is there: a process is training here, or was killed."
        found.append(("lock", words))
    return found


def _restarts(lines: list[Line]) -> list[tuple[str, str]]:
    found = []
    for before, line in zip(lines, lines[1:], strict=False):
        if "gap" in line.seconds:
            words = f"A new process took over at step {before.step:,} after {_time(line)}."
            found.append(("restart", words))
    return found


def _time(line: Line) -> str:
    seconds = round(line.ended - line.began)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _rollback(file: Path) -> str:
    try:
        steps = [step["step"] for step in json.loads(file.read_text("utf-8"))["steps"]]
        which = f"Steps {steps[0]:,} to {steps[-1]:,} were skipped in a row"
    except (ValueError, KeyError, IndexError, TypeError):
        which = "A row of steps was skipped"
    return f"{which}; the run went back to a checkpoint or ended ({file.name} has the samples)."


def _number(file: Path) -> tuple[int, str]:
    digits = "".join(c for c in file.stem if c.isdigit())
    return int(digits or 0), file.name
