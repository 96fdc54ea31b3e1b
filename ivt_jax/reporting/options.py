"""The options of the commands `figures` and `report`; nothing heavy is imported for --help."""

import argparse
from pathlib import Path

from ivt_jax.retrieval.options import add_split_options


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that both commands have."""
    parser.add_argument("run", type=Path, help="the --workdir of a training")
    parser.add_argument("--base", type=Path, help="a run to show beside it, photo by photo")
    parser.add_argument(
        "--compare",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="RUN",
        help="more runs for the charts of R@k and of masking ratios",
    )
    add_split_options(parser)
    parser.add_argument("--replace", action="store_true", help="replace what is there already")
