"""Batches that outlive their readers: dead, failing and hanging workers are replaced in place.

A batch is a function of its number alone, so a new pool starts at the batch that is missing and
makes the same ones. Nothing here knows how batches are made.
"""

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ivt_jax.data.records import DataError
from ivt_jax.errors import EXIT_UNUSABLE_DATA, UserError

STRIKES = 3  # failures at one batch until the run stops
_WORKERS = "grain-process-prefetch"  # how Grain's processes are called
_CLOSING = 5.0  # seconds


class Feed:
    """The batches from number `start` (from 0) on; an iterator without an end.

    Args:
      make: number -> iterator of the batches from there on.
      deadline: seconds until a batch counts as hanging; None for no limit, as reading threads of
        this process cannot be replaced.
      suspect: number -> words for the sample that hangs, or "", asked when a batch hangs.
      say: called with a sentence when the workers are replaced.

    `next` raises UserError (exit code 5) when one batch failed three times.
    """

    def __init__(
        self,
        make: Callable[[int], Iterator[dict]],
        start: int,
        *,
        deadline: float | None,
        suspect: Callable[[int], str],
        say: Callable[[str], None],
    ):
        self._make, self._number = make, start
        self._deadline, self._suspect, self._say = deadline, suspect, say
        self._batches = make(start)

    def __iter__(self) -> "Feed":
        return self

    def __next__(self) -> dict[str, Any]:
        for strike in range(1, STRIKES + 1):
            try:
                batch = self._read()
            except DataError:
                raise
            except TimeoutError:
                found = self._suspect(self._number)
                fault = f"nothing came for {self._deadline:g} s"
                fault += f": {found}" if found else ", though every sample can be read now"
            except Exception as error:  # whatever a worker raises or dies of
                fault = f"{type(error).__name__}: {error}"
            else:
                self._number += 1
                return batch
            self._say(f"readers replaced at batch {self._number} ({strike} of {STRIKES}): {fault}")
            _kill_workers()  # one that hangs does not hear that it should leave
            self.move(self._number)
        raise UserError(
            f"batch {self._number} could not be read {STRIKES} times in a row; the last fault: "
            f"{fault}\nRepair the data or the machine; the same command goes on there.",
            exit_code=EXIT_UNUSABLE_DATA,
        )

    def move(self, number: int) -> None:
        """Goes on at another batch, with new readers."""
        self.close()
        self._number = number
        self._batches = self._make(number)

    def close(self) -> None:
        """Ends all readers, also those that no longer listen."""
        with contextlib.suppress(queue.Empty, Exception):
            _within(_CLOSING, getattr(self._batches, "close", lambda: None))
        _kill_workers()

    def _read(self) -> dict[str, Any]:
        if self._deadline is None:
            return next(self._batches)
        try:
            return _within(self._deadline, lambda: next(self._batches))
        except queue.Empty:
            raise TimeoutError from None


def serve(*_) -> None:
    """A reading process leaves Ctrl-C to the main one, which saves, and does not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def hanging_sample(
    read: Callable[[int], Any], name: Callable[[int], str], samples: range, *, patience: float
) -> str:
    """Words for the sample at which reading them one by one stops for `patience` s, or ""."""
    told: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read_all():
        for sample in samples:
            told.put(f"sample {sample}")
            with contextlib.suppress(Exception):  # only what hangs is looked for
                told.put(f"sample {sample}, {name(sample)}")
                read(sample)
        told.put(None)

    threading.Thread(target=read_all, daemon=True).start()
    last = ""
    try:
        while (words := told.get(timeout=patience)) is not None:
            last = words
    except queue.Empty:
        return f"{last} hangs"
    return ""


def _kill_workers() -> None:
    for child in multiprocessing.active_children():
        if child.name.startswith(_WORKERS):
            child.kill()


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """The value of `call`; queue.Empty if it takes longer, and then it goes on by itself."""
    answer: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def answered():
        try:
            answer.put((call(), None))
        except BaseException as error:  # noqa: BLE001 it is raised again where it was called
            answer.put((None, error))

    threading.Thread(target=answered, daemon=True).start()
    value, error = answer.get(timeout=seconds)
    if error is not None:
        raise error
    return value
