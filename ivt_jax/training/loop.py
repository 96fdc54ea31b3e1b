"""train(): the one loop of both stages, read from top to bottom."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
from ml_collections import ConfigDict

from configs import base
from ivt_jax.config import compare, difference, from_json, resolved_json, validate
from ivt_jax.disk import replace_text, sync
from ivt_jax.errors import UserError
from ivt_jax.retrieval.encoding import make_encoders, truncation_note
from ivt_jax.retrieval.evaluate import encode_split, score
from ivt_jax.training.checkpoint import Checkpoints, saved_metrics
from ivt_jax.training.cluster import (
    check_shared,
    from_first,
    is_first,
    process,
    together,
)
from ivt_jax.training.compilation_cache import use_compilation_cache
from ivt_jax.training.faults import spoil_batch, strike
from ivt_jax.training.goodput import Goodput
from ivt_jax.training.lifecycle import Interrupted, Lifecycle
from ivt_jax.training.profiler import Profiler
from ivt_jax.training.program import Program, make_program
from ivt_jax.training.recovery import Recovery, data_offset
from ivt_jax.training.replicas import make_check, with_flipped_bit
from ivt_jax.training.setup import Data, open_data
from ivt_jax.training.sharding import make_mesh, to_global
from ivt_jax.training.state import create_state
from ivt_jax.training.telemetry import Telemetry
from ivt_jax.training.transfer import initial_params
from ivt_jax.training.window import Window, scalars, write_line
from ivt_jax.validation import leaves

# Fields that change how a run is watched or fed, not what it computes.
_FREE = ("data.workers", "data.threads", "data.prefetch", "data.cache_gib", "training.keep")
_FREE += ("training.log_steps", "training.stop_after", "mesh.data", "mesh.fsdp", "data.directory")
_FREE += ("watchdog.startup", "watchdog.step", "watchdog.step_limit", "watchdog.data")
_FREE += ("training.changed_config",)
_FREE += ("data.worker_deadline", "training.rollbacks", "training.replica_steps")
_FREE += ("mesh.optimizer", "objective.chunk", "training.profile_steps")


def train(
    config: ConfigDict, workdir: str | Path, *, make_objective: Callable, views: tuple[str, ...]
) -> dict[str, float]:
    """Trains to the last step, or resumes where the run in `workdir` stopped.

    Args:
      config: validated; see configs/base.py.
      workdir: the run folder, made if needed.
      make_objective: keyword arguments -> (model, batch, key) -> (loss, metrics).
      views: text levels of a sample.

    Returns:
      The last training metrics; empty where the run was complete before.

    Raises:
      UserError: the folder holds another run, the data does not fit, going back to a checkpoint
        does not mend a loss that is not finite (exit code 3), or a signal asked to stop (130 or
        143, after saving).
    """
    workdir = Path(workdir)
    check_shared(workdir)
    with Lifecycle(workdir, **config.watchdog) as life:
        return _train(config, workdir, life, make_objective=make_objective, views=views)


def _train(
    config: ConfigDict,
    workdir: Path,
    life: Lifecycle,
    *,
    make_objective: Callable,
    views: tuple[str, ...],
) -> dict[str, float]:
    chief = is_first()
    spent = Goodput(workdir, quiet=not chief)
    spent.rest("start")
    use_compilation_cache()
    data, changed = _open(config, workdir, views)
    epoch_steps = max(data.epoch_entries // config.training.batch_size, 1)
    total_steps = config.training.steps or round(config.training.epochs * epoch_steps)

    mesh = make_mesh(data=config.mesh.data, fsdp=config.mesh.fsdp)
    life.connect(mesh)
    program = make_program(
        config,
        mesh=mesh,
        make_objective=make_objective,
        views=views,
        total_steps=total_steps,
        epoch_steps=epoch_steps,
    )
    check = make_check(program.shapes, program.shardings, mesh)
    evaluator = _Evaluator(config, data, program.graphdef, mesh, life)

    with (
        jax.set_mesh(mesh),
        Checkpoints(workdir, keep=config.training.keep, config=config.to_dict()) as checkpoints,
        Profiler(workdir / "profile", steps=tuple(config.training.profile_steps)) as profiler,
    ):
        state, resumed = _first_state(config, checkpoints, program, data, spent)
        note = "\n  ".join([resumed, *changed]) if changed else resumed
        if changed and chief and config.training.changed_config == "accept":
            _store(workdir, config)  # only now: the checkpoint fits it
        first, key = int(state.step), jax.random.key(config.seed)
        step, due_at = first, _Intervals(config, epoch_steps, total_steps)
        last = min(total_steps, first + (config.training.stop_after or total_steps))
        window = Window(program.work, data, spent, state=state)
        recovery = _recovery(config, workdir, checkpoints, program, data)
        with Telemetry(workdir, start_step=first, total_steps=total_steps, quiet=not chief) as log:
            notes = f"{note}\n{life.note}"
            _introduce(log, config, data, program.shapes, epoch_steps, total_steps, notes)
            strike("startup.compile", process=process())
            metrics, due, saved, offset = {}, None, first, data_offset(state)
            batches = data.batches(config, start=first + offset, say=log.say)
            spent.mark(first, rest="prepare")
            if first and due_at.evaluation(first) and _unscored(workdir, first, evaluator):
                checkpoints.save(state, metrics=evaluator(state.params, first, log))
            while step < last:
                step += 1
                batch = life.next(functools.partial(window.next, batches), step)
                if batch is None:  # a signal came first
                    if step - 1 > saved:
                        write_line(log, step - 1, metrics, window, program.schedule)
                        check(state, step - 1)
                        checkpoints.save(state, metrics={})
                    break
                data.report(batch, workdir / "substituted.jsonl", log.say)
                spoil_batch(batch, step + offset)
                profiler.before(step)
                with spent.span(window.kind):
                    state, metrics = program.step(state, to_global(mesh, batch), key)
                state = _struck(state, step)
                recovery.note(step, metrics)
                for note in filter(None, (life.agree(), profiler.after(step, metrics))):
                    log.say(note)
                window.count(metrics)
                stopping = life.signal is not None or step == last
                evaluate = due_at.evaluation(step)
                save = stopping or due_at.save(step)
                # Read one step late, so that the device never waits for the host.
                tripped = due is not None and write_line(log, *due, window, program.schedule)
                due = None
                if not tripped and (evaluate or save):
                    tripped = write_line(log, step, metrics, window, program.schedule)
                if tripped:
                    state = _go_back(state, recovery, life, log, spent)
                    step, offset = int(state.step), data_offset(state)
                    saved = step
                    batches.move(step + offset)
                    life.pause()
                    window.restart(step)
                    continue
                if evaluate or save or due_at.comparison(step):
                    check(state, step)
                if evaluate or save:
                    with spent.span("evaluate"):
                        scores = evaluator(state.params, step, log) if evaluate else {}
                    stopping = stopping or life.signal is not None
                    if stopping or not float(metrics["skipped_in_row"]):
                        life.enter("save", step)
                        with spent.span("save"):
                            checkpoints.save(state, metrics=scores)
                        saved = step
                    else:
                        log.say(f"step {step} is not saved: it was skipped")
                    life.pause()
                    spent.mark(step)
                    window.restart(step)
                elif step % config.training.log_steps == 0:
                    due = (step, metrics)
                if stopping:
                    break
            life.enter("save", int(state.step))
            batches.close()
            checkpoints.wait()
            spent.mark(int(state.step), rest="save")
            cut = data.cut_texts()
            data.list_bad([], workdir / "substituted.jsonl", log.say)
            step = int(state.step)
            unscored = step == total_steps and _unscored(workdir, step, evaluator)
            _end(log, life, step, total_steps, workdir, complete=not unscored)
            for line in cut:
                log.say(line)
    return scalars(metrics)


def _first_state(config: ConfigDict, checkpoints, program: Program, data: Data, spent: Goodput):
    """The newest state of the run, or a fresh one, and a line that says which."""
    strike("startup.restore", process=process())
    with spent.span("restore"):
        state = checkpoints.restore_newest(program.shapes, program.shardings)
    if state is not None:
        return state, f"resumed at step {int(state.step)}"
    params, note = initial_params(
        program.model, tokenizer=data.tokenizer, seed=config.seed, **config.init
    )
    state = create_state(
        program.model,
        program.optimizer,
        shardings=program.shardings,
        seed=config.seed,
        params=params,
    )
    return state, note


def _struck(state, step: int):
    """The state, or one that a test wants spoiled here."""
    return with_flipped_bit(state) if strike("copy", step, process=process()) else state


def _recovery(config: ConfigDict, workdir: Path, checkpoints, program: Program, data: Data):
    return Recovery(
        workdir,
        restore=functools.partial(checkpoints.restore_newest, program.shapes, program.shardings),
        origin=data.origin,
        batch_size=config.training.batch_size,
        rollbacks=config.training.rollbacks,
        memory=config.training.skip_limit + config.training.log_steps + 1,
        chief=is_first(),
    )


def _end(
    log: Telemetry, life: Lifecycle, step: int, total_steps: int, workdir: Path, *, complete: bool
) -> None:
    """Says where the run stands; UserError if a signal stopped it before its end."""
    if life.signal is not None and (step < total_steps or not complete):
        raise UserError(
            f"stopped by {life.signal.name}; step {step} of {total_steps} is saved in "
            f"{workdir}.\nThe same command goes on from there.",
            exit_code=128 + life.signal,
        )
    log.say(f"step {step} of {total_steps} is saved in {workdir}")


def _go_back(state, recovery: Recovery, life: Lifecycle, log: Telemetry, spent: Goodput):
    """The state of an earlier checkpoint; what was written of later steps leaves the logs."""
    life.enter("startup", int(state.step))  # reading a checkpoint takes as long as at the start
    with spent.span("restore"):
        state, note = recovery.back(state)
    log.rewind(int(state.step))
    log.say(note)
    spent.mark(int(state.step), rest="other")
    return state


def _open(config: ConfigDict, workdir: Path, views) -> tuple[Data, list[str]]:
    """The data, and what a resume changes; UserError on all processes if one finds a fault."""
    ours = resolved_json(config)
    theirs = from_first("configuration", ours)
    with together("configuration"):  # before devices are met: that takes all processes
        if theirs != ours:
            raise _disagreement(theirs, config)
    with together("setup"):
        validate(config, device_count=jax.device_count(), workdir=workdir)
        data = open_data(config, views=views)
    with together("work directory"):
        changed = _claim(workdir, config, data) if is_first() else []
    return data, changed


def _disagreement(theirs: str, config: ConfigDict) -> UserError:
    lines = ["another configuration than that of process 0:", *compare(from_json(theirs), config)]
    return UserError("\n  ".join(lines))


def _claim(workdir: Path, config: ConfigDict, data: Data) -> list[str]:
    """Writes config.json and vocab.txt, or checks that a run already there is the same.

    Returns lines on what differs and may.
    """
    file = workdir / "config.json"
    if not file.is_file():
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "vocab.txt").write_bytes(data.tokenizer.path.read_bytes())
        sync(workdir / "vocab.txt")
        _store(workdir, config)
        return []
    changed = _changes(from_json(file.read_text()), config)
    refused = [line for line in changed if line.split(":")[0] not in _FREE]
    cure = "Use another --workdir, or the same values to resume it"
    if config.training.changed_config == "accept":
        refused = []
    elif refused:
        cure += "; --config.training.changed_config=accept goes on with the new ones"
    if (workdir / "vocab.txt").read_bytes() != data.tokenizer.path.read_bytes():
        refused.append(f"the vocabulary: vocab.txt there -> {data.tokenizer.path}")
    if refused:
        lines = "\n  ".join(refused)
        raise UserError(f"{workdir} holds a run with another configuration:\n  {lines}\n{cure}.")
    return [f"changed: {line}" for line in changed]


def _changes(saved: ConfigDict, config: ConfigDict) -> list[str]:
    """What differs; a field that the saved run's release did not know had its default."""
    old, new, defaults = leaves(saved), leaves(config), leaves(base.get_config())
    known = [field for field in new if field in old or new[field] != defaults[field]]
    return [line for line in compare(saved, config) if line.split(":")[0] in {*known, *old}]


def _store(workdir: Path, config: ConfigDict) -> None:
    replace_text(workdir / "config.json", resolved_json(config))


def _introduce(log, config, data, shapes, epoch_steps, total_steps, note) -> None:
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes.params))
    log.say("configuration, where it differs from configs/base.py:")
    for line in difference(config):
        log.say(f"  {line}")
    log.say(
        f"{count:,} parameters on {jax.device_count()} {jax.devices()[0].platform} device(s); "
        f"{data.description}; {total_steps} steps of {config.training.batch_size}, "
        f"{epoch_steps} an epoch"
    )
    seen = data.epochs(total_steps * config.training.batch_size)
    passes = ", ".join(f"{seen[f'epochs_{name}']:.2f} over {name}" for name in data.names)
    log.say(f"passes by the last step: {passes}")
    for line in note.splitlines():
        log.say(line)


class _Intervals:
    """The steps at which a run is evaluated and saved."""

    def __init__(self, config: ConfigDict, epoch_steps: int, total_steps: int):
        self.total, self.comparisons = total_steps, config.training.replica_steps
        self.evaluations, self.saves = (
            max(round(epochs * epoch_steps), 1) if epochs else 0
            for epochs in (config.training.eval_epochs, config.training.save_epochs)
        )

    def evaluation(self, step: int) -> bool:
        return step == self.total or bool(self.evaluations and step % self.evaluations == 0)

    def save(self, step: int) -> bool:
        return bool(self.saves and step % self.saves == 0)

    def comparison(self, step: int) -> bool:
        return bool(self.comparisons and step % self.comparisons == 0)


def _unscored(workdir: Path, step: int, evaluator: "_Evaluator") -> bool:
    """Whether a signal broke off the evaluation of a saved step."""
    return bool(evaluator.sources) and saved_metrics(workdir, step)["score"] < 0


class _Evaluator:
    """Scores the selecting split and, beside it, the reported one."""

    def __init__(self, config: ConfigDict, data: Data, graphdef, mesh, life: Lifecycle):
        encoders = make_encoders(graphdef, mesh, dtype=config.model.dtype)
        self.sources = data.evaluation
        self.select = config.evaluation.select
        self.encode = {
            "image_size": tuple(config.model.image_size),
            "tokenizer": data.tokenizer,
            "length": config.data.text_length,
            "separator": config.data.separator,
            "batch_size": config.evaluation.batch_size,
        }
        self.encoders = dataclasses.replace(
            encoders,
            image=life.interruptible(encoders.image),
            text=life.interruptible(encoders.text),
        )

    def __call__(self, params, step: int, log: Telemetry) -> dict[str, float]:
        saved = {}
        try:
            encoded_splits = {
                split: encode_split(self.encoders, params, source, **self.encode)
                for split, source in self.sources.items()
            }
        except Interrupted:  # the resumed run evaluates again
            return {}
        for split, encoded in encoded_splits.items():
            if encoded.truncated:
                cut = encoded.truncated, len(encoded.captions)
                log.say(f"{split}: {truncation_note(*cut, length=self.encode['length'])}")
            metrics = score(encoded)
            log.evaluation(step, split, metrics)
            saved |= {f"{split}_{name}": value for name, value in metrics.items()}
        if self.sources:
            saved["score"] = (saved[f"{self.select}_R1"] + saved[f"{self.select}_mAP"]) / 2
        return saved
