"""One job a work directory: a lock file that its holder keeps alive, and that outlives no holder.

The file holds host, process, the process's start and a count of beats. A holder on this host is
looked up; on another host, or in another container, it lives as long as the count goes up.
"""

import json
import os
import secrets
import socket
import time
from pathlib import Path

from ivt_jax.errors import UserError

FILE = "lock.json"
BEAT = 10.0  # seconds between two beats
SILENCE = 45.0  # seconds without one after which a holder on another host is gone


class Lock:
    """Takes the lock of a work directory, or raises UserError naming who has it.

    `note` says what was found: empty, or that a lock was left behind and taken over.
    """

    def __init__(self, workdir: Path):
        self.file = Path(workdir) / FILE
        self.note = ""
        self._beats = 0
        self._mine = {
            "host": socket.gethostname(),
            "space": _process_space(),
            "pid": os.getpid(),
            "born": _born(os.getpid()),
            "started": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            "word": secrets.token_hex(8),
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        while not self._create():
            holder = self._read()
            if holder is None:
                continue  # it was released just now
            if self._alive(holder):
                raise UserError(
                    f"{workdir} is in use by process {holder.get('pid')} on "
                    f"{holder.get('host')}, started {holder.get('started')}.\n"
                    f"Use another --workdir, or end that run (if it is gone, remove {self.file})."
                )
            self._set_aside(holder)

    def beat(self) -> bool:
        """Shows that the holder lives; False if the lock is another's by now."""
        if (self._read() or {}).get("word") != self._mine["word"]:
            return False
        self._beats += 1
        beaten = self.file.with_suffix(f".{self._mine['word']}")
        beaten.write_text(json.dumps(self._mine | {"beats": self._beats}))
        beaten.replace(self.file)
        return True

    def release(self) -> None:
        """Removes the lock if it is still held; twice does no harm."""
        if (self._read() or {}).get("word") == self._mine["word"]:
            self.file.unlink(missing_ok=True)

    def _create(self) -> bool:
        try:
            with self.file.open("x") as file:
                file.write(json.dumps(self._mine | {"beats": 0}))
        except FileExistsError:
            return False
        return True

    def _read(self) -> dict | None:
        """Who holds the lock; None if nobody does, {} if the file tells nothing."""
        try:
            held = json.loads(self.file.read_text())
        except FileNotFoundError:
            return None
        except ValueError:  # being written, or torn by a crash
            return {}
        return held if isinstance(held, dict) else {}

    def _alive(self, holder: dict) -> bool:
        if all(holder.get(name) == self._mine[name] for name in ("host", "space")):
            pid = holder.get("pid")
            return pid != os.getpid() and _born(pid) == holder.get("born") != ""
        deadline = time.monotonic() + SILENCE
        while time.monotonic() < deadline:
            now = self._read()
            if now is None:
                return False
            if now != holder and holder:
                return True  # it beats, or another has just taken it
            holder = holder or now
            time.sleep(min(1.0, SILENCE / 10))
        return False

    def _set_aside(self, holder: dict) -> None:
        """Of several that find the same lock left behind, one renames it."""
        aside = self.file.with_suffix(f".{self._mine['word']}")
        try:
            self.file.rename(aside)
        except FileNotFoundError:
            return
        aside.unlink()
        self.note = (
            f"took over a lock left behind by process {holder.get('pid')} on "
            f"{holder.get('host')}, started {holder.get('started')}"
        )


def _process_space() -> str:
    """Containers may share a host's name, but not the numbers of its processes."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _born(pid: object) -> str:
    """When a process of this host started, in ticks since boot; "" if there is none."""
    try:
        if not Path("/proc/self/stat").exists():  # macOS: that it lives has to do
            os.kill(int(str(pid)), 0)
            return "unknown"
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if fields[0] == "Z" else fields[19]
