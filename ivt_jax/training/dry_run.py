"""Compiles the training step for a machine that need not be here, and says whether it fits.

`python -m pretrain.main --config=FILE --dry_run=v5e:16x16` ends here. The step is the loop's own
(`make_program`); libtpu from PyPI compiles it for a TPU on any x86-64 Linux machine.
"""

import contextlib
import dataclasses
import importlib.util
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from ml_collections import ConfigDict

from ivt_jax.config import validate
from ivt_jax.data.texts import image_count
from ivt_jax.errors import UserError
from ivt_jax.model.ivt import IVTConfig
from ivt_jax.model.masking import image_slots, text_slots
from ivt_jax.training.chips import CHIPS, GIB, Chip, Target, network_seconds, parse_target
from ivt_jax.training.compilation_cache import nothing_kept
from ivt_jax.training.compiled import KINDS, Traffic, read_traffic
from ivt_jax.training.flops import StepFlops, step_flops
from ivt_jax.training.libtpu import look_for_no_tpu
from ivt_jax.training.program import batch_shapes, make_program, text_lengths
from ivt_jax.training.sharding import make_mesh

_SEARCHES = 4  # compilations at most to find the largest batch
# Two forms: "Used 20.15G of 15.75G hbm" and "temporaries (320.15G) exceeds available HBM".
_OUT_OF_MEMORY = re.compile(r"(?:Used |\()([\d.]+)([KMGT])(?: of|\) exceeds available HBM)")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """One compilation of the step; bytes are those of one chip."""

    batch_size: int
    seconds: float  # of compiling
    needed: int  # arguments + outputs that reuse none of them + temporaries + code
    state: int  # parameters, optimizer state and step
    arguments: int = 0  # the state and the chip's share of the batch
    outputs: int = 0  # beyond those that take the place of arguments
    temporaries: int = 0
    code: int = 0
    flops_once: float = 0.0  # the compiler's own count: every loop body once
    traffic: Traffic | None = None  # None = it does not fit

    @property
    def fits(self) -> bool:
        """Whether the compiler found room for it."""
        return self.traffic is not None


class Machine:
    """The devices to compile for, in a mesh. Raises UserError where they cannot be had."""

    def __init__(self, config: ConfigDict, name: str):
        self.target = parse_target(name)
        self.devices = find_devices(self.target)
        self.chip: Chip | None = CHIPS.get(self.target.chip)
        validate(config, device_count=len(self.devices), files=False)
        try:
            self.mesh = make_mesh(
                data=config.mesh.data, fsdp=config.mesh.fsdp, devices=self.devices
            )
        except ValueError as error:
            raise UserError(f"--dry_run={name}: {error}") from None

    @property
    def slices(self) -> np.ndarray:
        """Number of the slice of each place on the flattened mesh."""
        places = self.mesh.devices.flat
        return np.array([getattr(device, "slice_index", 0) or 0 for device in places])

    def __str__(self) -> str:
        count = len(self.devices)
        hosts = len({device.process_index for device in self.devices})
        slices = f"{self.target.slices} slices, " if self.target.slices > 1 else ""
        sizes = " x ".join(f"{axis}={size}" for axis, size in self.mesh.shape.items())
        return f"{self.target.name}: {slices}{count} chips on {hosts} host(s), mesh {sizes}"


def dry_run(
    config: ConfigDict,
    machine: str,
    *,
    make_objective: Callable,
    views: tuple[str, ...],
    search: bool = True,
    say: Callable[[str], None] = print,
) -> Compiled:
    """Compiles the step of `config` for `machine` and says what it needs, line by line.

    Args:
      config: its values; data, weights and work directory need not be there.
      machine: see `parse_target`.
      make_objective, views: as `training.loop.train` takes them.
      search: also look for the largest batch that fits, by some more compilations.

    Raises:
      UserError: the machine or the configuration is wrong, libtpu is absent, or the step does not
        fit; the last after the largest batch that does is known.
    """
    place = Machine(config, machine)
    say(str(place))

    def compiled(batch_size: int) -> Compiled:
        say(f"compiling for a batch of {batch_size:,} ... (minutes for a large machine)")
        changed = config.copy_and_resolve_references()
        changed.training.batch_size = batch_size
        return compile_step(changed, place, make_objective=make_objective, views=views)

    asked = compiled(config.training.batch_size)
    for line in report(config, asked, place, views=views):
        say(line)
    largest = asked
    if search and place.chip:
        unit = len(place.devices) * config.training.accumulate
        say(f"looking for the largest batch that fits, by up to {_SEARCHES} more compilations")
        largest = largest_batch(asked, compiled, unit=unit, limit=place.chip.hbm)
        if largest.fits:
            say(f"largest batch that fits, by compiling it: {largest.batch_size:,}")
    if not asked.fits:
        raise UserError(_refusal(asked, largest, place))
    return asked


def find_devices(target: Target) -> list:
    """Devices to compile for; nothing runs on them. Raises UserError."""
    # Tracing needs some backend; a dry run leaves an accelerator that is here to others.
    jax.config.update("jax_platforms", "cpu")
    if target.chip == "cpu":
        return _simulated(target)
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("a dry run for TPUs needs their compiler, libtpu: pip install 'jax[tpu]'")
    look_for_no_tpu()
    options: dict[str, Any] = dict(CHIPS[target.chip].options)
    if target.slices > 1:
        options["num_slices"] = target.slices
    layout = "x".join(str(size) for size in target.shape)
    if set(layout) <= {"1", "x"}:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        topology = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{target.chip}:{layout}", **options
        )
    except jax.errors.JaxRuntimeError as error:
        words = str(error).split(":", 1)[-1].strip()
        raise UserError(f"--dry_run={target.name} is no topology of TPUs: {words}") from None
    return list(topology.devices)


def _simulated(target: Target) -> list:
    count = target.shape[0]
    with contextlib.suppress(RuntimeError):  # JAX has begun: what is there must do
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise UserError(
            f"--dry_run={target.name}: this process has {len(devices)} CPU device(s) already; "
            "empty XLA_FLAGS, or start the dry run in a process of its own"
        )
    return devices[:count]


def compile_step(
    config: ConfigDict, machine: Machine, *, make_objective: Callable, views: tuple[str, ...]
) -> Compiled:
    """Compiles the step of `config`; out of memory is a result, other errors pass."""
    program = make_program(
        config,
        mesh=machine.mesh,
        make_objective=make_objective,
        views=views,
        total_steps=config.training.steps or 100_000,  # constants of the schedule, no more
        epoch_steps=1000,
    )
    state = sum(
        np.prod(sharding.shard_shape(shape.shape), dtype=int) * shape.dtype.itemsize
        for shape, sharding in zip(
            jax.tree.leaves(program.shapes), jax.tree.leaves(program.shardings), strict=True
        )
    )
    began = time.monotonic()
    known = {"batch_size": config.training.batch_size, "state": int(state)}
    try:
        with jax.set_mesh(machine.mesh), nothing_kept():
            key = jax.eval_shape(lambda: jax.random.key(0))
            batch = batch_shapes(config, views=views)
            compiled = program.step.lower(program.shapes, batch, key).compile()
    except jax.errors.JaxRuntimeError as error:
        found = _OUT_OF_MEMORY.search(str(error))
        if not found:
            raise
        needed = int(float(found[1]) * _UNITS[found[2]])
        return Compiled(seconds=time.monotonic() - began, needed=needed, **known)
    return _read(compiled, seconds=time.monotonic() - began, **known)


def _read(compiled, **known) -> Compiled:
    memory = compiled.memory_analysis()
    costs = compiled.cost_analysis() or {}
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    parts = (
        memory.argument_size_in_bytes,
        outputs,
        memory.temp_size_in_bytes,
        memory.generated_code_size_in_bytes,
    )
    return Compiled(
        needed=sum(parts),
        arguments=parts[0],
        outputs=outputs,
        temporaries=parts[2],
        code=parts[3],
        flops_once=costs.get("flops", 0.0),
        traffic=read_traffic(compiled.as_text()),
        **known,
    )


def count_flops(config: ConfigDict, *, views: tuple[str, ...]) -> StepFlops:
    """Our count of a step of `config`, with the tokens that its masking leaves."""
    model, masking = IVTConfig(**config.model), config.masking
    strategy = masking.strategy
    text_tokens = [
        text_slots(length, strategy=strategy, ratio=masking.text_ratio)
        for length in text_lengths(config, views=views)
    ]
    return step_flops(
        model,
        batch_size=config.training.batch_size,
        views=len(views),
        images=image_count(views, image_views=config.data.image_views),
        image_tokens=image_slots(model.image_tokens, strategy=strategy, ratio=masking.image_ratio),
        text_tokens=tuple(text_tokens),
        accumulate=config.training.accumulate,
        accumulate_negatives=config.training.accumulate_negatives,
    )


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Seconds a step takes at the least, by what the chip does at its published peak."""

    compute: float
    memory: float
    network: float

    @property
    def seconds(self) -> float:
        """The slowest of the three, as if the others hid behind it."""
        return max(self.compute, self.memory, self.network)

    @property
    def by(self) -> str:
        """Which of the three it is."""
        return max(dataclasses.asdict(self), key=lambda name: getattr(self, name))


def bounds(compiled: Compiled, flops: StepFlops, machine: Machine) -> Bounds:
    """What the published peaks of the machine's chip allow."""
    assert machine.chip and compiled.traffic
    return Bounds(
        compute=flops.executed / len(machine.devices) / machine.chip.flops,
        memory=compiled.traffic.memory_bytes / machine.chip.hbm_rate,
        network=network_seconds(compiled.traffic.collectives, machine.chip, machine.slices),
    )


def largest_batch(
    asked: Compiled, compiled: Callable[[int], Compiled], *, unit: int, limit: int
) -> Compiled:
    """The largest batch found to fit, or the smallest tried where none does.

    Memory is a straight line in the batch, at first through the state alone, then through the
    last two compilations; every answer is compiled. `unit` divides every batch.
    """
    best, worst = (asked, None) if asked.fits else (None, asked)
    before = (0, asked.state)
    last = (asked.batch_size, asked.needed)
    for _ in range(_SEARCHES):
        slope = max((last[1] - before[1]) / (last[0] - before[0]), 1e-9)
        batch = int((0.97 * limit - last[1]) / slope + last[0]) // unit * unit
        low = best.batch_size if best else 0
        high = worst.batch_size if worst else 8 * low + unit
        batch = min(max(batch, low + unit), high - unit)
        if batch <= low or (best and batch < 1.03 * low):
            break
        tried = compiled(batch)
        best, worst = (tried, worst) if tried.fits else (best, tried)
        before, last = last, (tried.batch_size, tried.needed)
    return best or worst or asked


def report(config: ConfigDict, compiled: Compiled, machine: Machine, *, views) -> list[str]:
    """What one compilation tells, as lines."""
    count = len(machine.devices)
    limit = f" of {machine.chip.hbm / GIB:.0f} GiB" if machine.chip else ""
    lines = [
        f"batch {compiled.batch_size:,} = {compiled.batch_size // count:,} pairs a chip; "
        f"compiled in {compiled.seconds:.0f} s"
    ]
    if not compiled.fits:
        return [*lines, f"memory a chip: {_gib(compiled.needed)}{limit}: it does not fit"]
    lines += [
        f"memory a chip: {_gib(compiled.needed)}{limit}: arguments {_gib(compiled.arguments)} "
        f"(state {_gib(compiled.state)}), temporaries {_gib(compiled.temporaries)}, "
        f"new outputs {_gib(compiled.outputs)}, code {_gib(compiled.code)}"
    ]
    flops = count_flops(config, views=views)
    lines += [*_flops_lines(compiled, flops, count), *_collective_lines(compiled)]
    if machine.chip is None:
        return [*lines, "no estimate of time: a simulated device has no published peak"]
    bound = bounds(compiled, flops, machine)
    pairs = compiled.batch_size / bound.seconds
    mfu = flops.model / count / machine.chip.flops / bound.seconds
    return [
        *lines,
        f"at published peaks: compute {1e3 * bound.compute:.1f} ms, memory "
        f"{1e3 * bound.memory:.1f} ms, network {1e3 * bound.network:.1f} ms",
        f"a step takes {1e3 * bound.seconds:.1f} ms or more, bound by {bound.by}: at most "
        f"{pairs:,.0f} pairs/s ({pairs / count:,.0f} a chip), MFU {100 * mfu:.0f} %",
    ]


def _flops_lines(compiled: Compiled, flops: StepFlops, count: int) -> list[str]:
    line = f"FLOPs a step: {flops.model:.3e} of the model, {flops.executed:.3e} with recomputing"
    ours = flops.once / count
    if compiled.flops_once > 0:
        line += (
            f"\n  check, loop bodies counted once, a chip: compiler {compiled.flops_once:.3e}, "
            f"ours {ours:.3e} ({100 * ours / compiled.flops_once:.0f} %)"
        )
    return line.split("\n")


def _collective_lines(compiled: Compiled) -> list[str]:
    assert compiled.traffic
    lines = []
    for kind in KINDS:
        found = [c for c in compiled.traffic.collectives if c.kind == kind]
        if found:
            runs, size = sum(c.runs for c in found), sum(c.runs * c.size for c in found)
            lines.append(f"  {kind}: {len(found)} in the program, {runs} a step, {size:.2e} bytes")
    return [f"collectives a step: {'' if lines else 'none'}", *lines]


def _refusal(asked: Compiled, largest: Compiled, machine: Machine) -> str:
    assert machine.chip
    cure = (
        f"the largest that fits is {largest.batch_size:,}"
        if largest.fits
        else f"not even {largest.batch_size:,} fits"
    )
    return (
        f"training.batch_size={asked.batch_size} needs {_gib(asked.needed)} on each chip of "
        f"{machine.target.name}, which has {machine.chip.hbm / GIB:.0f} GiB; {cure}.\n"
        'Or set model.remat="block", objective.chunk=1024, more training.accumulate or mesh.fsdp.'
    )


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size > 0.1 * GIB else f"{size / 2**20:.1f} MiB"
