"""Errors that a person can mend: printed as a sentence, with an exit code orchestrators can read.

0 done, 1 any other fault (or what the doctor found), 2 configuration or usage, 3 diverged,
4 no usable checkpoint, 5 unusable data, 73 a file cannot be read or written, 75 stalled: no
progress within config.watchdog, 130 interrupted, 143 terminated. Once training has begun the last
two mean that the run is saved; a second signal leaves at once, with the same code and without
saving. All processes of a run leave with the code of the first; one that the others lost (killed,
or its network) ends them by SIGABRT, 134 in a shell. After 75, 134 and 143, start again.
"""

import atexit
import contextlib
import errno
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn


class UserError(ValueError):
    """Says what was wrong, where (file, record, field) and what to do about it."""

    def __init__(self, message: str, *, exit_code: int = 2):
        super().__init__(message)
        self.exit_code = exit_code


EXIT_DIVERGED = 3
EXIT_NO_CHECKPOINT = 4  # that can be used
EXIT_UNUSABLE_DATA = 5
EXIT_CANNOT_WRITE = 73  # nor read, for want of permission, space or a sound disk
EXIT_STALLED = 75
_ACCESS_ERRNOS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO)


def explain(error: BaseException) -> tuple[str, int] | None:
    """What to tell a person about an error, and the exit code; None: a fault of the program."""
    notes = getattr(error, "__notes__", [])
    if isinstance(error, UserError):
        return str(error), error.exit_code
    if isinstance(error, OSError) and error.errno in _ACCESS_ERRNOS:
        return "\n".join([f"cannot read or write: {error}", *notes]), EXIT_CANNOT_WRITE
    if isinstance(error, KeyboardInterrupt):
        return "\n".join(["interrupted", *notes]), 130
    return None


def run(main: Callable[[list[str]], int | None], argv: list[str]) -> int:
    """Calls `main(argv)`; returns the exit code.

    A UserError becomes a sentence on stderr, and so does a file that may not be read or written,
    finds no space or fails on the disk, with the notes that the error carries. Other errors pass.
    """
    try:
        return main(argv) or 0
    except BrokenPipeError:  # the reader of our output has left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:
        told = explain(error)
        if not told:
            raise
        complain(told[0] if isinstance(error, KeyboardInterrupt) else f"error: {told[0]}")
        return told[1]


def end(code: int, *, patience: float = 15.0) -> NoReturn:
    """Leaves Python with `code`, after `patience` seconds even if a thread hangs on a dead disk."""
    timer = threading.Timer(patience, os._exit, [code])
    timer.daemon = True
    timer.start()
    atexit.register(timer.cancel)  # threads have ended by then; other processes may take longer
    for stream in (sys.stdout, sys.stderr):  # here: `os._exit` does not, and a flush may hang too
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    sys.exit(code)


def complain(text: str) -> None:
    """Says it on stderr; one that cannot be written keeps nobody from leaving with a code."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)
