"""Does the base model fit? `python -m benchmarks.fits`

Compiles the pretraining step of configs/cc4m.py for TPU slices that need not be here, at several
global batches, and prints one row a compilation: what docs/fits.md shows. A compilation takes
about three minutes of one core.
"""

from __future__ import annotations

import argparse

from configs import cc4m
from ivt_jax.training.chips import GIB
from ivt_jax.training.dry_run import Machine, bounds, compile_step, count_flops
from pretrain.objective import VIEWS, make_objective

_MACHINES = ("v5e:4x4", "v5e:16x16", "v4:8x8x8", "v6e:16x16", "4xv5e:16x16")
_BATCHES = (4096, 65536)
_HEAD = "machine | chips | batch | a chip | accumulate | memory | temporaries | compute | memory"
_HEAD += " | network | pairs/s | MFU"


def main() -> None:
    """Prints the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser("python -m benchmarks.fits", description=__doc__)
    parser.add_argument("--machines", nargs="+", default=_MACHINES)
    parser.add_argument("--batches", nargs="+", type=int, default=_BATCHES)
    parser.add_argument("--remat", default="block", help="model.remat")
    parser.add_argument("--rows", type=int, default=512, help="pairs a chip and micro-batch")
    arguments = parser.parse_args()
    print(f"| {_HEAD} |\n|{' --- |' * (_HEAD.count('|') + 1)}")
    for name in arguments.machines:
        for batch in arguments.batches:
            print(row(name, batch, remat=arguments.remat, rows=arguments.rows), flush=True)


def row(name: str, batch: int, *, remat: str, rows: int) -> str:
    """One row of the table; accumulates until a chip encodes at most `rows` pairs at once."""
    config = cc4m.get_config()
    config.training.batch_size = batch
    config.model.remat = remat
    machine = Machine(config, name)
    count = len(machine.devices)
    while batch // config.training.accumulate > rows * count:
        config.training.accumulate *= 2
    compiled = compile_step(config, machine, make_objective=make_objective, views=VIEWS)
    assert machine.chip
    values = [name, count, f"{batch:,}", batch // count, config.training.accumulate]
    values += [f"{compiled.needed / GIB:.1f} of {machine.chip.hbm / GIB:.0f} GiB"]
    if not compiled.fits:
        return f"| {' | '.join(map(str, values))} | does not fit |"
    flops = count_flops(config, views=VIEWS)
    bound = bounds(compiled, flops, machine)
    mfu = flops.model / count / machine.chip.flops / bound.seconds
    values += [f"{compiled.temporaries / GIB:.1f} GiB"]
    values += [f"{1e3 * s:.0f} ms" for s in (bound.compute, bound.memory, bound.network)]
    values += [f"{batch / bound.seconds:,.0f}", f"{100 * mfu:.0f} %"]
    return f"| {' | '.join(map(str, values))} |"


if __name__ == "__main__":
    main()
