"""Runs shard tasks in this process, in several, or as an Apache Beam pipeline."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import get_context
from multiprocessing.connection import Connection

from ivt_jax.data.builders.shards import Part, Task, finished, write_shard
from ivt_jax.errors import UserError


def in_processes(tasks: Sequence[Task], *, workers: int) -> Generator[Part, None, None]:
    """Writes shards in `workers` processes, 1 = this one; yields each as it is finished.

    Closing the iterator, or the death of this process by any signal, stops the workers at once.

    Raises:
        BrokenProcessPool: a worker died. OSError: a shard cannot be written.
    """
    if min(workers, len(tasks)) <= 1:
        yield from map(write_shard, tasks)
        return
    context = get_context("spawn")
    held, lifeline = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(
        min(workers, len(tasks)), mp_context=context, initializer=_watch, initargs=(held,)
    )
    try:
        pending = set()
        for task in tasks:
            with _no_interrupt():  # submitting starts a worker, which inherits this
                pending.add(executor.submit(write_shard, task))
            # Few tasks wait, so the items sent ahead stay few.
            if len(pending) >= 2 * workers:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
        executor.shutdown()
    finally:
        lifeline.close()
        executor.shutdown(cancel_futures=True)
        held.close()


def in_beam(tasks: Sequence[Task], *, options: Sequence[str]) -> Generator[Part, None, None]:
    """Writes shards as a Beam pipeline; yields them when all are finished.

    Args:
        tasks: the shards; their folder must be the same one for every Beam worker.
        options: of the pipeline, as `--runner=DirectRunner`.

    Raises:
        UserError: apache-beam is not installed.
    """
    try:
        import apache_beam as beam  # pyright: ignore[reportMissingImports]
        from apache_beam.options.pipeline_options import (  # pyright: ignore[reportMissingImports]
            PipelineOptions,
        )
    except ModuleNotFoundError as error:
        raise UserError("--beam needs Apache Beam: pip install '.[beam]'") from error
    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        shards = pipeline | "Tasks" >> beam.Create(list(tasks)) | beam.Reshuffle()
        shards | "Write" >> beam.Map(write_shard)  # pyright: ignore[reportUnusedExpression]
    for task in tasks:
        part = finished(task)
        if part is None:
            raise UserError(
                f"Beam has finished but {task.path} is not here: --out must be one folder that "
                "every Beam worker and this machine share"
            )
        yield part


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Ctrl-C waits; processes that start meanwhile leave it to their parent for good."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _watch(held: Connection):
    """Ends a worker when its parent lets go of the lifeline."""
    threading.Thread(target=_end_with_parent, args=(held,), daemon=True).start()


def _end_with_parent(held: Connection):
    with contextlib.suppress(EOFError, OSError):
        held.recv()
    os._exit(1)
