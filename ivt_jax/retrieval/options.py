"""Options that commands share, and their choices; nothing heavy is imported for --help."""

import argparse

RERANK = ("none", "reciprocal")  # of a gallery's ranking
ENGINES = ("auto", "exact", "faiss")  # that search a gallery


def add_split_options(parser: argparse.ArgumentParser) -> None:
    """Which split is searched, and with which checkpoint of the run."""
    parser.add_argument("--split", default="test", help="split to search (default: test)")
    parser.add_argument("--dataset", default="", help="default: evaluation.dataset of the run")
    parser.add_argument("--data", default="", help="folder of datasets (default: the run's)")
    parser.add_argument("--step", type=int, help="checkpoint of the run; default: the best")
    parser.add_argument(
        "--unmatched",
        choices=("error", "skip", "count"),
        default="error",
        help="captions of people who are not in the gallery: refuse, leave out, or count as misses",
    )
