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

from ivt_jax.data.images import decode
from ivt_jax.data.records import RecordSource, open_dataset
from ivt_jax.errors import UserError
from ivt_jax.inference import Retriever, load
from ivt_jax.retrieval.evaluate import Gallery, encode_split, score
from ivt_jax.retrieval.figures import StripResult, StripRow, ranking_strip
from ivt_jax.retrieval.ranking import top_k

METRICS = ("R1", "R5", "R10", "mAP", "mAP_trapezoid", "mINP")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A scored split: metrics in percent, the embeddings they came from, and the records."""

    name: str
    dataset: str
    split: str
    step: int
    metrics: dict[str, float]
    gallery: Gallery
    source: RecordSource


def evaluate(
    model: Retriever,
    *,
    name: str,
    directory: str | Path,
    dataset: str,
    split: str,
    unmatched: str = "error",
) -> Evaluation:
    """Encodes and scores one split of a prepared dataset; `unmatched` as in `retrieval_metrics`."""
    source = open_dataset(directory, dataset, split)
    gallery = encode_split(
        model.encoders,
        model.params,
        source,
        image_size=tuple(model.config.model.image_size),
        tokenizer=model.tokenizer,
        length=model.config.data.text_length,
        separator=model.config.data.separator,
        batch_size=model.batch_size,
    )
    metrics = score(gallery, unmatched=unmatched)
    return Evaluation(name, dataset, split, model.step, metrics, gallery, source)


def strip_rows(
    evaluations: Sequence[Evaluation], queries: Sequence[int], *, k: int
) -> list[StripRow]:
    """Ranking strips of some queries, one row for each evaluation of the same split."""
    rows = []
    ranked = [
        top_k(one.gallery.text_embeddings[list(queries)], one.gallery.image_embeddings, k=k)
        for one in evaluations
    ]
    for number, query in enumerate(queries):
        for one, (scores, found) in zip(evaluations, ranked, strict=True):
            identity = one.gallery.text_identities[query]
            results = [
                StripResult(
                    _photo(one.source, index),
                    float(value),
                    bool(one.gallery.image_identities[index] == identity),
                )
                for value, index in zip(scores[number], found[number], strict=True)
            ]
            photo = _photo(one.source, one.gallery.text_images[query])
            label = one.name if len(evaluations) > 1 else ""
            rows.append(StripRow(one.gallery.captions[query], photo, results, label))
    return rows


def spread_queries(gallery: Gallery, count: int) -> list[int]:
    """Evenly spaced queries, so that a picture shows no choice of ours."""
    total = len(gallery.captions)
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
    gallery = evaluation.gallery
    return {
        "dataset": evaluation.dataset,
        "split": evaluation.split,
        "step": evaluation.step,
        "queries": len(gallery.captions),
        "gallery": len(gallery.image_identities),
        "identities": len(np.unique(gallery.image_identities)),
        "metrics": evaluation.metrics,
        "protocol": "text to image; every caption a query; gallery of unique images",
        **more,
    }


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    model = load(arguments.run, arguments.step)
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
    facts = summary(result, run=str(arguments.run), unmatched=arguments.unmatched)
    print_table(
        [result],
        title=f"{dataset} {arguments.split}: {facts['queries']} captions, "
        f"{facts['gallery']} photos of {facts['identities']} people",
    )
    folder = Path(arguments.out or Path(arguments.run) / "results")
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"{dataset}-{arguments.split}-step{model.step}"
    stem.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n")
    queries = spread_queries(result.gallery, arguments.rows)
    picture = ranking_strip(
        strip_rows([result], queries, k=min(10, facts["gallery"])),
        k=10,
        title=f"{dataset} {arguments.split}",
        theme=arguments.theme,
    )
    picture.save(stem.with_suffix(".png"))
    print(f"wrote {stem}.json and {stem}.png")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ivt_jax evaluate", description=__doc__)
    parser.add_argument(
        "--run", required=True, type=Path, help="run folder (--workdir of training)"
    )
    parser.add_argument("--split", default="test", help="split of the dataset (default: test)")
    parser.add_argument("--dataset", default="", help="default: evaluation.dataset of the run")
    parser.add_argument("--data", default="", help="folder of datasets (default: the run's)")
    parser.add_argument("--step", type=int, help="checkpoint; default: the best")
    parser.add_argument("--out", default="", help="folder to write to (default: RUN/results)")
    parser.add_argument("--rows", type=int, default=6, help="queries in the picture (default: 6)")
    parser.add_argument("--theme", choices=("light", "dark"), default="light")
    parser.add_argument(
        "--unmatched",
        choices=("error", "skip", "count"),
        default="error",
        help="captions of people who are not in the gallery: refuse, leave out, or count as misses",
    )
    return parser


def _photo(source: RecordSource, index) -> Image.Image:
    record = source[int(index)]
    return Image.fromarray(decode(record["image"], key=record["key"]))
