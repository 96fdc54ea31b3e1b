"""Checkpoints of a run: params, optimizer, config, metrics and fingerprints of one atomic step.

A run folder holds config.json, vocab.txt, metrics.jsonl, checkpoints/<step>/<item> and, with the
SHA-256 of each step's files, integrity/<step>.json.
"""

import contextlib
import logging
import re
import threading
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from ivt_jax.errors import EXIT_CANNOT_WRITE, EXIT_DIVERGED, EXIT_NO_CHECKPOINT, UserError
from ivt_jax.training import integrity, steps
from ivt_jax.training.cluster import exchange, from_first, is_first, process
from ivt_jax.training.faults import fill_disk, strike
from ivt_jax.training.health import counts
from ivt_jax.training.integrity import RECORD, Damaged
from ivt_jax.training.restore import (
    choose_step,
    compare,
    first_line,
    listed,
    proven,
    read_arrays,
    read_config,
    restore_params,
    saved_metrics,
)
from ivt_jax.training.state import TrainState
from ivt_jax.training.steps import FOLDER, saved_steps

__all__ = [
    "FOLDER",
    "Checkpoints",
    "choose_step",
    "read_config",
    "restore_params",
    "saved_metrics",
    "saved_steps",
]
ARRAYS = ("params", "optimizer")  # the items of arrays; the others are JSON
FAILURES = 3  # saves in a row that may fail, the last of which ends the run
_WRITE_FAULT = re.compile("RESOURCE_EXHAUSTED|PERMISSION_DENIED|No space left|os_error_code")
_BARRIERS = ("async_write_complete", "async_commit_complete")  # of a save, as Orbax calls them
_PATIENCE = 1200  # seconds until a process that does not come to one is given up
_LAST_WORDS = 8  # errors that Orbax may still hold of one save
# Loggers that print a traceback for every array of a save that failed, and how each begins.
_DROWNING = (("asyncio", "Task exception was never retrieved"), ("absl", "[process="))


class Checkpoints:
    """Saves and restores the state of one run; the newest `keep` steps and the best stay.

    "Best" is the highest `score` among the metrics saved with the steps. A step is deleted only
    after a newer one is on the disk with its manifest. Every process of a run makes one, and
    calls its methods at the same steps. `config` is stored beside each step.
    """

    def __init__(self, workdir: Path, *, keep: int, config: dict[str, Any] | None = None):
        self.run, self.folder = Path(workdir), (Path(workdir) / FOLDER).absolute()
        self._keep, self._config = keep, config or {}
        self._chief = is_first()
        self._failures, self._reason = 0, ""  # saves that failed since the last good one, and why
        self._step = 0  # that is being saved
        self._asked, self._saves = 0, 0  # names of what processes tell each other serve once
        self._barriers: list[str] = []  # of this save, still to come
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None  # of the thread
        if self._chief:
            self.folder.mkdir(parents=True, exist_ok=True)
            steps.sweep(self.run)
        handlers = {
            "metrics": ocp.JsonCheckpointHandler("metrics"),
            **{name: ocp.StandardCheckpointHandler() for name in ARRAYS},
            **{name: ocp.JsonCheckpointHandler() for name in ("config", RECORD)},
        }
        self._writer = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(**handlers),
            async_options=ocp.options.AsyncOptions(
                timeout_secs=_PATIENCE,
                post_finalization_callback=self._before_commit,  # Orbax calls it before the rename
                create_directories_asynchronously=False,  # a full disk then fails at once
                barrier_sync_fn=self._meet,
            ),
        )

    def __enter__(self) -> "Checkpoints":
        for name, _ in _DROWNING:
            logging.getLogger(name).addFilter(_says_more)
        return self

    def __exit__(self, *_):
        if self._thread:
            self._thread.join()
        self._forget()
        self._writer.close()
        for name, _ in _DROWNING:
            logging.getLogger(name).removeFilter(_says_more)

    def save(self, state: TrainState, *, metrics: dict[str, float]) -> None:
        """Starts an asynchronous, atomic save; `metrics` should hold `score` after evaluation.

        A save that cannot be written (a full disk) is an alarm on stderr, and training goes on.

        Raises:
          UserError: the third save in a row cannot be written (exit code 73), or the state is not
            finite (3): such a one is never saved.
        """
        self._settle()
        self._step = step = int(state.step)
        self._saves, self._barriers = self._saves + 1, [*_BARRIERS]
        strike("save.begin", step, process=process())
        fill_disk(strike("save.full", step, process=process()))
        in_row = int(counts(state.opt_state).get("skipped_in_row", 0))
        noted = {"score": -1.0, **metrics, **({"skipped_in_row": in_row} if in_row else {})}
        items = {"config": self._config, "metrics": noted}
        arrays = {"params": state.params, "optimizer": state.opt_state}
        leaves, broken = integrity.fingerprints(arrays)
        if broken:
            raise UserError(
                f"at step {step} the state is not finite and was not saved: {listed(broken)}\n"
                "Lower optimizer.learning_rate or set optimizer.clip_norm; earlier checkpoints "
                "stay.",
                exit_code=EXIT_DIVERGED,
            )
        record = integrity.make_record(step, leaves, **items)
        try:
            self._start(step, arrays, {**items, RECORD: record})
        except Exception as error:
            self._fail(error)
        self._thread = threading.Thread(target=self._finish, args=(step,), name="checkpoint")
        self._thread.start()
        if self._failures == FAILURES - 1:
            self._settle()

    def wait(self) -> None:
        """Returns when the last save is on disk; UserError (exit code 73) if it cannot be."""
        self._settle()
        if self._failures:
            raise self._refusal()

    def _start(self, step: int, arrays: dict[str, Any], texts: dict[str, Any]) -> None:
        error = None
        self._forget()
        try:
            if self._chief:
                steps.clear_way(self.run, step)
                steps.check_room(self.run)
        except OSError as caught:
            error = caught
        reason = self._any(error)  # in Orbax the others would wait for ever
        if reason:
            raise error or OSError(reason)
        saved = {name: ocp.args.StandardSave(tree) for name, tree in arrays.items()}
        saved |= {name: ocp.args.JsonSave(item) for name, item in texts.items()}
        self._writer.save(self.folder / str(step), args=ocp.args.Composite(**saved))

    def _forget(self) -> None:
        """Takes out of Orbax what it would still raise of earlier saves, which was told then."""
        for _ in range(_LAST_WORDS):
            with contextlib.suppress(Exception):
                return self._writer.wait_until_finished()

    def _meet(self, *, key: str, timeout_ms: int) -> None:
        """A barrier of Orbax's: here a process can tell that its part failed, and then all do."""
        name = next(barrier for barrier in _BARRIERS if barrier in key)
        self._barriers.remove(name)
        told = first_line(self._error) if self._error else ""
        told = exchange(f"{name}/{self._saves}", told, seconds=timeout_ms / 1000)
        for number, text in enumerate(told):
            if text:
                raise OSError(f"process {number}: {text}")

    def _before_commit(self) -> None:
        """On the chief only: JSON files are as safe as arrays before the step has its name."""
        for folder in self.folder.glob(f"{self._step}.*tmp*"):
            integrity.sync_tree(folder)
        strike("save.pre_commit", self._step)

    def _finish(self, step: int) -> None:
        """Runs beside training until the step is on the disk, proven and older ones deleted."""
        try:
            if self._error:
                return
            strike("save.mid", step, process=process())
            self._writer.wait_until_finished()
            strike("save.post_commit", step, process=process())
            if self._chief:
                strike("save.pre_manifest", step)
                self._write_manifest(step)
                strike("save.gc", step)
                self._prune()
                steps.sweep(self.run)  # a failed save may have written on for a while
        except Exception as error:
            self._fail(error)

    def _write_manifest(self, step: int) -> None:
        integrity.write_manifest(self.folder / str(step), steps.manifest_file(self.run, step))

    def _fail(self, error: Exception) -> None:
        """Notes an error of this save, aloud and at once."""
        self._error = error
        if self._chief:
            logging.error(
                "CHECKPOINT %s COULD NOT BE WRITTEN in %s: %s\nTraining goes on from memory; "
                "whole checkpoints: %s. Make room (or mend the disk): the next one is tried at "
                "the next interval.",
                *(self._step, self.folder, first_line(error), saved_steps(self.run)),
            )
            with contextlib.suppress(OSError):
                steps.sweep(self.run)
        for name in list(self._barriers):  # others wait there
            with contextlib.suppress(OSError):
                self._meet(key=name, timeout_ms=1000 * _PATIENCE)

    def _settle(self) -> None:
        """Ends the save that is under way; counts failures, which all processes agree on."""
        if not self._thread:
            return
        self._thread.join()
        self._thread, error, self._error = None, self._error, None
        self._reason = self._any(error)
        if error and not _is_write_fault(error):
            raise error
        self._failures = self._failures + 1 if self._reason else 0
        if self._failures >= FAILURES:
            raise self._refusal()

    def _any(self, error: Exception | None) -> str:
        """What any process says went wrong, or ""; all have to ask."""
        self._asked += 1
        told = exchange(f"checkpoints/{self._asked}", first_line(error) if error else "")
        return next(filter(None, told), "")

    def _refusal(self) -> UserError:
        times = f", {self._failures} times in a row" if self._failures > 1 else ""
        return UserError(
            f"checkpoint {self._step} could not be written in {self.folder}{times}: "
            f"{self._reason}\nWhole ones are {saved_steps(self.run)}. Make room (or mend the "
            "permissions), and the same command goes on from the newest.",
            exit_code=EXIT_CANNOT_WRITE,
        )

    def _prune(self) -> None:
        """Deletes all but the newest and the best; a step of unreadable metrics stays."""
        found = {}
        for step in saved_steps(self.run):
            try:
                found[step] = saved_metrics(self.run, step)
            except UserError as error:
                logging.error("%s", error)
        best = max(found, key=lambda step: (found[step]["score"], step), default=None)
        # A row of skipped steps that grows too long sends the run back to before it.
        calm = [step for step, metrics in found.items() if not metrics.get("skipped_in_row")]
        for step in sorted(found)[: -self._keep]:
            if step not in (best, *calm[-1:]):
                steps.remove(self.run, step)

    def restore_newest(
        self, shapes: TrainState, shardings: TrainState, *, before: int | None = None
    ) -> TrainState | None:
        """The newest whole state, laid out as `shardings`; None when the run has no checkpoint.

        Files are compared with their manifest and arrays with their fingerprints. A damaged step
        is set aside as <step>.corrupt, and the one before it is tried. With `before`, only steps
        below it count, and the others are set aside as <step>.abandoned.

        Raises:
          UserError: there were checkpoints and none is good (exit code 4: a run never starts again
            from nothing by itself), or one does not fit the model (2, with the paths).
        """
        self._settle()
        target = jax.tree.map(
            lambda shape, sharding: jax.ShapeDtypeStruct(
                shape.shape, shape.dtype, sharding=sharding
            ),
            shapes,
            shardings,
        )
        while (step := self._newest(before)) is not None:
            try:
                state = self._restore(step, target)
            except Damaged as error:
                if self._chief:
                    there = steps.set_aside(self.run, step, steps.CORRUPT)
                    logging.error("checkpoint %s is damaged: %s; it is now %s", step, error, there)
                continue
            if self._chief and before is not None:
                for later in saved_steps(self.run):
                    if later >= before:
                        steps.set_aside(self.run, later, steps.ABANDONED)
            return state
        damaged = steps.damaged_steps(self.run)
        if damaged:
            raise UserError(
                f"{self.folder} holds no good checkpoint; damaged are {', '.join(damaged)}.\n"
                "Nothing was overwritten, and the run does not start from nothing by itself: put "
                "back a copy of a checkpoint, or name another --workdir.",
                exit_code=EXIT_NO_CHECKPOINT,
            )
        return None

    def _newest(self, before: int | None) -> int | None:
        """The newest step on the disk, as the chief sees it."""
        found = [step for step in saved_steps(self.run) if before is None or step < before]
        self._asked += 1
        newest = from_first(f"newest/{self._asked}", str(found[-1]) if found else "")
        return int(newest) if newest else None

    def _restore(self, step: int, target: TrainState) -> TrainState:
        """One step, verified; Damaged on every process if it is so for one."""
        whole = False
        with self._agreed_damage():
            if self._chief:
                whole = proven(self.run, step)
        whole = bool(from_first(f"whole/{self._asked}", "yes" if whole else ""))
        arrays, error = None, None
        try:
            arrays = read_arrays(
                self.run, step, {"params": target.params, "optimizer": target.opt_state}
            )
        except UserError:
            raise
        except Exception as caught:  # whatever a damaged file makes Orbax raise
            error = caught
        if isinstance(error, MemoryError):
            raise self._unreadable(step, first_line(error)) from error
        if reason := self._any(error):
            raise (self._unreadable(step, reason) if whole else Damaged(reason)) from error
        assert arrays is not None
        with self._agreed_damage():
            compare(self.run, step, arrays)
        if self._chief and not whole and integrity.read_record(self.folder / str(step)):
            self._write_manifest(step)
        placed = jax.device_put(jax.numpy.int32(step), target.step.sharding)
        return TrainState(placed, arrays["params"], arrays["optimizer"])

    @contextlib.contextmanager
    def _agreed_damage(self):
        """Damaged on every process if one raises it inside."""
        problem = None
        try:
            yield
        except Damaged as error:
            problem = error
        if reason := self._any(problem):
            raise Damaged(reason)

    def _unreadable(self, step: int, reason: str) -> UserError:
        return UserError(
            f"checkpoint {self.folder / str(step)} cannot be restored, though its files are "
            f"whole: {reason}",
            exit_code=EXIT_NO_CHECKPOINT,
        )


def _says_more(record: logging.LogRecord) -> bool:
    """Whether a line is none of those that would drown the one alarm of a failed save."""
    return not (record.exc_info and record.getMessage().startswith(tuple(dict(_DROWNING).values())))


def _is_write_fault(error: Exception) -> bool:
    # TensorStore raises ValueError for a full disk.
    return isinstance(error, OSError) or bool(_WRITE_FAULT.search(str(error)))
