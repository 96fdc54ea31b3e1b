"""Errors that a person can mend: printed as a sentence, with an exit code orchestrators can read.

0 done, 2 configuration or usage, 3 diverged, 4 no usable checkpoint, 5 unusable data,
73 cannot write, 75 stalled, 130 interrupted, 143 preempted after a verified save.
"""

import errno
import os
import sys
from collections.abc import Callable


class UserError(ValueError):
    """Says what was wrong, where (file, record, field) and what to do about it."""

    def __init__(self, message: str, *, exit_code: int = 2):
        super().__init__(message)
        self.exit_code = exit_code


_CANNOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


def run(main: Callable[[list[str]], int | None], argv: list[str]) -> int:
    """Calls `main(argv)`; a UserError becomes one sentence on stderr. Returns the exit code."""
    try:
        return main(argv) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output has left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        print(f"error: cannot write: {error}", file=sys.stderr)
        return 73
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
