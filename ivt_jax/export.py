"""`python -m ivt_jax export`: the parameters of a run, written for other software."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from flax import nnx

from ivt_jax.convert.official_files import write_official
from ivt_jax.errors import UserError
from ivt_jax.model.ivt import IVTConfig
from ivt_jax.training.checkpoint import choose_step, read_config, restore_params
from ivt_jax.training.state import split_model


def export_official(run: Path, out: Path, *, step: int) -> str:
    """Writes a step under the official names, vocab.txt beside it; returns what to do next."""
    config = read_config(run)
    step = choose_step(run, step)
    graphdef, shapes = split_model(IVTConfig(**config.model))
    vocabulary, beside = (run / "vocab.txt").read_bytes(), out.with_name("vocab.txt")
    if beside.exists() and beside.read_bytes() != vocabulary:
        raise UserError(
            f"--out: {beside} is another vocabulary than the run's; name another folder"
        )
    model = nnx.merge(graphdef, restore_params(run, step, shapes))
    write_official(model, out, config=config)
    beside.write_bytes(vocabulary)
    return (
        f"wrote step {step} of {run} to {out}, and {beside}; in Python: ivt_jax.load({str(out)!r})"
    )


TARGETS = {"official": export_official}


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    print(TARGETS[arguments.to](arguments.run, arguments.out, step=arguments.step))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ivt_jax export", description=__doc__)
    parser.add_argument("--run", required=True, type=Path, help="run folder (--workdir)")
    parser.add_argument(
        "--out", required=True, type=Path, help="official: a .safetensors (or .pth) file"
    )
    parser.add_argument(
        "--to",
        required=True,
        choices=TARGETS,
        help="official: names and layouts of the official PyTorch code",
    )
    parser.add_argument("--step", type=int, default=-1, help="checkpoint; default: the best")
    return parser
