"""Shows a person how far a dataset is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TextIO

# (records done before, all records) -> a context whose value is told of every record done
Show = Callable[[int, int], AbstractContextManager[Callable[[int], object]]]

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_OF_SPEED = 600.0  # shards come in one by one; the speed is their mean


def silent(done: int, total: int) -> AbstractContextManager[Callable[[int], object]]:
    """Shows nothing."""
    return contextlib.nullcontext(lambda count: None)


def shown_on(stream: TextIO, *, what: str = "records", did: str = "written") -> Show:
    """Progress with the time left, as fits the stream; `what` is counted, `did` what is done."""
    if stream.isatty():
        return lambda done, total: _bar(done, total, stream, what)
    return lambda done, total: _lines(done, total, stream, what, did)


@contextlib.contextmanager
def _bar(done: int, total: int, stream: TextIO, what: str) -> Iterator[Callable[[int], object]]:
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn(what),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
    )
    bar = progress.Progress(
        *columns, console=Console(file=stream), speed_estimate_period=_SECONDS_OF_SPEED
    )
    with bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda count: bar.advance(task, count)


@contextlib.contextmanager
def _lines(
    done: int, total: int, stream: TextIO, what: str, did: str
) -> Iterator[Callable[[int], object]]:
    start = told = time.monotonic()
    before = done

    def advance(count: int):
        nonlocal done, told
        done += count
        now = time.monotonic()
        if now - told >= _SECONDS_BETWEEN_LINES:
            told = now
            left = (now - start) / (done - before) * (total - done)
            stream.write(f"{done:,} of {total:,} {what}, {left:,.0f} s left\n")
            stream.flush()

    yield advance
    stream.write(f"{done - before:,} {what} {did} in {time.monotonic() - start:,.0f} s\n")
