"""`python -m ivt_jax evaluate`: scores a run on one split: a table, a JSON file and a picture."""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from ivt_jax.data.builders.progress import Show, silent
from ivt_jax.data.images import decode
from ivt_jax.data.records import RecordSource, open_dataset
from ivt_jax.dtypes import DTYPES
from ivt_jax.errors import UserError
from ivt_jax.inference import Retriever, load
from ivt_jax.retrieval.encoding import truncation_note
from ivt_jax.retrieval.evaluate import EncodedSplit, encode_split, score
from ivt_jax.retrieval.figures import StripResult, StripRow, ranking_strip
from ivt_jax.retrieval.metrics import METRICS
from ivt_jax.retrieval.options import add_split_options
from ivt_jax.retrieval.ranking import top_k


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A scored split: metrics in percent, the embeddings they came from, and the records."""

    name: str
    dataset: str
    split: str
    step: int
    metrics: dict[str, float]
    encoded: EncodedSplit
    source: RecordSource


def evaluate(
    model: Retriever,
    *,
    name: str,
    directory: str | Path,
    dataset: str,
    split: str,
    unmatched: str = "error",
    show: Show = silent,
) -> Evaluation:
    """Encodes and scores one split of a prepared dataset; `unmatched` as in `retrieval_metrics`.

    `show` is told of the photos encoded.

    Raises UserError: no such split, an unreadable photo, or captions that cannot be scored.
    """
    source = open_dataset(directory, dataset, split)
    with show(0, len(source)) as done:
        encoded = encode_split(
            model.encoders,
            model.params,
            source,
            image_size=tuple(model.config.model.image_size),
            tokenizer=model.tokenizer,
            length=model.config.data.text_length,
            separator=model.config.data.separator,
            batch_size=model.batch_size,
            done=done,
        )
    if encoded.truncated:
        cut = encoded.truncated, len(encoded.captions)
        print(f"{dataset} {split}: {truncation_note(*cut, length=model.config.data.text_length)}")
    try:
        metrics = score(encoded, unmatched=unmatched)
    except ValueError as error:
        raise UserError(f"{dataset} {split} cannot be scored: {error}") from error
    return Evaluation(name, dataset, split, model.step, metrics, encoded, source)


def strip_rows(
    evaluations: Sequence[Evaluation], queries: Sequence[int], *, k: int
) -> list[StripRow]:
    """Ranking strips of some queries, one row for each evaluation of the same split."""
    rows = []
    ranked = [
        top_k(one.encoded.text_embeddings[list(queries)], one.encoded.image_embeddings, k=k)
        for one in evaluations
    ]
    for number, query in enumerate(queries):
        for one, (scores, found) in zip(evaluations, ranked, strict=True):
            identity = one.encoded.text_identities[query]
            results = [
                StripResult(
                    photo(one.source, index),
                    float(value),
                    bool(one.encoded.image_identities[index] == identity),
                )
                for value, index in zip(scores[number], found[number], strict=True)
            ]
            true = photo(one.source, one.encoded.text_images[query])
            label = one.name if len(evaluations) > 1 else ""
            rows.append(StripRow(one.encoded.captions[query], true, results, label))
    return rows


def spread_queries(encoded: EncodedSplit, count: int) -> list[int]:
    """Evenly spaced queries, so that a picture shows no choice of ours."""
    total = len(encoded.captions)
    return np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()


def print_table(evaluations: Sequence[Evaluation], *, title: str) -> None:
    """One row an evaluation, metrics in percent."""
    table = Table(title=title, title_justify="left")
    table.add_column("model")
    for metric in METRICS:
        table.add_column(metric, justify="right")
    for one in evaluations:
        table.add_row(one.name, *(f"{one.metrics[metric]:.2f}" for metric in METRICS))
    Console().print(table)


def summary(evaluation: Evaluation, **more) -> dict:
    """What the JSON file of an evaluation holds."""
    encoded = evaluation.encoded
    return {
        "dataset": evaluation.dataset,
        "split": evaluation.split,
        "step": evaluation.step,
        "queries": len(encoded.captions),
        "truncated": encoded.truncated,
        "gallery": len(encoded.image_identities),
        "identities": len(np.unique(encoded.image_identities)),
        "metrics": evaluation.metrics,
        "protocol": "text to image; every caption a query; gallery of unique images",
        **more,
    }


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    if arguments.rows < 0:
        raise UserError(f"--rows={arguments.rows}: name a number of queries, 0 for no picture")
    model = load(arguments.run, arguments.step, dtype=arguments.dtype)
    dataset = arguments.dataset or model.config.evaluation.dataset
    if not dataset:
        raise UserError(f"{arguments.run} was trained without a test set; name one with --dataset")
    result = evaluate(
        model,
        name=f"{arguments.run} step {model.step}",
        directory=arguments.data or model.config.data.directory,
        dataset=dataset,
        split=arguments.split,
        unmatched=arguments.unmatched,
    )
    facts = summary(
        result, run=str(arguments.run), unmatched=arguments.unmatched, dtype=model.dtype
    )
    print_table(
        [result],
        title=f"{dataset} {arguments.split}: {facts['queries']} captions, "
        f"{facts['gallery']} photos of {facts['identities']} people",
    )
    folder = Path(arguments.out or Path(arguments.run) / "results")
    folder.mkdir(parents=True, exist_ok=True)
    # The card of an export quotes the files that end with the step: those in the run's own dtype.
    dtype = f"-{arguments.dtype}" if arguments.dtype else ""
    stem = folder / f"{dataset}-{arguments.split}-step{model.step}{dtype}"
    stem.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n")
    written = f"wrote {stem}.json"
    if arguments.rows:
        _picture(result, arguments).save(stem.with_suffix(".png"))
        written += f" and {stem}.png"
    print(written)
    return 0


def _picture(result: Evaluation, arguments: argparse.Namespace) -> Image.Image:
    queries = spread_queries(result.encoded, arguments.rows)
    return ranking_strip(
        strip_rows([result], queries, k=min(10, len(result.source))),
        k=10,
        title=f"{result.dataset} {result.split}",
        theme=arguments.theme,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ivt_jax evaluate", description=__doc__)
    parser.add_argument(
        "--run", required=True, type=Path, help="run folder (--workdir of training)"
    )
    add_split_options(parser)
    parser.add_argument(
        "--dtype", choices=DTYPES, default="", help="docs/inference.md (default: the run's)"
    )
    parser.add_argument("--out", default="", help="folder to write to (default: RUN/results)")
    parser.add_argument(
        "--rows", type=int, default=6, help="queries in the picture (default: 6; 0: no picture)"
    )
    parser.add_argument("--theme", choices=("light", "dark"), default="light")
    return parser


def photo(source: RecordSource, index) -> Image.Image:
    """The photo of a record, decoded; ImageError if that is not possible."""
    record = source[int(index)]
    return Image.fromarray(decode(record["image"], key=record["key"]))
