"""A thread that ends a run which makes no progress, and says where every thread of it stands."""

import contextlib
import faulthandler
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from ivt_jax.disk import patiently
from ivt_jax.errors import EXIT_STALLED, complain
from ivt_jax.training import cluster
from ivt_jax.training.lock import BEAT, Lock

FOLDER = "stalls"  # in the work directory: process-<number>.txt, the stacks
TICK = 1.0  # seconds between two looks
SLOWEST = 10.0  # median steps that a step may take


class Watchdog:
    """Deadlines in seconds, each 0 = none, for what `enter` says the main thread does.

    Args:
      workdir: where the stacks go.
      startup: until the first step is done; also for one evaluated batch, and for a save.
      step: for a step, or ten times the median if that is longer, but never above `step_limit`.
      step_limit: see `step`.
      data: for the next batch; with several processes also for a step, whose peers may wait for
        theirs.
      leave: (text, exit code) -> never returns.

    The thread also keeps the lock of the work directory alive, and leaves when another process of
    the run has said that it leaves.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        startup: float,
        step: float,
        step_limit: float,
        data: float,
        leave: Callable[[str, int], None],
    ):
        self.file = workdir / FOLDER / f"process-{cluster.process()}.txt"
        self.lock: Lock | None = None  # of process 0
        self._limits = {"step": step, "data": data}
        self._startup, self._step_limit = startup, step_limit
        self._leave = leave
        self._steps: deque[float] = deque(maxlen=100)  # seconds of the latest ones
        self._doing, self._since, self._number = "startup", 0.0, 0
        self._clock = 0.0  # seconds that this process has run: not those of a suspended machine
        self._over = threading.Event()
        self._beater = threading.Thread()  # none yet

    def __enter__(self) -> "Watchdog":
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()
        if self._beater.is_alive():
            self._beater.join(5.0)

    def enter(self, doing: str, number: int = 0) -> None:
        """The main thread begins "startup", "data", "step", "evaluation" or "save" `number`."""
        self._doing, self._number, self._since = doing, number, self._clock

    def note_step(self, seconds: float) -> None:
        """A whole step took so long."""
        self._steps.append(seconds)

    def limit(self, doing: str) -> float:
        """Seconds that it may take now; 0 = any."""
        limit = self._limits.get(doing, self._startup)
        if doing != "step" or not limit:
            return limit
        if self._steps:
            limit = max(limit, SLOWEST * statistics.median(self._steps))
        if cluster.processes() > 1:
            limit = max(limit, self._limits["data"])
        return min(limit, self._step_limit or limit)

    def _watch(self) -> None:
        before = beaten = time.monotonic()
        while not self._over.wait(TICK):
            now = time.monotonic()
            self._clock += min(now - before, 2 * TICK)
            before = now
            if self.lock and now - beaten >= BEAT and not self._beater.is_alive():
                beaten = now
                # A dead disk holds up this one, and nobody else.
                self._beater = threading.Thread(target=self._beat, args=(self.lock,), daemon=True)
                self._beater.start()
            self._follow()
            self._check()

    def _beat(self, lock: Lock) -> None:
        with contextlib.suppress(OSError):  # a full disk is no reason to end
            if not lock.beat():
                words = f"{lock.file} is another run's by now: this one was taken for dead"
                complain(f"error: {words}")
                self._leave(words, EXIT_STALLED)

    def _follow(self) -> None:
        gone = cluster.parting()
        if gone:
            number, text, code = gone
            if code == EXIT_STALLED:
                self._dump()
            complain(f"error: process {number}: {text}")
            self._leave(text, code)

    def _check(self) -> None:
        doing, number, since = self._doing, self._number, self._since
        limit, spent = self.limit(doing), self._clock - since
        if not limit or spent < limit or (doing, since) != (self._doing, self._since):
            return
        what = f"{doing} {number}" if number else doing
        text = (
            f"no progress for {spent:.0f} s in {what} (config.watchdog allows {limit:.0f} s); "
            f"stacks of every thread are in {self.file.parent}"
        )
        self._dump()
        complain(f"error: {text}")
        self._leave(text, EXIT_STALLED)

    def _dump(self) -> None:
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        patiently(self._write_stacks)

    def _write_stacks(self) -> None:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("w") as file:
                file.write(f"{time.strftime('%F %T')} {self._doing} {self._number}\n")
                file.flush()
                faulthandler.dump_traceback(file=file, all_threads=True)
        except OSError as error:  # a dead disk may be what stalled the run
            complain(f"the stacks could not be written: {error}")
