"""A race: contestants in their own processes take turns at the same jobs, round after round."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any

from benchmarks.bench_report import Bar, Row, paired
from benchmarks.bench_workers import Worker

_NOT_SENT = ("command", "function", "flops")  # what of a spec is for this side alone
_SHORTEST = 0.3  # seconds of one timing; quicker calls are repeated


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A side, and what it is told to be; the first one of a race is what others are measured by.

    spec: what `functions` of the side takes; "command" where it is not a case, "function" where
    it is not the job's, "flops" where they differ from the job's.
    """

    name: str
    side: str  # "ours" | "torch"
    spec: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Job:
    """A function of a worker, and what a call of it is worth."""

    name: str  # of the function
    label: str
    amount: float  # of `unit`
    unit: str
    flops: float = 0.0  # of matrix products, where every contestant does the same


@dataclasses.dataclass
class Bench:
    """The benchmark so far: what is measured, and what was found.

    Attributes:
      rows: pairs of the plain jobs.
      rates: fastest matrix rate of each dtype, FLOP/s, once the section `matrix` has run.
    """

    folder: Path
    model: str
    sizes: dict[str, Any]
    rounds: int
    rows: int
    dtypes: list[str]
    gpu: bool
    quick: bool
    compiled: bool
    rates: dict[str, float] = dataclasses.field(default_factory=dict)
    found: list[Row] = dataclasses.field(default_factory=list)
    bars: list[Bar] = dataclasses.field(default_factory=list)
    began: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def case(self) -> Path:
        """The weights, batch and test set of all races; written when first asked for."""
        folder = self.folder / "case"
        if not folder.exists():
            self.say("drawing people and weights")
            given = {"model": self.sizes, "batch": min(self.rows, 64), "photos": self.photos}
            with Worker("ours", self.folder / "case.log") as worker:
                worker.ask(do="write", folder=str(folder), **given)
        return folder

    @property
    def photos(self) -> int:
        """Of the small test set."""
        return 512 if self.gpu else 4 if self.quick else 16

    @property
    def step_rows(self) -> int:
        """Pairs of a fine-tuning step."""
        return self.rows // 4 if self.gpu else max(self.rows // 2, 4)

    def say(self, text: str) -> None:
        """A line of progress."""
        print(f"[{time.monotonic() - self.began:5.0f} s] {text}", flush=True)

    def row(self, section: str, job: str, contestant: str) -> Row | None:
        """A row that was found."""
        names = (section, job, contestant)
        rows = (r for r in self.found if (r.section, r.job, r.contestant) == names)
        return next(rows, None)

    def bar(self, name: str, value: float, relation: str, bar: float, unit: str = "x") -> None:
        """Notes a figure that was aimed at."""
        self.bars.append(Bar(name, value, relation, bar, unit))

    def race(self, section: str, contestants: list[Contestant], jobs: list[Job]) -> None:
        """Times every job of every contestant and adds a row for each."""
        with contextlib.ExitStack() as stack:
            workers = {}
            for number, each in enumerate(contestants):
                log = self.folder / f"{section.replace(' ', '-')}-{number}.log"
                workers[each.name] = stack.enter_context(Worker(each.side, log))
                command = each.spec.get("command", "case")
                given = {k: v for k, v in each.spec.items() if k not in _NOT_SENT}
                if command == "case":
                    given = {"folder": str(self.case), "spec": given}
                workers[each.name].send(do=command, **given)
            for worker in workers.values():
                worker.answer()
            for job in jobs:
                self._job(section, workers, contestants, job)

    def _job(self, section: str, workers: dict[str, Worker], contestants, job: Job) -> None:
        functions = {c.name: c.spec.get("function", job.name) for c in contestants}
        for name, worker in workers.items():
            worker.send(do="run", name=functions[name])  # compiles
            if self.gpu:
                worker.answer()  # two at once might not fit
        warm = 0.0
        for name, worker in workers.items():
            if not self.gpu:
                worker.answer()
            warm = max(warm, worker.ask(do="run", name=functions[name])["seconds"])
        times = max(1, round(_SHORTEST / warm))
        whole = self.rounds * times * warm * len(workers)
        self.say(f"{section}: {job.label}, {self.rounds} rounds, at most {whole:.0f} s")
        answers: dict[str, list[dict]] = {name: [] for name in workers}
        order = list(workers)
        for _ in range(self.rounds):
            for name in order:
                command = {"do": "run", "name": functions[name], "times": times}
                answers[name].append(workers[name].ask(**command))
            order = order[1:] + order[:1]  # so that nobody always follows the same one
        seconds = {name: [a["seconds"] for a in found] for name, found in answers.items()}
        for each in contestants:
            self._add(section, each, job, seconds, answers[each.name][-1]["peak"])

    def _add(self, section: str, each: Contestant, job: Job, seconds: dict, peak: int) -> None:
        own, first = seconds[each.name], next(iter(seconds.values()))
        row = Row(section, job.label, each.name, own, unit=job.unit, peak=peak)
        row.rate = job.amount / row.median
        row.times = paired(own, first)
        flops = each.spec.get("flops", job.flops)
        rate = self.rates.get(each.spec.get("dtype", ""))
        if flops:
            row.flops = flops / row.median
            row.share = row.flops / rate if rate else None
        self.found.append(row)
