"""Published peaks of common accelerators, and the topologies a dry run can compile for."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from ivt_jax.errors import UserError
from ivt_jax.training.compiled import Collective

GB, GIB = 10**9, 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One chip: what JAX calls it, dense FLOP/s in bfloat16, bytes and bytes/s of its memory.

    TPUs are from docs.cloud.google.com, GPUs from NVIDIA's data sheets, without sparsity and with
    sums in float32. `ici` is what one chip sends to its neighbours in one direction, half of the
    bidirectional figure; `dcn` is its share of the network between slices.
    """

    kind: str  # pattern of `device_kind`
    flops: float
    hbm: int
    hbm_rate: float
    ici: float = 0.0
    dcn: float = 0.0
    axes: int = 0  # of its torus; 0 = no dry run for it
    options: tuple[tuple[str, str], ...] = ()  # what the compiler wants to know besides


_MEGACORE = (("chip_config_name", "megacore"),)  # two cores of a chip work as one device

# Pages tpu/docs/v4, v5e, v5p and v6e; v4's links from "TPU v4: An Optically Reconfigurable
# Supercomputer" (50 GB/s each, six of them), its network taken as v5p's.
CHIPS = {
    "v4": Chip(
        kind="TPU v4",
        flops=275e12,
        hbm=32 * GIB,
        hbm_rate=1200 * GB,
        ici=300 * GB,
        dcn=50 * GB / 8,
        axes=3,
        options=_MEGACORE,
    ),
    "v5e": Chip(
        kind="TPU v5 ?(lite|e)",
        flops=197e12,
        hbm=16 * GIB,
        hbm_rate=819 * GB,
        ici=200 * GB,
        dcn=25 * GB / 8,
        axes=2,
    ),
    "v5p": Chip(
        kind="TPU v5p?",
        flops=459e12,
        hbm=95 * GIB,
        hbm_rate=2765 * GB,
        ici=600 * GB,
        dcn=50 * GB / 8,
        axes=3,
        options=_MEGACORE,
    ),
    "v6e": Chip(
        kind="TPU v6 ?(lite|e)",
        flops=918e12,
        hbm=32 * GIB,
        hbm_rate=1638 * GB,
        ici=400 * GB,
        dcn=100 * GB / 8,
        axes=2,
    ),
    "V100": Chip(kind=".*V100.*", flops=125e12, hbm=16 * GB, hbm_rate=900 * GB),  # float16
    "A100-40": Chip(kind=".*A100.*40GB.*", flops=312e12, hbm=40 * GB, hbm_rate=1555 * GB),
    "A100-80": Chip(kind=".*A100.*80GB.*", flops=312e12, hbm=80 * GB, hbm_rate=2039 * GB),
    "L4": Chip(kind=".*L4", flops=121e12, hbm=24 * GB, hbm_rate=300 * GB),
    "L40S": Chip(kind=".*L40S", flops=362e12, hbm=48 * GB, hbm_rate=864 * GB),
    "RTX-3090": Chip(kind=".*RTX 3090", flops=71e12, hbm=24 * GB, hbm_rate=936 * GB),
    "RTX-4090": Chip(kind=".*RTX 4090", flops=165e12, hbm=24 * GB, hbm_rate=1008 * GB),
    "H100-PCIe": Chip(kind=".*H100 PCIe", flops=756e12, hbm=80 * GB, hbm_rate=2000 * GB),
    "H100": Chip(kind=".*H100(?! NVL).*", flops=989e12, hbm=80 * GB, hbm_rate=3350 * GB),
    "H200": Chip(kind=".*H200(?! NVL).*", flops=989e12, hbm=141 * GB, hbm_rate=4800 * GB),
    "B200": Chip(kind=".* B200", flops=2250e12, hbm=180 * GB, hbm_rate=8000 * GB),
}


def chip_of(device_kind: str) -> Chip | None:
    """The chip that JAX (or PyTorch) calls so; None for others, as CPUs and slices of a GPU."""
    if "MIG" in device_kind:
        return None
    return next((c for c in CHIPS.values() if re.fullmatch(c.kind, device_kind)), None)


@dataclasses.dataclass(frozen=True)
class Target:
    """What a dry run compiles for; `chip` is "cpu" or a key of CHIPS."""

    name: str
    chip: str
    shape: tuple[int, ...]
    slices: int = 1


def parse_target(name: str) -> Target:
    """Reads "v5e:16x16", "4xv5e:16x16" (four slices) or "cpu:8". Raises UserError."""
    forms = "write v5e:4x4, v4:8x8x8, 4xv5e:16x16 for four slices, or cpu:8"
    match = re.fullmatch(r"(?:(\d+)x)?([a-z]\w*):(\d+(?:x\d+)*)", name)
    if not match:
        raise UserError(f"--dry_run={name} names no machine; {forms}")
    slices, chip = int(match[1] or 1), match[2]
    shape = tuple(int(size) for size in match[3].split("x"))
    known = [name for name, chip in CHIPS.items() if chip.axes]
    if chip != "cpu" and chip not in known:
        raise UserError(
            f"--dry_run={name}: there is no chip {chip!r}; known are {', '.join(known)} and cpu; "
            f"{forms}"
        )
    if min(shape) < 1 or slices < 1:
        raise UserError(f"--dry_run={name}: sizes must be at least 1")
    axes = 1 if chip == "cpu" else CHIPS[chip].axes
    if len(shape) != axes or (chip == "cpu" and slices > 1):
        raise UserError(f"--dry_run={name}: a {chip} machine has {axes} size(s); {forms}")
    return Target(name, chip, shape, slices)


def network_seconds(collectives: Sequence[Collective], chip: Chip, slices: np.ndarray) -> float:
    """Seconds that rings need for the collectives of a step, none hidden behind another.

    Args:
      slices: (devices,) the slice of each place on the flattened mesh. Of a group that spans
        slices, each chip sends its part of what its own slice holds to the others.
    """
    total = 0.0
    for collective in collectives:
        group = collective.groups[0] if collective.groups.size else np.arange(len(slices))
        places = slices[group]
        spanned = len(set(places.tolist()))
        inside = len(group) / spanned
        size = collective.runs * collective.size * (2 if collective.kind == "all-reduce" else 1)
        total += size * (inside - 1) / inside / chip.ici
        total += size / inside * (spanned - 1) / spanned / chip.dcn
    return total
