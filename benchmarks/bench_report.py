"""What the benchmark found: rows and bars, as one table and as one JSON file."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import statistics
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "grain")


@dataclasses.dataclass
class Row:
    """One contestant at one job.

    Attributes:
      seconds: of a call, one for each round.
      rate, unit: how much of what a second.
      flops: a second, of matrix products; share: of the matrix rate measured in the same run.
      peak: bytes, see the head of the table; times: these seconds over those of the first row.
    """

    section: str
    job: str
    contestant: str
    seconds: list[float]
    rate: float | None = None
    unit: str = ""
    flops: float | None = None
    share: float | None = None
    peak: int | None = None
    times: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """Seconds of the median call."""
        return statistics.median(self.seconds)


@dataclasses.dataclass
class Bar:
    """A figure that was aimed at: `relation` is "<=" or ">="."""

    name: str
    value: float
    relation: str
    bar: float
    unit: str = "x"

    @property
    def passed(self) -> bool:
        """Whether the figure is on the right side of the bar."""
        return self.value <= self.bar if self.relation == "<=" else self.value >= self.bar

    def __str__(self) -> str:
        verdict = "pass" if self.passed else "MISS"
        return f"{verdict}  {self.name}: {self.value:.2f} {self.relation} {self.bar:g} {self.unit}"


def paired(one: list[float], other: list[float]) -> float:
    """The median over rounds of one / other: neighbours disturb both sides of a round alike."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def table(rows: list[Row]) -> list[str]:
    """The rows as Markdown lines."""
    head = [
        "what",
        "who",
        "a call",
        "rate",
        "TFLOP/s",
        "of matrix rate",
        "peak memory",
        "times ours",
    ]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * 2}{' ---: |' * (len(head) - 2)}"]
    for row in rows:
        cells = [
            f"{row.section}: {row.job}",
            row.contestant,
            f"{1e3 * row.median:,.0f} ms" if row.median < 10 else f"{row.median:,.1f} s",
            "" if row.rate is None else f"{row.rate:,.3g} {row.unit}",
            "" if row.flops is None else f"{row.flops / 1e12:.3g}",
            "" if row.share is None else f"{100 * row.share:.0f} %",
            "" if row.peak is None else f"{row.peak / 2**30:.2f} GiB",
            "" if row.times is None else f"{row.times:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |{f' {row.note}' if row.note else ''}")
    return lines


def machine(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Kind of machine, versions and commit; `found`: what the two sides say of their devices."""
    model = next((x for x in _lines("/proc/cpuinfo") if x.startswith("model name")), "")
    memory = next((x for x in _lines("/proc/meminfo") if x.startswith("MemTotal")), ":0 kB")
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "none"
    accelerator = {side: about.get("device", "cpu") for side, about in found.items()}
    return {
        "cpu": model.partition(":")[2].strip() or platform.processor(),
        "cores": _cores(),
        "memory_gib": round(int(memory.split()[1]) / 2**20, 1),
        "system": platform.platform(),
        "accelerator": accelerator,
        "versions": versions,
        "commit": _commit(),
    }


def write(
    folder: Path,
    name: str,
    *,
    rows: list[Row],
    bars: list[Bar],
    left_out: list[str],
    about: dict[str, Any],
) -> Path:
    """Writes <name>-<date>.json and returns where it is; an earlier one of that day is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)
    file = folder / f"{name}-{now:%Y-%m-%d}.json"
    found = {
        "name": name,
        "date": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        **about,
        "rows": [dataclasses.asdict(row) | {"median_seconds": row.median} for row in rows],
        "bars": [dataclasses.asdict(bar) | {"passed": bar.passed} for bar in bars],
        "left_out": left_out,
    }
    unfinished = file.with_suffix(".tmp")
    unfinished.write_text(json.dumps(found, indent=1) + "\n")
    unfinished.replace(file)
    return file


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _commit() -> str:
    """The commit of the checkout, with a mark where files of it were changed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
