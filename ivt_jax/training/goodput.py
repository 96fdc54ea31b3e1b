"""Where the time of a run goes, over all its processes: one JSON object a line in goodput.jsonl.

A line stands for the time between two moments (seconds since 1970), shared out among buckets, and
tells the step that the run had reached at the end. Lines of one process follow each other without
a gap, so nothing is counted twice or forgotten; the time between processes is a bucket, too.
"""

import contextlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ivt_jax.training.files import PatientFile

FILE = "goodput.jsonl"
BUCKETS = {
    "start": "Python and its imports",
    "prepare": "data, model and optimizer made ready",
    "restore": "reading a checkpoint",
    "compile": "the first step of a process",
    "data": "waiting for a batch with nothing to compute",
    "step": "steps that counted",
    "evaluate": "retrieval scores",
    "save": "the part of a save that the run waits for",
    "wasted": "steps done again after a crash or a rollback",
    "gap": "from the last line of a process to the start of the next",
    "other": "going back to a checkpoint, besides reading it",
}
_PROGRESS = ("data", "step", "evaluate", "save")  # what is wasted when the run goes back


class Goodput:
    """Writes the file of one process; `quiet` for all processes but one of a run.

    Args:
      began: when this process started, by the clock; None asks the system.
      clock: seconds since 1970.

    Attributes:
      total: seconds of each bucket in this process.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        quiet: bool = False,
        began: float | None = None,
        clock: Callable[[], float] = time.time,
    ):
        self._path, self._quiet = workdir / FILE, quiet
        self._file: PatientFile | None = None
        self._clock = clock
        self._from = process_start() if began is None else began
        self._seconds: dict[str, float] = defaultdict(float)
        self.total: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def span(self, bucket: str | Callable[[], str]) -> Iterator[None]:
        """Counts the time inside as one bucket, asked for at the end; spans do not nest."""
        began = self._clock()
        try:
            yield
        finally:
            seconds = self._clock() - began
            self._add(bucket if isinstance(bucket, str) else bucket(), seconds)

    def rest(self, bucket: str) -> None:
        """Counts as one bucket what was outside all spans since the last line."""
        self._add(bucket, self._clock() - self._from - sum(self._seconds.values()))

    def _add(self, bucket: str, seconds: float) -> None:
        self._seconds[bucket] += max(seconds, 0.0)  # clocks may be set back
        self.total[bucket] += max(seconds, 0.0)

    def mark(self, step: int, *, rest: str = "step") -> None:
        """Writes a line up to now; the time outside all spans goes to the bucket `rest`."""
        self.rest(rest)
        now = self._from + sum(self._seconds.values())
        line = {"step": step, "from": self._from, "to": now, "seconds": dict(self._seconds)}
        self._from, self._seconds = now, defaultdict(float)
        if self._quiet:
            return
        if self._file is None:
            torn = self._path.exists() and not _ends_a_line(self._path)
            self._file = PatientFile(self._path)
            self._file.write(b"\n" * torn)
        self._file.write(f"{json.dumps(line)}\n".encode())


class Line(NamedTuple):
    """One line of the file, or a gap between two processes."""

    step: int  # reached at the end
    began: float
    ended: float
    seconds: dict[str, float]
    process: int  # number of the process among those of the run


def read_goodput(run: Path) -> list[Line]:
    """The lines of a run with gaps and wasted time; torn ones are left out.

    The buckets of all lines sum up to the time from the first to the last moment.
    """
    lines: list[Line] = []
    steps: list[int] = []  # before each line; lowered where the run went back
    process = 0
    for text in (Path(run) / FILE).read_text().splitlines():
        try:
            found = json.loads(text)
        except json.JSONDecodeError:
            continue
        if not lines or found["from"] > lines[-1].ended + 1e-6:
            process += 1
        before = lines[-1].step if lines else 0
        if lines and process != lines[-1].process:
            gap = found["from"] - lines[-1].ended
            steps.append(before)
            lines.append(Line(before, lines[-1].ended, found["from"], {"gap": gap}, process))
        step = found["step"]
        if step < before:
            lines = [_cut(line, first, step) for line, first in zip(lines, steps, strict=True)]
            steps = [min(first, step) for first in steps]
            before = step
        steps.append(before)
        lines.append(Line(step, found["from"], found["to"], found["seconds"], process))
    return lines


def totals(lines: list[Line]) -> dict[str, float]:
    """Seconds of every bucket."""
    found = dict.fromkeys(BUCKETS, 0.0)
    for line in lines:
        for bucket, seconds in line.seconds.items():
            found[bucket] += seconds
    return found


def process_start() -> float:
    """When this process started, in seconds since 1970; now, where the system does not tell."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return time.time()
    return time.time() - max(age, 0.0)


def _cut(line: Line, first: int, step: int) -> Line:
    """The line, when the run went back to `step`: its share of later steps is wasted."""
    if line.step <= step:
        return line
    share = (line.step - max(first, step)) / (line.step - first) if line.step > first else 1.0
    seconds = dict(line.seconds)
    lost = {bucket: share * seconds[bucket] for bucket in _PROGRESS if bucket in seconds}
    for bucket, wasted in lost.items():
        seconds[bucket] -= wasted
    seconds["wasted"] = seconds.get("wasted", 0.0) + sum(lost.values())
    return line._replace(step=step, seconds=seconds)


def _ends_a_line(file: Path) -> bool:
    with file.open("rb") as content:
        content.seek(max(file.stat().st_size - 1, 0))
        return content.read() in (b"\n", b"")
