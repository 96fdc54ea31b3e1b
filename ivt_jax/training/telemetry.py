"""What a run tells: a line or a bar on the terminal, JSON lines and TensorBoard events."""

import json
import math
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ivt_jax.disk import replace_text
from ivt_jax.training.events import EventFile
from ivt_jax.training.files import PatientFile, outliving_a_full_disk

_SHOWN = ("loss", "learning_rate", "gradient_norm", "pairs_per_second", "tflops_per_second")
_SHOWN += ("mfu_percent", "data_wait_percent")


class Telemetry:
    """Writes the metrics of one run; a context manager.

    `metrics.jsonl` gets one object a line: step, kind ("train" or a split), then the scalars, null
    for those that are not finite.
    On resume, lines after `start_step` are cut, so no step stands there twice.
    With `quiet`, for all processes of a run but one, nothing is shown or written.
    """

    def __init__(self, workdir: Path, *, start_step: int, total_steps: int, quiet: bool = False):
        self.path = workdir / "metrics.jsonl"
        self._total, self._start = total_steps, start_step
        self._began = time.monotonic()
        self._quiet = quiet
        self._open(start_step)
        self._bar = self._task = None
        if sys.stdout.isatty() and not quiet:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(),
            )
            self._task = self._bar.add_task("training", total=total_steps, completed=start_step)

    def __enter__(self) -> "Telemetry":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_):
        if self._bar:
            self._bar.stop()
        self._close()

    def _open(self, step: int) -> None:
        if not self._quiet:
            cut_lines(self.path, last_step=step)
            self._lines = PatientFile(self.path)
            self._events = EventFile(self.path.parent / "tensorboard", first_step=step + 1)

    def _close(self) -> None:
        if not self._quiet:
            self._lines.close()
            self._events.close()

    def rewind(self, step: int) -> None:
        """The run went back to this step: later lines leave, as they do on resume."""
        self._close()
        self._open(step)

    def say(self, text: str) -> None:
        """A line on the terminal, above the bar where there is one."""
        if self._quiet:
            return
        with outliving_a_full_disk():  # where the output goes to a file
            if self._bar:
                self._bar.console.print(text, highlight=False, markup=False)
            else:
                print(text, flush=True)

    def train(self, step: int, metrics: dict[str, float]) -> None:
        """The metrics of training up to `step`."""
        self._write(step, "train", metrics)
        shown = "  ".join(
            f"{name.replace('_', ' ')} {_short(metrics[name])}"
            for name in _SHOWN
            if name in metrics
        )
        if self._bar is not None and self._task is not None:
            loss = _short(metrics.get("loss", float("nan")))
            self._bar.update(self._task, completed=step, description=f"training  loss {loss}")
        self.say(f"step {step}/{self._total}  {shown}  {self._left(step)}")

    def evaluation(self, step: int, split: str, metrics: dict[str, float]) -> None:
        """Retrieval metrics of one split at `step`, in percent."""
        self._write(step, split, metrics)
        shown = "  ".join(f"{name} {value:.2f}" for name, value in metrics.items())
        self.say(f"step {step}/{self._total}  {split}: {shown}")

    def _write(self, step: int, kind: str, metrics: dict[str, float]) -> None:
        if self._quiet:
            return
        # JSON has no word for what is not finite.
        finite = {name: x if math.isfinite(x) else None for name, x in metrics.items()}
        self._lines.write((json.dumps({"step": step, "kind": kind, **finite}) + "\n").encode())
        self._events.add_scalars({f"{kind}/{name}": x for name, x in metrics.items()}, step)

    def _left(self, step: int) -> str:
        """Time left, from the pace of this process; evaluations and saves are part of it."""
        done = step - self._start
        if done <= 0:
            return ""
        seconds = (time.monotonic() - self._began) / done * (self._total - step)
        minutes, seconds = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"left {hours}:{minutes:02}:{seconds:02}"


def read_metrics(run: str | Path) -> list[dict]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]


def cut_lines(path: Path, *, last_step: int) -> None:
    """Drops lines after `last_step` and a torn last line, replacing the file atomically."""
    if not path.exists():
        return
    text = path.read_text()
    kept = "".join(f"{line}\n" for line in text.splitlines() if _step_of(line) <= last_step)
    if kept != text:
        replace_text(path, kept)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1e-2 else f"{value:,.2f}"
