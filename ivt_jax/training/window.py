"""What is measured between two lines of metrics, and the writing of such a line."""

import time

import jax
import numpy as np

from ivt_jax.training.chips import chip_of
from ivt_jax.training.flops import Work
from ivt_jax.training.goodput import Goodput
from ivt_jax.training.setup import Data
from ivt_jax.training.state import TrainState
from ivt_jax.training.telemetry import Telemetry


def scalars(metrics: dict) -> dict[str, float]:
    """The metrics of a step that are single numbers."""
    return {name: float(value) for name, value in metrics.items() if not np.ndim(value)}


class Window:
    """Pace since the last line, the share of time spent waiting for data, and epochs so far.

    A line is written while the step after it runs, so the time is that between two moments at
    which a step had ended; compiling does not count.
    """

    def __init__(self, work: Work, data: Data, spent: Goodput, *, state: TrainState):
        self.work, self.data, self.spent = work, data, spent
        self.kind = "compile"  # what the next step's time counts as
        self.skipped = float(state.opt_state.health.skipped)
        self.devices = jax.device_count()
        self.chip = chip_of(jax.devices()[0].device_kind)
        self._running: jax.Array | None = None
        self.restart(int(state.step))

    def restart(self, step: int) -> None:
        """Begins to measure anew after `step`, which has ended."""
        self.began, self.step = time.monotonic(), step
        self.waited, self.compiled = self.spent.total["data"], self.spent.total["compile"]
        self.text_tokens = self.batches = 0.0

    def next(self, batches) -> dict[str, np.ndarray]:
        """The next batch; a wait for it is measured if it left the devices without work."""
        with self.spent.span(self._waiting_for):
            batch = next(batches)
        self.text_tokens += batch["token_mask"].sum() / batch["token_mask"][..., 0].size
        self.batches += 1
        return batch

    def _waiting_for(self) -> str:
        idle = self._running is None or self._running.is_ready()  # pyright: ignore
        return "data" if idle else "step"

    def count(self, metrics: dict) -> None:
        """A step was given to the devices; its metrics are not waited for."""
        self._running, self.kind = metrics["loss"], "step"

    def read(self, step: int) -> dict[str, float]:
        """What a line on `step`, which has ended, tells besides its metrics; measures anew.

        "tflops_per_second" is of one device, "mfu_percent" its share of the published peak in
        bfloat16, whatever the dtype; it is left out where no peak is known, as for CPUs. Both
        count the products of real tokens, see `Work`.
        """
        pace = {}
        compiling = self.spent.total["compile"] - self.compiled
        steps = step - self.step - (compiling > 0)  # the first one may be part of its compilation
        if steps > 0 and self.batches:  # a line just before leaves nothing to measure
            elapsed = max(time.monotonic() - self.began - compiling, 1e-9)
            waited = self.spent.total["data"] - self.waited
            pace["pairs_per_second"] = self.work.batch_size * steps / elapsed
            pace["data_wait_percent"] = 100 * waited / elapsed
            flops = self.work.flops(self.text_tokens / self.batches) * steps
            rate = flops / elapsed / self.devices
            pace["tflops_per_second"] = rate / 1e12
            if self.chip:
                pace["mfu_percent"] = 100 * rate / self.chip.flops
        self.restart(step)
        return pace | self.data.epochs(step * self.work.batch_size)


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
