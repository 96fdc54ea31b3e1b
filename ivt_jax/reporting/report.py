"""The report of a run as one HTML page."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ivt_jax.convert.card import DRAWN, read_results
from ivt_jax.evaluate import summary
from ivt_jax.reporting import html, sections
from ivt_jax.reporting.figure import Figure
from ivt_jax.reporting.gather import Gathered
from ivt_jax.reporting.recorded import Record
from ivt_jax.retrieval.metrics import METRICS

_HEADLINE = ("R1", "R5", "R10", "mAP", "mINP")
_MEANINGS = {
    "R1, R5, R10": "share of captions with a photo of the person described among the first 1, 5, "
    "10 photos",
    "mAP": "mean over captions of the average precision: over the right photos, the mean of i / "
    "rank of the i-th one",
    "mAP_trapezoid": "the form of mAP that IVT published; it is lower, and not comparable with "
    "the other",
    "mINP": "mean over captions of the number of right photos over the rank of the last one",
}
_PARTS = {
    "results": "Results",
    "training": "Training",
    "examples": "Rankings and maps",
    "errors": "Where errors come from",
    "masking": "Masking ratio",
    "data": "Data",
    "configuration": "Configuration",
    "events": "What went wrong",
    "reproduce": "How to reproduce it",
}


def report_page(gathered: Gathered) -> str:
    """The page; the same run gives the same bytes."""
    record, figures = gathered.record, {figure.name: figure for figure in gathered.figures}
    if not gathered.runs:  # the reason stands under Results, once
        for absent in ("errors", "masking"):
            seen = "the run was not scored (see Results)"
            figures[absent] = dataclasses.replace(figures[absent], missing=seen)
    name = record.path.resolve().name
    pictures = [
        figure
        for figure in gathered.figures
        if figure.name.startswith("ranking") or figure.name in ("sentences", "words")
    ]
    body = [
        "<header>",
        f"<h1>{html.text(name)}</h1>",
        _introduction(record),
        "</header>",
        "<main>",
        html.section("results", _PARTS["results"], *_results(gathered, figures["recall"])),
        html.section("training", _PARTS["training"], _figure(figures["training"])),
        html.section("examples", _PARTS["examples"], *_pictures(gathered, pictures)),
        html.section("errors", _PARTS["errors"], *_errors(figures["errors"])),
        html.section("masking", _PARTS["masking"], *_masking(figures["masking"])),
        sections.data_section(record),
        sections.config_section(record),
        sections.events_section(record),
        sections.reproduction_section(record),
        "</main>",
        f"<footer>{html.paragraph('Written by python -m ivt_jax report.')}</footer>",
    ]
    return html.page(f"{name}: report of a run", "\n".join(body))


def _introduction(record: Record) -> str:
    config = record.config
    state = "done" if record.finished else "open"
    word, _, rest = record.standing.partition(": ")
    stage = "Pre-training" if record.stage == "pretrain" else "Fine-tuning"
    mixture = ", ".join(f"{data} (weight {w:g})" for data, w in config.data.mixture.items())
    start = config.init.run or " and ".join(filter(None, (config.init.vit, config.init.bert)))
    model = config.model
    words = (
        f"{stage} of an IVT encoder (width {model.width}, {model.depth} blocks, images of "
        f"{model.image_size[0]} x {model.image_size[1]} pixels) on {mixture}, from "
        f"{start or 'random weights'}, {config.training.batch_size} pairs a step, seed "
        f"{config.seed}."
    )
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title in _PARTS.items())
    drawn = all(name in DRAWN for name in config.data.mixture)
    note = (
        "It was trained on drawings alone: it shows that the software works, and says nothing of "
        "photos of real people."
    )
    return "\n".join(
        [
            html.paragraph(words, kind="lead"),
            f'<p class="chip {state}"><strong>{word}:</strong> {html.text(rest)}</p>',
            html.paragraph(note, kind="muted") if drawn else "",
            f'<nav aria-label="Parts of the report"><ul>{links}</ul></nav>',
        ]
    )


def _results(gathered: Gathered, recall: Figure) -> list[str]:
    if not gathered.runs:
        words = f"Not scored on a split for this report: {gathered.why}."
        return [html.paragraph(words.replace("..", ".")), *_recorded(gathered.record)]
    ours = gathered.runs[0].evaluation
    facts = summary(ours)
    cards = "".join(
        f"<div><dt>{metric}</dt><dd>{ours.metrics[metric]:.1f}</dd></div>" for metric in _HEADLINE
    )
    words = (
        f"Percent, step {ours.step:,}, {ours.dataset} {ours.split}: {facts['queries']:,} captions, "
        f"{facts['gallery']:,} photos of {facts['identities']:,} people. Protocol: "
        f"{facts['protocol']}. {_choice(gathered)}"
    )
    rows = [
        [run.name, f"{run.evaluation.step:,}", *_percent(run.evaluation.metrics)]
        for run in gathered.runs
    ]
    head = ["run", "step", *METRICS]
    title = f"{ours.dataset} {ours.split}, percent"
    meanings = "".join(
        f"<li><strong>{name}</strong>: {html.text(words)}.</li>"
        for name, words in _MEANINGS.items()
    )
    return [
        f'<dl class="scores">{cards}</dl>',
        html.paragraph(words),
        html.table(title, head, rows, numbers=range(1, len(head))),
        f'<ul class="muted">{meanings}</ul>',
        f"<h3>{html.text(recall.title)}</h3>",
        _figure(recall),
        _recall_table(recall),
        *_recorded(gathered.record),
    ]


def _choice(gathered: Gathered) -> str:
    ours, chosen = gathered.runs[0].evaluation, gathered.record.config.evaluation
    if not chosen.dataset:
        return "The run chose no best step by itself; this one is its newest or was named."
    by = f"{chosen.dataset} {chosen.select}"
    if (ours.dataset, ours.split) == (chosen.dataset, chosen.select):
        return f"{by} also chose the best step, so these scores flatter."
    return f"The best step is chosen by R1 + mAP on {by}."


def _percent(metrics: dict[str, float]) -> list[str]:
    return [f"{metrics[metric]:.2f}" for metric in METRICS]


def _recorded(record: Record) -> list[str]:
    """Scores that training and `evaluate` wrote down."""
    rows = [
        [f"{line['step']:,}", line["kind"], *(_value(line.get(metric)) for metric in METRICS)]
        for line in record.lines
        if line["kind"] != "train"
    ]
    found = []
    if rows:
        head = ["step", "split", *METRICS]
        title = f"Scores during training, {record.config.evaluation.dataset}, percent"
        table = html.table(title, head, rows, numbers=(0, *range(2, len(head))))
        found.append(html.folded("All scores taken during training", table))
    results = [one for step in record.saved for one in read_results(record.path, step)]
    if results:
        rows = [
            [f"{one['dataset']} {one['split']}", f"{one['step']:,}", *_percent(one["metrics"])]
            for one in results
        ]
        head = ["split", "step", *METRICS]
        table = html.table("Results of python -m ivt_jax evaluate", head, rows, numbers=range(1, 8))
        found.append(html.folded("Scores recorded in RUN/results", table))
    return found


def _value(number: Any) -> str:
    return "" if number is None else f"{number:.2f}"


def _recall_table(recall: Figure) -> str:
    names = list(recall.numbers)
    curve = recall.numbers[names[0]]
    ks = [k for k in (1, 2, 3, 5, 10, 20, 30, 50) if k <= len(curve["k"])]
    rows = [
        [f"R@{k}", *(f"{recall.numbers[name]['percent'][k - 1]:.2f}" for name in names)] for k in ks
    ]
    table = html.table("R@k, percent", ["", *names], rows, numbers=range(1, len(names) + 1))
    return html.folded("The same as a table", table)


def _figure(figure: Figure) -> str:
    if figure.canvas is None:
        return html.paragraph(f"Not drawn: {figure.missing}.".replace("..", "."))
    drawn = html.wide(figure.title, figure.svg("page"))
    words = f"<figcaption>{html.text(figure.note)}</figcaption>"
    return f'<figure id="figure-{figure.name}">{drawn}{words}</figure>'


def _pictures(gathered: Gathered, pictures: Sequence[Figure]) -> list[str]:
    if not gathered.runs:
        return [html.paragraph("No photos are shown: the run was not scored (see Results).")]
    found = []
    for figure in pictures:
        found += [f"<h3>{html.text(figure.title)}</h3>", _figure(figure)]
    return found


def _errors(figure: Figure) -> list[str]:
    found = [_figure(figure)]
    for kind, runs in figure.numbers.items():
        if kind == "overall":
            continue
        for name, rows in runs.items():
            head = list(rows[0])
            cells = [[_cell(row[field]) for field in head] for row in rows]
            title = f"{kind.replace('_', ' ')}, {name}: captions, percent right, 95 % interval"
            words = [field.replace("_", " ") for field in head]
            table = html.table(title, words, cells, numbers=range(1, len(head)))
            found.append(html.folded(f"{name} {kind.replace('_', ' ')}, as a table", table))
    return found


def _cell(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value).replace("_", " ")


def _masking(figure: Figure) -> list[str]:
    points = figure.numbers.get("points", []) if figure.numbers else []
    rows = [[p["run"], f"{p['ratio']:g}", f"{p['R1']:.2f}", f"{p['mAP']:.2f}"] for p in points]
    head = ["run", "masking ratio", "R1", "mAP"]
    table = html.table("Finished runs, percent", head, rows, numbers=(1, 2, 3)) if rows else ""
    return [_figure(figure), table]
