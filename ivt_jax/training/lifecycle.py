"""The life of a run around its steps: lock, signals, deadlines, and what all processes agree on."""

import contextlib
import signal
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding

from ivt_jax.disk import patiently
from ivt_jax.training import cluster
from ivt_jax.training.faults import strike
from ivt_jax.training.lock import Lock
from ivt_jax.training.sharding import BATCH, REPLICATED
from ivt_jax.training.signals import Interrupted, StopRequest
from ivt_jax.training.watchdog import Watchdog

__all__ = ["Interrupted", "Lifecycle"]
_COMPARED = 10  # steps whose times are compared
_SILENT = 100  # steps until the same process is named again
_SLOW = 0.1  # share of a step that a process may lag behind the others


class Lifecycle:
    """A context manager around a run; with several processes every one calls the same methods.

    Args:
      workdir: of the run; locked, so that a second run there is refused.
      deadlines: of `Watchdog`, in seconds.

    Attributes:
      note: what the lock found, for the log.
      signal: that all processes agree to stop for.

    Raises:
      UserError: another run holds the lock.
    """

    def __init__(self, workdir: Path, **deadlines: float):
        self.workdir = workdir
        self.note = ""
        self.signal: signal.Signals | None = None
        self._lock: Lock | None = None
        self._stop = StopRequest(self.leave)
        self._watchdog = Watchdog(workdir, **deadlines, leave=self.leave)
        self._agreement: Agreement | None = None
        self._pace = _Pace()
        self._begun = False  # whether a step was done by all

    def __enter__(self) -> "Lifecycle":
        with cluster.together("lock"):
            if cluster.is_first():
                self._lock = Lock(self.workdir)
                self.note = self._lock.note
        self._watchdog.lock = self._lock
        self._stop.__enter__()
        self._watchdog.__enter__()
        return self

    def __exit__(self, *_):
        self._watchdog.__exit__()
        self._stop.__exit__()
        patiently(self._release)

    def leave(self, text: str, code: int) -> None:
        """Ends this process, and all others of the run, without waiting for the main thread."""
        patiently(self._release)
        cluster.part(text, code)

    def _release(self) -> None:
        if self._lock:
            with contextlib.suppress(OSError):
                self._lock.release()

    def connect(self, mesh) -> None:
        """Tells the mesh that processes agree over, and connects them while all are here.

        Gloo and NCCL give up after a while; later one process may compile longer than another.
        """
        if cluster.processes() > 1:
            self._agreement = Agreement(mesh)
            with cluster.together("mesh"):
                self._agreement.meet()

    def enter(self, doing: str, number: int = 0) -> None:
        """What the main thread begins; see `Watchdog.enter`."""
        self._watchdog.enter(doing, number)

    def next(self, read: Callable, step: int):
        """What `read()` returns, the batch of `step`; None if a signal came while it waited.

        With several processes a signal waits for the batch, as the others do.
        """
        self.enter("data" if self._begun else "startup", step)
        try:
            alone = self._agreement is None
            with self._stop.waiting() if alone else contextlib.nullcontext():
                strike("data.wait", step, process=cluster.process())
                batch = read()
        except Interrupted:
            self.signal = self._stop.signal
            return None
        self.enter("step" if self._begun else "startup", step)  # the first one compiles
        strike("step", step, process=cluster.process())
        return batch

    def agree(self) -> str:
        """After a step was given to the devices: sets `signal`; a sentence if a process is slow.

        From the first step on there is something to save before a signal stops the run.
        With several processes both are what they told a step ago, so that no device waits.
        """
        self._stop.begin()
        whole, own = self._pace.lap()
        if whole:
            self._watchdog.note_step(whole)
        told = self._hear(own)
        # Others may still compile the first step, until they tell something.
        self._begun = self._begun or self._agreement is None or told is not None
        self._pace.resume()
        return "" if told is None else self._pace.compare(told[:, 1], whole)

    def _hear(self, own: float) -> np.ndarray | None:
        """Sets `signal`; returns what all processes told the last time, (processes, 2)."""
        mine = self._stop.signal or 0
        if self._agreement is None:
            self.signal = self._stop.signal
            return None
        told = self._agreement.exchange(mine, own)
        if told is not None:
            number = int(told[:, 0].max())
            self.signal = signal.Signals(number) if number else None
        return told

    def pause(self) -> None:
        """What comes between two steps now belongs to neither of them."""
        self._pace.pause()

    def interruptible(self, encode: Callable) -> Callable:
        """An encoder that raises Interrupted where all processes agree to stop for a signal."""

        def encode_unless_stopped(*arguments):
            self.enter("evaluation")
            strike("evaluate", process=cluster.process())
            self._hear(0.0)
            if self.signal:
                raise Interrupted
            return encode(*arguments)

        return encode_unless_stopped


class Agreement:
    """One small all-gather a call: every process hears what each told the call before."""

    def __init__(self, mesh):
        owners = [device.process_index for device in mesh.devices.flat]
        self._rows = [owners.index(number) for number in range(cluster.processes())]
        self._sharding = NamedSharding(mesh, BATCH)
        self._gather = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, REPLICATED))
        self._pending = None

    def meet(self) -> None:
        """Returns when all processes have come."""
        jax.block_until_ready(self._tell(0.0, 0.0))

    def exchange(self, *numbers: float) -> np.ndarray | None:
        """Tells float32 numbers; returns those of the last call, (processes, n); None at first."""
        told, self._pending = self._pending, self._tell(*numbers)
        return None if told is None else np.asarray(told)[self._rows]

    def _tell(self, *numbers: float) -> jax.Array:
        mine = np.tile(np.asarray(numbers, np.float32), (jax.local_device_count(), 1))
        return self._gather(jax.make_array_from_process_local_data(self._sharding, mine))


class _Pace:
    """How long a step takes, and how much of that a process does not wait for the others."""

    def __init__(self):
        self._own, self._whole = deque(maxlen=_COMPARED), deque(maxlen=_COMPARED)
        self._silent = 0
        self.pause()

    def pause(self) -> None:
        """The time from here to the next lap counts for nothing."""
        self._last = self._resumed = None

    def lap(self) -> tuple[float, float]:
        """Seconds since the last lap, and since `resume`; zeros if there is none."""
        now, last, resumed = time.monotonic(), self._last, self._resumed
        self._last = self._resumed = now
        if last is None or resumed is None:
            return 0.0, 0.0
        return now - last, now - resumed

    def resume(self) -> None:
        """The wait for the others is over."""
        self._resumed = time.monotonic()

    def compare(self, own: np.ndarray, whole: float) -> str:
        """Takes the seconds of all processes in a step; a sentence if one has long been slow."""
        if not own.all() or not whole:
            return ""
        self._own.append(own)
        self._whole.append(whole)
        self._silent -= 1
        if len(self._own) < _COMPARED or self._silent > 0:
            return ""
        # Who is always slow is so in the best steps too; a busy host spoils only some of them.
        typical = np.quantile(self._own, 0.25, axis=0)
        step = float(np.median(self._whole))
        slow = int(typical.argmax())
        behind = typical[slow] - np.sort(typical)[(len(typical) - 1) // 2]
        if behind < _SLOW * step:
            return ""
        self._silent = _SILENT
        return (
            f"process {slow} is slow: of each step of {step:.2f} s it takes {behind:.2f} s more "
            "than the others, for its data or its own work; look at its host"
        )
