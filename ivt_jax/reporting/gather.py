"""All figures of a run: what the commands `figures` and `report` share."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ivt_jax.data.builders.progress import shown_on
from ivt_jax.errors import UserError
from ivt_jax.reporting import examples, scores
from ivt_jax.reporting.figure import Figure, absent
from ivt_jax.reporting.recorded import Record, read_record
from ivt_jax.reporting.scored import Scored, Split, names_of, same_queries, score_run
from ivt_jax.retrieval.canvas import SERIES

_SCORED = {  # figures that take a scored run: name -> title
    "recall": "R@k",
    "errors": "Where errors come from",
    "ranking-random": "Rankings of captions drawn at random",
    "sentences": "Where a sentence is seen",
    "words": "Where each word is seen",
    "masking": "R1 against the masking ratio",
}


@dataclass(frozen=True)
class Gathered:
    """A run, what it and others score on one split, and all figures of it.

    Attributes:
        record: what the run wrote down.
        split: what was searched; None = nothing.
        runs: scored, the run first, then the base, then those to compare with; [] = see `why`.
        why: the reason for no scores.
        figures: drawn ones, and reasons for those that are not.
    """

    record: Record
    split: Split | None
    runs: list[Scored]
    why: str
    figures: list[Figure]


def gather(options: argparse.Namespace) -> Gathered:
    """Scores the runs that the options name and draws everything.

    Raises UserError: no run there, a base or a run to compare with that cannot be scored, or more
    runs than a chart has colours. A run that cannot be scored itself has the reason in `why`.
    """
    record = read_record(options.run)
    others = [path for path in (options.base, *options.compare) if path]
    _check_runs(options.run, others)
    split, runs, why = None, [], ""
    dataset = options.dataset or record.config.evaluation.dataset
    if not dataset:
        why = (
            "this training took no retrieval scores (evaluation.dataset is empty); "
            "--dataset names one to score it on"
        )
    else:
        directory = options.data or record.config.data.directory
        split = Split(directory, dataset, options.split, options.unmatched)
        names = names_of([options.run, *others])
        try:
            runs = [score_run(options.run, split, name=names[0], step=options.step)]
        except UserError as error:
            if options.dataset or others:
                raise
            why = str(error)
        for path, name in zip(others if runs else (), names[1:], strict=False):
            runs.append(score_run(path, split, name=name))
        same_queries(runs)
    return Gathered(record, split, runs, why, _figures(record, runs, why, base=options.base))


def _check_runs(run: Path, others: Sequence[Path]) -> None:
    places = [path.resolve() for path in (run, *others)]
    twice = {str(path) for path in places if places.count(path) > 1}
    if twice:
        raise UserError(f"named twice: {', '.join(sorted(twice))}; name every run once")
    if len(places) > len(SERIES):
        raise UserError(f"{len(places)} runs; a chart can tell {len(SERIES)} apart, name fewer")


def _figures(record: Record, runs: list[Scored], why: str, *, base: Path | None) -> list[Figure]:
    training = scores.training(record)
    if not runs:
        return [training, *(absent(name, title, why) for name, title in _SCORED.items())]
    shown = runs[:2] if base else runs[:1]
    pairs = min(examples.SENTENCES, len(runs[0].queries))
    with shown_on(sys.stderr, what="pairs", did="explained")(0, pairs) as done:
        maps = examples.maps(shown, done=done)
    return [
        training,
        scores.recall(runs),
        scores.errors(shown),
        *examples.rankings(shown),
        *maps,
        scores.masking(runs),
    ]


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
