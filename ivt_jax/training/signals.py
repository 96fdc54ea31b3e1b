"""SIGINT and SIGTERM: a run that is asked to stop saves first, whatever it is doing."""

import contextlib
import logging
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator

from ivt_jax.errors import complain

NUMBERS = (signal.SIGINT, signal.SIGTERM)
_NUDGE = signal.SIGURG  # means nothing to a process that does not ask for it


class Interrupted(BaseException):
    """A signal came while the main thread only waited; no Exception, which readers may catch."""


class StopRequest:
    """Notes SIGINT and SIGTERM while active; the loop asks `signal` between steps.

    The first signal only asks; before `begin` there is nothing to save, and it leaves by `leave`
    (text, exit code). A second one leaves at once without saving; what was saved before stays
    whole, since checkpoints are atomic. A thread answers, so that a main thread deep in a compiler
    or waiting for a device is no deafer than any other.
    """

    def __init__(self, leave: Callable[[str, int], None]):
        self.signal: signal.Signals | None = None
        self._leave = leave
        self._begun = self._waiting = False
        self._previous = {}

    def __enter__(self) -> "StopRequest":
        self._main = threading.get_ident()  # Python lets no other thread set what signals do
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._wakeup = signal.set_wakeup_fd(self._writer)  # written even while Python cannot run
        for number in NUMBERS:
            self._previous[number] = signal.signal(number, self._note)
        self._previous[_NUDGE] = signal.signal(_NUDGE, lambda *_: None)
        threading.Thread(target=self._answer, name="signals", daemon=True).start()
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._writer)  # ends the thread

    def begin(self) -> None:
        """From here on there is something to save; said again, it changes nothing."""
        if self._begun:
            return
        self._begun = True
        if self.signal:  # it came while this was being said
            self._go()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """A block that a signal may break off: it then raises Interrupted."""
        self._waiting = True
        try:
            if self.signal and self._begun:
                raise Interrupted
            yield
        finally:
            self._waiting = False

    def _note(self, number, _frame):
        self.signal = self.signal or signal.Signals(number)
        if self._waiting and self._begun:
            self._waiting = False
            raise Interrupted

    def _answer(self) -> None:
        asked = False
        while numbers := self._read():
            for number in set(numbers) & set(NUMBERS):
                if asked:
                    os._exit(128 + number)
                asked, self.signal = True, self.signal or signal.Signals(number)
                if not self._begun:
                    self._go()
                name = signal.Signals(number).name
                logging.warning("%s: saving before leaving; once more leaves at once", name)
        os.close(self._reader)

    def _read(self) -> bytes:
        """The next signals; until they come, wakes a main thread that waits and has to stop.

        The system may give a signal to any thread, or just before the main thread falls asleep.
        """
        # What wakes it comes to the reader as well: the pause before keeps this from spinning.
        while self.signal and self._waiting and not select.select([self._reader], [], [], 0.1)[0]:
            signal.pthread_kill(self._main, _NUDGE)
        return os.read(self._reader, 16)

    def _go(self) -> None:
        assert self.signal
        text = f"stopped by {self.signal.name} before there was anything new to save"
        complain(f"error: {text}")
        self._leave(text, 128 + self.signal)
