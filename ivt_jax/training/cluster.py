"""Several processes as one run: joining, deciding together, and leaving in order.

Works the same, at no cost, for a run of one process. Words between processes go through the
key-value store of JAX's coordination service, which needs no device and no collective.
"""

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import jax
from jax._src import distributed  # the public module hides the client that the store needs
from jax._src.clusters import ClusterEnv

from ivt_jax.errors import EXIT_STALLED, UserError, complain, explain
from ivt_jax.training.rollcall import Place, call_roll

PATIENCE = 1800.0  # seconds for others to come to the same point of the start
_LOST = re.compile("Gloo|NCCL|[Cc]oordination|Connection (reset|closed)|heartbeat|UNAVAILABLE")
_SHUTDOWN = 30  # seconds for all to come to the end
_FAREWELL = 3.0  # seconds for others to read why this process leaves
_LOOK = 10.0  # seconds until a file written on one host is seen on another


@contextlib.contextmanager
def joined(place: Place) -> Iterator[None]:
    """Inside, JAX knows all processes of the run; on one ordinary machine nothing happens.

    Every exit is in order: at the end, and after a signal, all processes wait for each other; a
    process that fails tells the others why before it ends, since they may wait for it in vain.

    Raises UserError when the processes do not come together.
    """
    if not _join(place):
        yield
        return
    try:
        yield
    except BaseException as error:
        if getattr(error, "exit_code", 0) not in (130, 143):  # all stopped at the same step
            _leave(error)
        jax.distributed.shutdown()
        raise
    jax.distributed.shutdown()


def _join(place: Place) -> bool:
    devices = None
    if not place.processes:
        place, devices = _detect(place)
    if place.processes <= 1:
        return False
    call_roll(place)
    jax.distributed.initialize(
        place.coordinator,
        place.processes,
        place.process,
        local_device_ids=devices,
        cluster_detection_method="deactivate",  # done above
        initialization_timeout=place.join_timeout,
        heartbeat_timeout_seconds=place.heartbeat_timeout,
        shutdown_timeout_seconds=_SHUTDOWN,
    )
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # JAX would swallow it until training begins
    return True


def _detect(place: Place):
    """The place that the environment tells, and this process's devices; no cluster: no change."""
    try:
        coordinator, count, number, devices = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, place.join_timeout
        )
    except Exception as error:  # whatever a half-present cluster brings
        raise UserError(
            f"this looks like a cluster, but its processes cannot be found out: {error!r}\n"
            "Give --coordinator, --num_processes and --process_id, or --num_processes=1 to run "
            "alone."
        ) from error
    if coordinator is None or count is None or number is None:
        return place, None
    return Place(coordinator, count, number, place.join_timeout, place.heartbeat_timeout), devices


def process() -> int:
    """The number of this process."""
    return distributed.global_state.process_id


def processes() -> int:
    """How many processes the run has."""
    return distributed.global_state.num_processes


def is_first() -> bool:
    """Whether this is the process that writes the run's files."""
    return process() == 0


def exchange(name: str, text: str, *, seconds: float = PATIENCE) -> list[str]:
    """The texts of all processes, by their number; each `name` serves once.

    Raises UserError (exit code 75), naming who did not come, after `seconds`.
    """
    client = distributed.global_state.client
    if client is None:
        return [text]
    client.key_value_set(f"ivt/{name}/{process()}", text)
    try:
        client.wait_at_barrier(f"ivt/{name}", int(1000 * seconds))
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f"not all processes came to {name!r} within {seconds:.0f} s: {error}",
            exit_code=EXIT_STALLED,
        ) from error
    told = {
        int(key.rpartition("/")[2]): value for key, value in client.key_value_dir_get(f"ivt/{name}")
    }
    return [told[number] for number in range(processes())]


@contextlib.contextmanager
def together(name: str, *, seconds: float = PATIENCE) -> Iterator[None]:
    """A block that all processes pass, or none: who fails in it makes the others fail as well.

    Raises the error of this process, else UserError with the error and exit code of another.
    """
    own: Exception | None = None
    try:
        yield
    except Exception as error:
        own = error
    try:
        told = exchange(name, json.dumps(_words(own)) if own else "", seconds=seconds)
    finally:
        if own:
            raise own
    for number, fault in enumerate(told):
        if fault:
            text, code = json.loads(fault)
            raise UserError(f"process {number}: {text}", exit_code=code)


def from_first(name: str, text: str) -> str:
    """Process 0's text on all processes; each `name` serves once."""
    client = distributed.global_state.client
    if client is None:
        return text
    if is_first():
        client.key_value_set(f"ivt/{name}", text)
    return client.blocking_key_value_get(f"ivt/{name}", int(1000 * PATIENCE))


def check_shared(workdir: Path) -> None:
    """UserError on all processes unless every one of them sees the files of process 0."""
    if processes() == 1:
        return
    word = from_first("shared", secrets.token_hex(8))
    file = workdir / f".shared-{word}"
    with together("shared written"):
        if is_first():
            workdir.mkdir(parents=True, exist_ok=True)
            file.touch()
    try:
        with together("shared seen"):
            deadline = time.monotonic() + _LOOK
            while not file.exists() and time.monotonic() < deadline:
                time.sleep(0.1)
            if not file.exists():
                raise UserError(
                    f"on {socket.gethostname()}, {workdir.absolute()} is not the folder that "
                    "process 0 writes to. All processes of a run need one shared --workdir."
                )
    finally:
        if is_first():
            file.unlink()


def to_first(name: str, lines: list[str]) -> list[str]:
    """Process 0 gets its own lines and those that others sent since it last asked; others none.

    Its own come first, then those of each process in the order in which that process sent them.
    """
    client = distributed.global_state.client
    if client is None:
        return lines
    if is_first():
        sent = sorted(client.key_value_dir_get(f"ivt/{name}"))
        for key, _ in sent:
            client.key_value_delete(key)
        return lines + [line for _, value in sent for line in json.loads(value)]
    if lines:
        key = f"ivt/{name}/{process():06d}-{time.monotonic_ns():020d}"
        client.key_value_set(key, json.dumps(lines))
    return []


def _leave(error: BaseException) -> None:
    """Tells the others and ends this process: an exit in order would wait for them."""
    text, code = _words(error)
    if code == 1:
        complain("".join(traceback.format_exception(error)))
    complain(f"error: {text}")
    part(text, code)


def _words(error: BaseException) -> tuple[str, int]:
    if isinstance(error, jax.errors.JaxRuntimeError | ValueError) and _LOST.search(str(error)):
        line = str(error).splitlines()[0]
        return f"another process of this run is lost; its own log tells why: {line}", EXIT_STALLED
    return explain(error) or (f"{type(error).__name__}: {error}", 1)


def part(text: str, code: int) -> None:
    """Ends this process at once with `code`, after the others could read `text` (see `parting`)."""
    client = distributed.global_state.client
    if client is not None:
        deadline = time.monotonic() + _FAREWELL
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            key = f"ivt/parting/{process()}"
            client.key_value_set(key, json.dumps([text, code]), allow_overwrite=True)
            while time.monotonic() < deadline:
                if len(client.key_value_dir_get("ivt/parting")) == processes():
                    break
                time.sleep(0.1)
            if is_first():  # with it goes the store
                time.sleep(0.5)
    os._exit(code)  # without a flush, which may wait for a stuck thread


def parting() -> tuple[int, str, int] | None:
    """Number, text and exit code of a process that is leaving; None while all stay."""
    client = distributed.global_state.client
    left = []
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # JAX ends a process without its peers
        left = client.key_value_dir_get("ivt/parting") if client is not None else []
    if not left:
        return None
    key, value = min(left, key=lambda pair: int(pair[0].rpartition("/")[2]))
    text, code = json.loads(value)
    return int(key.rpartition("/")[2]), text, code
