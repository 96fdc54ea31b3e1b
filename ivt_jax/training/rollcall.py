"""Who takes part in a run, and that all of them are there, before JAX is asked to connect them.

JAX ends a process without a Python error when a peer never comes, and crashes when the port is
taken. So process 0 first calls the roll itself, on the same port: what is wrong is a sentence.
"""

import contextlib
import dataclasses
import json
import socket
import time

from ivt_jax.errors import UserError

_PAUSE = 0.2  # seconds between two attempts to reach process 0
_SILENCE = 5.0  # seconds that somebody who connects may take to say who it is
_LONGEST = 4096  # bytes of a line of the roll


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a process stands among those of its run; the defaults let JAX find it out.

    `coordinator` is HOST:PORT of process 0; `join_timeout` and `heartbeat_timeout` are seconds.
    """

    coordinator: str = ""
    processes: int = 0
    process: int = -1
    join_timeout: int = 300
    heartbeat_timeout: int = 30

    def faults(self) -> list[tuple[str, str]]:
        """Pairs (flag, what is wrong with it)."""
        found = []
        if self.processes == 1 and not self.coordinator and self.process <= 0:
            return found  # "alone, whatever the machine looks like"
        given = (bool(self.coordinator), self.processes != 0, self.process != -1)
        if any(given) and not all(given):
            words = "goes with --num_processes=N and --process_id=I, or leave all three out"
            return [("--coordinator", words)]
        if not any(given):
            return found
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            found.append(("--coordinator", f"must be HOST:PORT (got {self.coordinator!r})"))
        if self.processes < 1:
            found.append(("--num_processes", f"must be at least 1 (got {self.processes})"))
        elif not 0 <= self.process < self.processes:
            words = f"must lie between 0 and {self.processes - 1} (got {self.process})"
            found.append(("--process_id", words))
        return found


def call_roll(place: Place) -> None:
    """Returns when all processes of a run are there; UserError on all of them if not.

    Raises UserError, naming who is missing, told another count, or has the same number; and when
    the port is taken or process 0 cannot be reached.
    """
    deadline = time.monotonic() + place.join_timeout
    if place.process == 0:
        _call(place, deadline)
    else:
        _answer(place, deadline)


def _call(place: Place, deadline: float) -> None:
    present: dict[int, str] = {0: socket.gethostname()}
    fault = ""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listen(place))
        peers = []
        while len(present) < place.processes and not fault:
            listener.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                peer, _ = listener.accept()
            except TimeoutError:
                missing = sorted(set(range(place.processes)) - set(present))
                fault = (
                    f"process {_listed(missing)} of {place.processes} did not join within "
                    f"{place.join_timeout} s. Process 0 waited at {place.coordinator}: is every "
                    "process started, with that address and within its reach?"
                )
                break
            hello = _receive(stack.enter_context(peer), time.monotonic() + _SILENCE)
            if hello is not None:  # not a passer-by
                peers.append(peer)
                fault = _enter(present, hello, place)
        listener.close()  # JAX listens on this port from now on
        for peer in peers:
            with contextlib.suppress(OSError):
                peer.sendall(json.dumps({"fault": fault}).encode() + b"\n")
    if fault:
        raise UserError(fault)


def _enter(present: dict[int, str], hello: dict, place: Place) -> str:
    """Adds one answer to those present; what is wrong with it, or ''."""
    process, host = int(hello["process"]), str(hello["host"])
    if hello["processes"] != place.processes:
        return (
            f"process {process} on {host} was started with --num_processes={hello['processes']}, "
            f"process 0 on {present[0]} with --num_processes={place.processes}"
        )
    if process in present:
        return f"two processes are number {process}: on {present[process]} and on {host}"
    present[process] = host
    return ""


def _answer(place: Place, deadline: float) -> None:
    host, _, port = place.coordinator.rpartition(":")
    hello = {"process": place.process, "processes": place.processes, "host": socket.gethostname()}
    reason: object = "nobody listens there"
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=5) as server:
                server.sendall(json.dumps(hello).encode() + b"\n")
                # Process 0 answers when the last one is there, or when its own time is over.
                verdict = _receive(server, deadline + 10)
        except OSError as error:
            reason = error
        else:
            if verdict is None:
                reason = "what answers there is not the start of this run; is it running already?"
            elif verdict["fault"]:
                raise UserError(verdict["fault"])
            else:
                return
        time.sleep(_PAUSE)
    raise UserError(
        f"process {place.process} could not join process 0 at {place.coordinator} within "
        f"{place.join_timeout} s: {reason}"
    )


def _listen(place: Place) -> socket.socket:
    address = ("", int(place.coordinator.rpartition(":")[2]))
    try:
        if socket.has_dualstack_ipv6():
            family = {"family": socket.AF_INET6, "dualstack_ipv6": True}
            return socket.create_server(address, backlog=1024, **family)
        return socket.create_server(address, backlog=1024)
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen on port {address[1]} (--coordinator={place.coordinator}): "
            f"{error}. Is another run there? Choose another port, the same for all processes."
        ) from error


def _receive(peer: socket.socket, deadline: float) -> dict | None:
    """One line of JSON; None for anything else."""
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < _LONGEST:
            peer.settimeout(max(deadline - time.monotonic(), 0.01))
            part = peer.recv(_LONGEST)
            if not part:
                return None
            line += part
        said = json.loads(line)
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) and {"process", "fault"} & set(said) else None


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:20]))
    return f"{shown} and {len(numbers) - 20} more" if len(numbers) > 20 else shown
