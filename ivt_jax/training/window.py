"""What is measured between two lines of metrics, and the writing of such a line."""

import time

import numpy as np

from ivt_jax.training.goodput import Goodput
from ivt_jax.training.health import Guarded
from ivt_jax.training.setup import Data
from ivt_jax.training.telemetry import Telemetry


def scalars(metrics: dict) -> dict[str, float]:
    """The metrics of a step that are single numbers."""
    return {name: float(value) for name, value in metrics.items() if not np.ndim(value)}


class Window:
    """Pace since the last line, the share of time spent waiting for data, and epochs so far."""

    def __init__(self, batch_size: int, data: Data, spent: Goodput, *, opt_state: Guarded):
        self.batch_size, self.data, self.spent = batch_size, data, spent
        self.kind = "compile"  # what the next step's time counts as
        self.skipped = float(opt_state.health.skipped)
        self.restart()

    def restart(self) -> None:
        """Begins to measure anew."""
        self.began, self.waited, self.steps = time.monotonic(), self.spent.total["data"], 0

    def next(self, batches) -> dict[str, np.ndarray]:
        """The next batch; the wait for it is measured."""
        with self.spent.span("data"):
            return next(batches)

    def count(self) -> None:
        """A step was given to the devices."""
        self.steps, self.kind = self.steps + 1, "step"

    def read(self, step: int) -> dict[str, float]:
        """What a line tells besides the metrics of the step; begins to measure anew."""
        pace = {}
        if self.steps:  # a line just before leaves nothing to measure
            elapsed = max(time.monotonic() - self.began, 1e-9)
            waited = self.spent.total["data"] - self.waited
            pace["pairs_per_second"] = self.batch_size * self.steps / elapsed
            pace["data_wait_percent"] = 100 * waited / elapsed
        self.restart()
        return pace | self.data.epochs(step * self.batch_size)


def write_line(log: Telemetry, step: int, metrics: dict, window: Window, schedule) -> bool:
    """Writes a line; returns whether too many steps in a row were skipped."""
    values = scalars(metrics)
    tripped = bool(values.pop("tripped"))
    if values["skipped"] > window.skipped:
        log.say(
            f"skipped steps up to step {step}: {values['skipped'] - window.skipped:.0f} more, "
            f"{values['skipped']:.0f} in all, {values['spikes']:.0f} of them as spikes "
            "(docs/faults.md)"
        )
    window.skipped = values["skipped"]
    rate = float(schedule(np.int32(step - 1)))
    log.train(step, values | {"learning_rate": rate} | window.read(step))
    window.spent.mark(step)
    return tripped
