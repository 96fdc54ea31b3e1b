"""Faults on purpose, for tests: IVT_FAULT="action@point[:step[:process]]" strikes there once.

A run without that variable pays one comparison with None for every point it passes. Several
faults are separated by commas. `tests/faults/` names the points.
"""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
import time

VARIABLE = "IVT_FAULT"
ACTIONS = ("kill", "sleep", "slow", "raise", "spoil")


@dataclasses.dataclass(frozen=True)
class Fault:
    """What happens where; `step` and `process` are None for every one."""

    action: str
    point: str
    step: int | None
    process: int | None


def parse(text: str) -> tuple[Fault, ...]:
    """Reads the variable; ValueError for an unknown action or a malformed fault."""
    found = []
    for part in filter(None, text.split(",")):
        action, _, place = part.partition("@")
        point, *numbers = place.split(":")
        if action not in ACTIONS or not point or len(numbers) > 2:
            raise ValueError(
                f"{VARIABLE}={part!r} is no fault; write ACTION@POINT[:STEP[:PROCESS]] with an "
                f"action of {', '.join(ACTIONS)}"
            )
        step, process = ([int(n) if n else None for n in numbers] + [None, None])[:2]
        found.append(Fault(action, point, step, process))
    return tuple(found)


_FAULTS = parse(os.environ[VARIABLE]) if VARIABLE in os.environ else None


def strike(point: str, step: int | None = None, *, process: int = 0) -> bool:
    """Passes a point: does what IVT_FAULT asks for here; True if the caller has to spoil its data.

    "kill" ends this process at once, "sleep" never returns, "slow" takes 0.3 s, "raise" raises
    RuntimeError, "spoil" returns True: what that means is said where the point is.
    """
    if _FAULTS is None:
        return False
    spoil = False
    for fault in _FAULTS:
        here = fault.point == point and fault.step in (None, step)
        if not here or fault.process not in (None, process):
            continue
        match fault.action:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "sleep":
                print(f"{VARIABLE} sleeps at {point}, step {step}", flush=True)
                while True:
                    time.sleep(3600)
            case "slow":
                time.sleep(0.3)
            case "raise":
                raise RuntimeError(f"{VARIABLE} strikes at {point}, step {step}")
            case "spoil":
                spoil = True
    return spoil


def fill_disk(full: bool) -> None:
    """Lets no file of this process grow any more, or lets them again; nothing without IVT_FAULT."""
    if _FAULTS is not None:
        unlimited = resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024 if full else unlimited, unlimited))
