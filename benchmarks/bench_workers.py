"""Contestants in processes of their own, asked one after the other.

A process for each keeps one's threads and memory away from another's. Commands and answers are
JSON lines; `python -m benchmarks.bench_workers ours|torch` is the other end.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import bench_case

# JAX shares an accelerator with PyTorch here, so it must not take three quarters at its start.
_ENVIRONMENT = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "2"}
ROOT = Path(__file__).parent.parent


class WorkerError(Exception):
    """What went wrong in a worker, in one line."""


class Worker:
    """A contestant; a context manager that ends its process.

    Args:
      side: "ours" or "torch", a module of this folder.
      log: file for what the process prints.
    """

    def __init__(self, side: str, log: Path):
        self.log = log
        self._output = log.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.bench_workers", side],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._output,
            text=True,
            cwd=ROOT,
            env=_ENVIRONMENT | dict(os.environ),
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_) -> None:
        assert self.process.stdin
        self.process.stdin.close()  # the loop of the process ends with its input
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()
        self._output.close()

    def send(self, **command) -> None:
        """Gives a command; `answer` waits for what comes of it."""
        assert self.process.stdin
        try:
            print(json.dumps(command), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            raise WorkerError(self._last_words()) from None

    def answer(self) -> dict[str, Any]:
        """The answer to the last command. Raises WorkerError if it failed."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise WorkerError(self._last_words())
        found = json.loads(line)
        if "error" in found:
            raise WorkerError(found["error"])
        return found

    def ask(self, **command) -> dict[str, Any]:
        """Gives a command and waits."""
        self.send(**command)
        return self.answer()

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return f"the process ended: {lines[-1] if lines else 'without a word'} ({self.log})"


def serve(side: str, commands, answers) -> None:
    """Does what each line of `commands` says."""
    module = importlib.import_module(f"benchmarks.bench_{side}")
    known: dict[str, Any] = {}
    for line in commands:
        command = json.loads(line)
        try:
            found = _done(module, known, **command)
        except Exception as error:  # any failure is a row of the table, not the end of the run
            message = str(error).strip().splitlines()
            found = {"error": f"{type(error).__name__}: {message[0] if message else ''}"[:300]}
        print(json.dumps(found), file=answers, flush=True)


def _done(module, known: dict[str, Any], *, do: str, **given) -> dict[str, Any]:
    if do == "machine":
        return module.machine()
    if do == "case":
        known.update(module.functions(Path(given["folder"]), given["spec"]))
        return {}
    if do == "write":
        bench_case.write_case(Path(given.pop("folder")), **given)
        return {}
    if do == "matrix":
        known["matrix"] = module.matrix_rate(given["dtype"], given["size"])
        return {}
    if do == "ranking":
        from benchmarks import bench_ranking

        known.update(bench_ranking.functions(**given))
        return {}
    began = time.perf_counter()
    values = [known[given["name"]]() for _ in range(given.get("times", 1))]
    seconds = (time.perf_counter() - began) / len(values)
    module.release()
    return {"seconds": seconds, "peak": _peak(module), "values": _numbers(values[-1])}


def _numbers(value) -> Any:
    """What of a result can be told in a line: numbers and metrics, not arrays."""
    if isinstance(value, int | float):
        return value
    if not isinstance(value, dict):
        return None
    return {k: float(v) for k, v in value.items() if not isinstance(v, dict) and np.ndim(v) == 0}


def _peak(module) -> int:
    """Most bytes held so far: on the accelerator, or by this process where there is none."""
    return module.peak_memory() or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints goes to the log
    serve(sys.argv[1], sys.stdin, replies)
