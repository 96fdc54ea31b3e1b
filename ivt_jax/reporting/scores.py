"""The figures of numbers: training curves, R@k, where errors come from, R1 against masking."""

from collections.abc import Sequence

from ivt_jax.config import compare
from ivt_jax.reporting import charts
from ivt_jax.reporting.figure import Figure, absent
from ivt_jax.reporting.numbers import by_attribute, by_length, by_word, recall_curve
from ivt_jax.reporting.recorded import Record, read_record
from ivt_jax.reporting.scored import Scored, caption_numbers, records_of

_MARKED = (1, 5, 10, 20, 50)
# Fields that say where and how fast a run trained, not what it learned.
_FREE = ("data.directory", "data.vocabulary", "data.workers", "data.threads", "data.prefetch")
_FREE += ("data.cache_gib",)
_FREE += ("mesh.", "watchdog.", "training.keep", "training.log_steps", "training.stop_after")
_FREE += ("training.save_epochs", "data.worker_deadline", "training.profile_steps")


def training(record: Record) -> Figure:
    """Loss, retrieval scores, learning rate and gradient norm over the steps."""
    name, title = "training", f"Training of {record.path.resolve().name}"
    panels = charts.training_panels(record.lines)
    if not panels:
        return absent(name, title, "metrics.jsonl has no line yet")
    chosen = record.config.evaluation
    notes = [record.standing]
    if any("Retrieval" in panel for panel in panels):
        notes.append(f"Retrieval: {chosen.dataset}; {chosen.select} chooses the best step.")
    else:
        notes.append("No retrieval scores: none were taken during this training.")
    if any(None in ys for lines in panels.values() for _, ys in lines.values()):
        notes.append("Gaps are values that were not finite.")
    note = " ".join(notes)
    numbers = {
        panel: {line: {"step": xs, "value": ys} for line, (xs, ys) in lines.items()}
        for panel, lines in panels.items()
    }
    told = _told_of_training(panels)
    canvas = charts.training_chart(panels, title=title, note=note)
    return Figure(name, title, note, told, canvas, numbers=numbers)


def _told_of_training(panels) -> str:
    sentences = []
    for panel, lines in panels.items():
        for line, (xs, ys) in lines.items():
            known = [(x, y) for x, y in zip(xs, ys, strict=True) if y is not None]
            (x0, y0), (x1, y1) = known[0], known[-1]
            sentences.append(
                f"{panel}, {line.replace('_', ' ')}: {y0:.4g} at step {x0}, {y1:.4g} at step {x1}."
            )
    return " ".join(sentences)


def recall(runs: Sequence[Scored]) -> Figure:
    """R@k of all runs."""
    title = "How many captions find their person: R@k"
    gallery = len(runs[0].evaluation.encoded.image_identities)
    curves = {run.name: recall_curve(run.first, gallery=gallery) for run in runs}
    note = (
        f"{_split(runs[0])}: share of the {len(runs[0].first):,} captions with a photo of the "
        f"person described among the first k of {gallery:,}."
    )
    told = " ".join(f"{name}: {_spelled(curve)}." for name, curve in curves.items())
    canvas = charts.recall_chart(curves, title=title, note=note)
    return Figure("recall", title, note, told, canvas, numbers=curves)


def _spelled(curve: dict) -> str:
    percent = curve["percent"]
    return ", ".join(f"R@{k} {percent[k - 1]:.1f}" for k in _MARKED if k <= len(percent))


def errors(runs: Sequence[Scored]) -> Figure:
    """R1 of kinds of captions: by attribute for drawn people, otherwise by length and words."""
    title, ours = "Where errors come from", runs[0]
    notes, words = records_of(ours)
    numbers = _attributes(runs, notes) if notes else _lengths_and_words(runs, words)
    names = {"by_attribute": "Captions that tell of", "by_length": "Captions of so many words"}
    names["by_word"] = "Captions with the word"
    rows = {names[kind]: _joined(list(found.values())) for kind, found in numbers.items()}
    if not all(rows.values()):
        return absent("errors", title, "the split has too few captions to sort them into kinds")
    kind = (
        "Bars: of the captions that tell an attribute, the share whose first photo shows a person "
        "with another value of it. Captions tell several attributes, so rows overlap."
        if notes
        else "Words: the nouns and adjectives that most captions have."
    )
    note = (
        f"{_split(ours)}. Dots: R1 with its 95 % interval (Wilson, captions taken as "
        f"independent); thin lines: R1 of all {len(ours.first):,} captions. {kind}"
    )
    told = "; ".join(
        f"{name} {found[0]['R1']:.1f} of {found[0]['captions']}"
        for table in rows.values()
        for name, found in table
    )
    told = f"R1 of kinds of captions of {ours.name}: {told}"
    overall = {run.name: 100 * float(run.hits.mean()) for run in runs}
    canvas = charts.groups_chart(rows, overall=overall, title=title, note=note)
    return Figure("errors", title, note, told, canvas, numbers=numbers | {"overall": overall})


def _attributes(runs: Sequence[Scored], notes: list[dict]) -> dict[str, dict]:
    told = caption_numbers(runs[0])
    found = {r.name: by_attribute(notes, told, hits=r.hits, photos=r.nearest) for r in runs}
    return {"by_attribute": found}


def _lengths_and_words(runs: Sequence[Scored], words: list[list[str]]) -> dict[str, dict]:
    captions = [runs[0].evaluation.encoded.captions[query] for query in runs[0].queries]
    found = {"by_length": {run.name: by_length(captions, run.hits) for run in runs}}
    tables = {run.name: by_word(words, run.hits) for run in runs}
    return found | ({"by_word": tables} if tables[runs[0].name] else {})


def _joined(tables: Sequence[list[dict]]) -> list[tuple[str, list[dict]]]:
    """Rows of the same kind of all runs, in the order of the first run."""

    def name(row: dict) -> str:
        if "least" in row:
            return " to ".join(dict.fromkeys((str(row["least"]), str(row["most"]))))
        return (row.get("attribute") or row["word"]).replace("_", " ")

    named = [{name(row): row for row in table} for table in tables]
    return [(name(row), [rows[name(row)] for rows in named]) for row in tables[0]]


def masking(runs: Sequence[Scored]) -> Figure:
    """R1 and mAP over the masking ratio (Fig. 5 of the paper), of finished runs alone."""
    name, title = "masking", "R1 against the masking ratio"
    points, left_out, records = [], [], []
    for run in runs:
        record = read_record(run.path)
        ratio = masking_ratio(record)
        if ratio is None or not record.finished:
            why = "is not finished" if ratio is not None else "masks images and texts differently"
            left_out.append(f"{run.name} {why}")
            continue
        scores = {metric: run.evaluation.metrics[metric] for metric in ("R1", "mAP")}
        points.append({"run": run.name, "ratio": ratio, **scores})
        records.append(record)
    aside = f" Left out: {'; '.join(left_out)}." if left_out else ""
    ratios = sorted({point["ratio"] for point in points})
    if len(ratios) < 2:
        found = f"only {ratios[0]:g} is among them" if ratios else "there is none"
        reason = (
            "it takes finished runs of at least two masking ratios, and "
            f"{found}; name others with --compare.{aside}"
        )
        return Figure(name, title, missing=reason, numbers={"points": points})
    others = _other_fields(records)
    note = f"{_split(runs[0])}; a point is one finished run, the lines join means. "
    note += (
        f"The runs also differ in {', '.join(others)}, so masking is not the only cause."
        if others
        else "The runs differ in nothing else that is configured."
    )
    note += aside
    told = "; ".join(f"ratio {p['ratio']:g} ({p['run']}): R1 {p['R1']:.1f}" for p in points)
    canvas = charts.masking_chart(points, title=title, note=note)
    numbers = {"points": points, "other_differences": others}
    return Figure(name, title, note, told, canvas, numbers=numbers)


def masking_ratio(record: Record) -> float | None:
    """The share of tokens that training masked; None where images and texts differ in it."""
    masked = record.config.masking
    if masked.strategy == "none":
        return 0.0
    return float(masked.image_ratio) if masked.image_ratio == masked.text_ratio else None


def _other_fields(records: Sequence[Record]) -> list[str]:
    found = set()
    for record in records[1:]:
        lines = compare(records[0].config, record.config)
        found |= {line.split(":")[0] for line in lines}
    return sorted(field for field in found if not field.startswith((*_FREE, "masking.")))


def _split(run: Scored) -> str:
    return f"{run.evaluation.dataset} {run.evaluation.split}"
