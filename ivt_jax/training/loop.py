"""train(): the one loop of both stages, read from top to bottom."""

import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from ivt_jax.config import compare, difference, from_json, resolved_json, validate
from ivt_jax.errors import UserError
from ivt_jax.model.ivt import IVTConfig
from ivt_jax.retrieval.evaluate import encode_split, make_encoders, score, truncation_note
from ivt_jax.training.checkpoint import Checkpoints
from ivt_jax.training.faults import spoil_batch, strike
from ivt_jax.training.goodput import Goodput
from ivt_jax.training.health import guarded
from ivt_jax.training.lifecycle import StopRequest
from ivt_jax.training.optimizer import make_optimizer, make_schedule
from ivt_jax.training.recovery import Recovery, data_offset
from ivt_jax.training.replicas import make_check, with_flipped_bit
from ivt_jax.training.setup import Data, open_data
from ivt_jax.training.sharding import BATCH, REPLICATED, make_mesh, to_global
from ivt_jax.training.state import abstract_state, create_state, make_step, split_model
from ivt_jax.training.telemetry import Telemetry
from ivt_jax.training.transfer import initial_params

# Fields that change how a run is watched or fed, not what it computes.
_FREE = ("data.workers", "data.threads", "data.prefetch", "data.cache_gib", "training.keep")
_FREE += ("training.log_steps", "training.stop_after", "mesh.data", "mesh.fsdp", "data.directory")
_FREE += ("data.worker_deadline", "training.rollbacks", "training.replica_steps")


def train(
    config: ConfigDict, workdir: str | Path, *, make_objective: Callable, views: tuple[str, ...]
) -> dict[str, float]:
    """Trains to the last step, or resumes where the run in `workdir` stopped.

    Args:
      config: validated; see configs/base.py.
      workdir: the run folder, made if needed.
      make_objective: keyword arguments -> (model, batch, key) -> (loss, metrics).
      views: text levels of a sample, each with its own image view.

    Returns:
      The last training metrics; empty where the run was complete before.

    Raises:
      UserError: the folder holds another run, the data does not fit, going back to a checkpoint
        does not mend a loss that is not finite (exit code 3), or a signal asked to stop (130 or
        143, after saving).
    """
    workdir = Path(workdir)
    spent = Goodput(workdir, quiet=jax.process_index() > 0)
    spent.rest("start")
    validate(config, device_count=jax.device_count(), workdir=workdir)
    chief = jax.process_index() == 0
    data = open_data(config, views=views)
    _claim(workdir, config, data)
    epoch_steps = max(data.epoch_entries // config.training.batch_size, 1)
    total_steps = config.training.steps or round(config.training.epochs * epoch_steps)

    model_config = IVTConfig(**config.model)
    mesh = make_mesh(**config.mesh)
    graphdef, _ = split_model(model_config)
    schedule, optimizer = _make_optimizer(config, total_steps, epoch_steps)
    shapes, shardings = abstract_state(model_config, optimizer, mesh=mesh)
    step_function = _jitted_step(
        config, graphdef, optimizer, make_objective, views=views, shardings=shardings, mesh=mesh
    )
    check = make_check(shapes, shardings, mesh)
    evaluator = _Evaluator(config, data, make_encoders(graphdef, mesh))

    with (
        jax.set_mesh(mesh),
        Checkpoints(workdir, keep=config.training.keep) as checkpoints,
        StopRequest() as stop,
    ):
        with spent.span("restore"):
            state = checkpoints.restore_newest(shapes, shardings)
        note = f"resumed at step {int(state.step)}" if state is not None else ""
        if state is None:
            params, note = initial_params(
                model_config, tokenizer=data.tokenizer, seed=config.seed, **config.init
            )
            state = create_state(
                model_config, optimizer, shardings=shardings, seed=config.seed, params=params
            )
        first = step = int(state.step)
        key = jax.random.key(config.seed)
        eval_steps, save_steps = _intervals(config, epoch_steps)
        last = total_steps
        if config.training.stop_after:
            last = min(last, first + config.training.stop_after)
        compare_steps = config.training.replica_steps
        skipped = float(state.opt_state.health.skipped)
        window = _Window(config.training.batch_size, data, spent, skipped=skipped)
        recovery = Recovery(
            workdir,
            restore=lambda before: checkpoints.restore_newest(shapes, shardings, before=before),
            origin=data.origin,
            batch_size=config.training.batch_size,
            rollbacks=config.training.rollbacks,
            memory=config.training.skip_limit + config.training.log_steps + 1,
            chief=chief,
        )
        with Telemetry(workdir, start_step=first, total_steps=total_steps, quiet=not chief) as log:
            _introduce(log, config, data, shapes, epoch_steps, total_steps, note)
            metrics, due, cut, offset = {}, None, 0, data_offset(state)
            batches = data.batches(config, start=first + offset, say=log.say)
            spent.mark(first, rest="prepare")
            while step < last:
                step += 1
                with spent.span("data"):
                    batch = next(batches)
                cut += data.report(batch, workdir / "substituted.jsonl", log.say)
                spoil_batch(batch, step + offset)
                with spent.span("step" if window.compiled else "compile"):
                    state, metrics = step_function(state, to_global(mesh, batch), key)
                recovery.note(step, metrics)
                if strike("copy", step, process=jax.process_index()):
                    state = with_flipped_bit(state)
                window.count()
                stopping = stop.signal is not None or step == last
                evaluate = step == total_steps or (eval_steps and step % eval_steps == 0)
                save = stopping or (save_steps and step % save_steps == 0)
                # Read one step late, so that the device never waits for the host.
                tripped = due is not None and _log(log, *due, window, schedule)
                due = None
                if not tripped and (evaluate or save):
                    tripped = _log(log, step, metrics, window, schedule)
                if tripped:
                    state = _go_back(state, recovery, checkpoints, log, spent)
                    step, offset = int(state.step), data_offset(state)
                    batches.move(step + offset)
                    window.restart()
                    continue
                if evaluate or save or (compare_steps and step % compare_steps == 0):
                    with spent.span("save"):
                        check(state, step)
                if evaluate or save:
                    with spent.span("evaluate"):
                        scores = evaluator(state.params, step, log) if evaluate else {}
                    if stopping or not float(metrics["skipped_in_row"]):
                        with spent.span("save"):
                            checkpoints.save(state, metrics=scores)
                    else:
                        log.say(f"step {step} is not saved: it was skipped")
                    spent.mark(step)
                    window.restart()
                elif step % config.training.log_steps == 0:
                    due = (step, metrics)
                if stopping:
                    break
            batches.close()
            with spent.span("save"):
                checkpoints.wait()
            spent.mark(step, rest="other")
            step = int(state.step)
            if stop.signal is not None and step < total_steps:
                raise UserError(
                    f"stopped by {stop.signal.name}; step {step} of {total_steps} is saved in "
                    f"{workdir}.\nThe same command goes on from there.",
                    exit_code=143 if stop.signal.name == "SIGTERM" else 130,
                )
            log.say(f"step {step} of {total_steps} is saved in {workdir}")
            if cut:
                log.say(f"{cut} texts were longer than data.text_length and were cut")
    return _scalars(metrics)


def _jitted_step(
    config: ConfigDict, graphdef, optimizer, make_objective: Callable, *, views, shardings, mesh
):
    objective = make_objective(
        views=views,
        erase=config.data.erase,
        masking=config.masking.to_dict(),
        **config.objective,
    )
    batch_sharding, replicated = NamedSharding(mesh, BATCH), NamedSharding(mesh, REPLICATED)
    return jax.jit(
        make_step(objective, graphdef, optimizer, accumulate=config.training.accumulate),
        donate_argnums=0,
        in_shardings=(shardings, batch_sharding, replicated),
        out_shardings=(shardings, replicated),
    )


def _intervals(config: ConfigDict, epoch_steps: int) -> list[int]:
    """Steps between two evaluations and between two saves; 0 = never."""
    both = config.training.eval_epochs, config.training.save_epochs
    return [max(round(epochs * epoch_steps), 1) if epochs else 0 for epochs in both]


def _go_back(state, recovery: Recovery, checkpoints: Checkpoints, log: Telemetry, spent: Goodput):
    """The state of an earlier checkpoint; what was written of later steps leaves the logs."""
    with spent.span("restore"):
        state, note = recovery.back(state)
        checkpoints.drop_after(int(state.step))
    log.rewind(int(state.step))
    log.say(note)
    spent.mark(int(state.step), rest="other")
    return state


def _scalars(metrics: dict) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if not np.ndim(value)}


def _claim(workdir: Path, config: ConfigDict, data: Data) -> None:
    """Writes config.json and vocab.txt, or checks that a run already there is the same."""
    file = workdir / "config.json"
    if file.is_file():
        changed = [
            line
            for line in compare(from_json(file.read_text()), config)
            if line.split(":")[0] not in _FREE
        ]
        if (workdir / "vocab.txt").read_bytes() != data.tokenizer.path.read_bytes():
            changed.append(f"the vocabulary: vocab.txt there -> {data.tokenizer.path}")
        if changed:
            raise UserError(
                f"{workdir} holds a run with another configuration:\n  "
                + "\n  ".join(changed)
                + "\nUse another --workdir, or the same values to resume it."
            )
        return
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "vocab.txt").write_bytes(data.tokenizer.path.read_bytes())
    written = file.with_suffix(".tmp")
    written.write_text(resolved_json(config))
    written.replace(file)


def _make_optimizer(config: ConfigDict, total_steps: int, epoch_steps: int):
    options = config.optimizer.to_dict()
    peak, bias_factor = options.pop("learning_rate"), options.pop("bias_factor")
    schedules = [
        make_schedule(
            peak=rate, total_steps=total_steps, epoch_steps=epoch_steps, **config.schedule
        )
        for rate in (peak, peak * bias_factor)
    ]
    optimizer = make_optimizer(schedule=schedules[0], bias_schedule=schedules[1], **options)
    return schedules[0], guarded(
        optimizer,
        limit=config.training.skip_limit,
        sigmas=config.training.skip_spikes,
        window=config.training.spike_window,
    )


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


class _Window:
    """Pace since the last line, the share of time spent waiting for data, and epochs so far."""

    def __init__(self, batch_size: int, data: Data, spent: Goodput, *, skipped: float):
        self.batch_size, self.data, self.spent = batch_size, data, spent
        self.compiled, self.skipped = False, skipped
        self.restart()

    def restart(self) -> None:
        self.began, self.waited, self.steps = time.monotonic(), self.spent.total["data"], 0

    def count(self) -> None:
        self.steps, self.compiled = self.steps + 1, True

    def read(self, step: int) -> dict[str, float]:
        pace = {}
        if self.steps:  # a line just before leaves nothing to measure
            elapsed = max(time.monotonic() - self.began, 1e-9)
            waited = self.spent.total["data"] - self.waited
            pace["pairs_per_second"] = self.batch_size * self.steps / elapsed
            pace["data_wait_percent"] = 100 * waited / elapsed
        self.restart()
        return pace | self.data.epochs(step * self.batch_size)


def _log(log: Telemetry, step: int, metrics: dict, window: _Window, schedule) -> bool:
    """Writes a line; returns whether too many steps in a row were skipped."""
    values = _scalars(metrics)
    tripped = bool(values.pop("tripped"))
    if values["skipped"] > window.skipped:
        log.say(
            f"skipped steps up to step {step}: {values['skipped'] - window.skipped:.0f} more, "
            f"{values['skipped']:.0f} in all, {values['spikes']:.0f} of them as spikes "
            "(docs/faults.md)"
        )
    window.skipped = values["skipped"]
    rate = float(schedule(np.int32(step - 1)))
    log.train(step, values | {"learning_rate": rate} | window.read(step))
    window.spent.mark(step)
    return tripped


class _Evaluator:
    """Scores the selecting split and, beside it, the reported one."""

    def __init__(self, config: ConfigDict, data: Data, encoders):
        self.sources = data.evaluation
        self.select = config.evaluation.select
        self.encode = {
            "image_size": tuple(config.model.image_size),
            "tokenizer": data.tokenizer,
            "length": config.data.text_length,
            "separator": config.data.separator,
            "batch_size": config.evaluation.batch_size,
        }
        self.encoders = encoders

    def __call__(self, params, step: int, log: Telemetry) -> dict[str, float]:
        saved = {}
        for split, source in self.sources.items():
            encoded = encode_split(self.encoders, params, source, **self.encode)
            if encoded.truncated:
                cut = encoded.truncated, len(encoded.captions)
                log.say(f"{split}: {truncation_note(*cut, length=self.encode['length'])}")
            metrics = score(encoded)
            log.evaluation(step, split, metrics)
            saved |= {f"{split}_{name}": value for name, value in metrics.items()}
        if self.sources:
            saved["score"] = (saved[f"{self.select}_R1"] + saved[f"{self.select}_mAP"]) / 2
        return saved
