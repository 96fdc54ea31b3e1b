"""The options of the commands `figures` and `report`; nothing heavy is imported for --help."""

import argparse
from pathlib import Path


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
    parser.add_argument("--split", default="test", help="split to search (default: test)")
    parser.add_argument("--dataset", default="", help="default: evaluation.dataset of the run")
    parser.add_argument("--data", default="", help="folder of datasets (default: the run's)")
    parser.add_argument("--step", type=int, help="checkpoint of RUN; default: the best")
    parser.add_argument(
        "--unmatched",
        choices=("error", "skip", "count"),
        default="error",
        help="captions of people who are not in the gallery: refuse, leave out, or count as misses",
    )
    parser.add_argument("--replace", action="store_true", help="replace what is there already")
