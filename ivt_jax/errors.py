"""Errors that a person can mend: printed as a sentence, with an exit code orchestrators can read.

0 done, 1 any other fault (or what the doctor found), 2 configuration or usage, 3 diverged,
4 no usable checkpoint, 5 unusable data, 73 a file cannot be read or written, 130 interrupted,
143 terminated. Once training has begun the last two mean that the run is saved; a second signal
leaves at once, with the same code and without saving.
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


EXIT_CANNOT_WRITE = 73  # nor read, for want of permission or space
_ACCESS_ERRNOS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


def run(main: Callable[[list[str]], int | None], argv: list[str]) -> int:
    """Calls `main(argv)`; returns the exit code.

    A UserError becomes a sentence on stderr, and so does a file that may not be read or written
    or finds no space, with the notes that the error carries. Other errors pass.
    """
    try:
        return main(argv) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output has left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in _ACCESS_ERRNOS:
            raise
        notes = getattr(error, "__notes__", [])
        print("\n".join([f"error: cannot read or write: {error}", *notes]), file=sys.stderr)
        return EXIT_CANNOT_WRITE
    except KeyboardInterrupt as error:
        print("\n".join(["interrupted", *getattr(error, "__notes__", [])]), file=sys.stderr)
        return 130
