"""Signals: a run that is asked to stop saves first."""

import logging
import os
import signal


class StopRequest:
    """Notes SIGINT and SIGTERM while active; the loop asks `signal` between steps.

    The first signal only asks. A second one leaves at once without saving; what was saved before
    stays whole, since checkpoints are atomic.
    """

    def __init__(self):
        self.signal: signal.Signals | None = None
        self._previous = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number, _frame):
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = signal.Signals(number)
        logging.warning("%s: saving before leaving; once more leaves at once", self.signal.name)
