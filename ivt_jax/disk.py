"""Files that are whole after a power failure, and folders that one process at a time writes to."""

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from ivt_jax.errors import UserError


def sync(path: Path) -> None:
    """Waits until a file, or what a folder lists, is on the disk; OSError that names it if not."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(descriptor)


def replace_text(file: Path, text: str) -> None:
    """Writes a small file whole or not at all."""
    unfinished = file.with_name(file.name + ".new")
    unfinished.write_text(text, "utf-8")
    sync(unfinished)
    unfinished.replace(file)
    sync(file.parent)


def patiently(call: Callable[[], object], *, seconds: float = 5.0) -> None:
    """Calls, in a thread of its own, what a dead disk may hold up; waits no longer than this."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Makes the folder and keeps other writers out; the system unlocks it if this process dies.

    Raises UserError if another process is inside.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is writing {folder}; wait for it, or end it"
            ) from None
        except OSError:  # some file systems of clusters know no locks
            pass
        yield
