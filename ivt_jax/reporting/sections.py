"""The parts of a report that its run's folder and data tell: data, configuration, events, time."""

import json
import shlex
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from configs import base
from ivt_jax.config import documentation
from ivt_jax.convert.card import DATA
from ivt_jax.data.builders.dataset import QUARANTINE
from ivt_jax.data.builders.faults import described
from ivt_jax.data.published import PUBLISHED
from ivt_jax.data.records import PREPARED_BY, VERSION, DataError, changed_files, read_manifest
from ivt_jax.export import software
from ivt_jax.goodput import timeline_of
from ivt_jax.reporting import html
from ivt_jax.reporting.recorded import Record, complete, events, read_lines, stage_of
from ivt_jax.reporting.sheet import WIDTH
from ivt_jax.retrieval.svg import to_svg
from ivt_jax.training.goodput import BUCKETS, totals
from ivt_jax.training.restore import read_config
from ivt_jax.validation import leaves

_LISTED = 200  # bad records, at most
_OLDEST = 9  # runs that one goes back to, at most


def data_section(record: Record) -> str:
    """Counts, what was left out and whether the files are whole, of every dataset used."""
    config = record.config
    names = dict.fromkeys([*config.data.mixture, config.evaluation.dataset])
    parts = []
    for name in filter(None, names):
        weight = config.data.mixture.get(name)
        use = f"trained on with weight {weight:g}" if weight else "searched, not trained on"
        if weight and name == config.evaluation.dataset:
            use += ", and searched to score"
        about = f"{DATA[name]}; {use}." if name in DATA else f"{use.capitalize()}."
        parts += [f"<h3>{html.text(name)}</h3>", html.paragraph(about[0].upper() + about[1:])]
        try:
            parts += _dataset(config.data.directory, name)
        except DataError as error:
            parts.append(html.paragraph(f"Nothing more is known here: {error}"))
    replaced, _ = read_lines(record.path / "substituted.jsonl")
    if replaced:
        head = ["dataset", "key", "reason"]
        rows = [[line.get(field, "") for field in head] for line in replaced[:_LISTED]]
        inside = html.table("Images replaced in training", head, rows)
        title = f"{len(replaced):,} unreadable images replaced in training"
        parts.append(html.folded(title, inside))
    return html.section("data", "Data", *parts)


def _dataset(directory: str, name: str) -> list[str]:
    manifest, published = read_manifest(directory, name), PUBLISHED.get(name)
    rows = []
    for split, counts in manifest["splits"].items():
        row = [split, *(f"{counts[field]:,}" for field in ("records", "captions", "identities"))]
        if published:
            known = published.splits.get(split)
            counted = (known.images, known.captions, known.identities) if known else ()
            row.append(" / ".join(f"{count:,}" for count in counted))
        rows.append(row)
    head = ["split", "images", "captions", "identities"]
    head += ["published: images / captions / identities"] if published else []
    found = html.table(f"{name}, as prepared", head, rows, numbers=range(1, len(head)))
    folder = Path(directory) / name
    changed = [
        path.name
        for files in manifest["files"].values()
        for path, _, _ in changed_files(folder / VERSION, files)
    ]
    whole = "all files have the size they were written with"
    if changed:
        whole = f"{len(changed)} files are missing or of another size"
    words = (
        f"Left out when it was prepared (quarantine): {described(manifest['left_out'])}. "
        f"Checked for this report: {whole}; python -m ivt_jax verify {name} reads everything."
    )
    return [found, html.paragraph(words), _quarantine(folder / QUARANTINE)]


def _quarantine(file: Path) -> str:
    lines, _ = read_lines(file)
    if not lines:
        return ""
    head = ["key", "split", "reason", "detail"]
    rows = [[line.get(field, "") for field in head] for line in lines[:_LISTED]]
    more = f", the first {_LISTED} of {len(lines):,}" if len(lines) > _LISTED else ""
    return html.folded(f"What was left out{more}", html.table("Quarantine", head, rows))


def config_section(record: Record) -> str:
    """What differs from configs/base.py, with the meaning of each field, and everything."""
    values, defaults, meanings = leaves(record.config), leaves(base.get_config()), documentation()
    rows = [
        [field, _short(defaults[field]), _short(value), meanings.get(field, "")]
        for field, value in values.items()
        if value != defaults[field]
    ]
    head = ["field", "configs/base.py", "this run", "meaning"]
    parts = [html.table(f"{len(rows)} fields differ from configs/base.py", head, rows)]
    if record.strange:
        words = f"Fields that this release does not know: {', '.join(record.strange)}."
        parts.append(html.paragraph(words))
    everything = [[field, _short(value)] for field, value in values.items()]
    table = html.table("The whole configuration", ["field", "value"], everything)
    parts.append(html.folded(f"All {len(values)} fields", table))
    return html.section("configuration", "Configuration", *parts)


def _short(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str | dict) else str(value)


def events_section(record: Record) -> str:
    """Restarts, skipped steps, rollbacks, damaged checkpoints, stalls, and where the time went."""
    found = events(record)
    parts = [
        html.table("What happened to the run", ["kind", "what happened"], found)
        if found
        else html.paragraph(
            "Nothing is recorded: no restart, skipped step, rollback, damaged checkpoint, stall or "
            "unreadable image."
        )
    ]
    saved = ", ".join(f"{step:,}" for step in record.saved) or "none"
    parts.append(html.paragraph(f"Checkpoints here: {saved}."))
    parts.append("<h3>Where the time went</h3>")
    if not record.goodput:
        words = "The run has no record of its time (goodput.jsonl); an older release wrote none."
        return html.section("events", "What went wrong", *parts, html.paragraph(words))
    seconds = totals(record.goodput)
    wall = sum(seconds.values())
    share = f"{100 * seconds['step'] / max(wall, 1e-9):.1f}"
    rows = [
        [bucket, f"{spent:,.1f}", f"{100 * spent / max(wall, 1e-9):.1f}", BUCKETS[bucket]]
        for bucket, spent in sorted(seconds.items(), key=lambda pair: -pair[1])
        if spent
    ]
    head = ["kind of time", "seconds", "percent", "meaning"]
    title = f"Goodput: {share} % of {wall:,.0f} s were steps that counted"
    canvas = timeline_of(record.goodput, title=title, width=WIDTH)
    drawn = to_svg(canvas, theme="page", title=title, description="The table has the numbers.")
    parts.append(f"<figure>{html.wide('Timeline', drawn)}</figure>")
    parts.append(html.table(title, head, rows, numbers=(1, 2)))
    return html.section("events", "What went wrong", *parts)


def reproduction_section(record: Record) -> str:
    """Commands that make the data, the runs it goes back to, the run, its scores, this report."""
    history = [*reversed(_earlier(record.config)), (record.path, record.config, record.stage)]
    names = dict.fromkeys(
        name
        for _, config, _ in history
        for name in (*config.data.mixture, config.evaluation.dataset)
        if name
    )
    directory = record.config.data.directory
    lines = []
    for made_by in dict.fromkeys(PREPARED_BY.get(name, name) for name in names):
        source = "" if made_by == "synthetic" else " --source=... --vocabulary=..."
        lines.append(f"python -m ivt_jax prepare {made_by}{source} --out={shlex.quote(directory)}")
    made = {str(path): f"{path}-again" for path, _, _ in history}
    for path, config, stage in history:
        start = str(config.init.run)
        again = training_command(
            config, stage=stage, workdir=made[str(path)], start=made.get(start, start)
        )
        lines.append(again)
    again = shlex.quote(made[str(record.path)])
    if record.config.evaluation.dataset:
        lines.append(f"python -m ivt_jax evaluate --run={again}")
    lines.append(f"python -m ivt_jax report {again}")
    missing = (
        ""
        if not record.config.init.run or len(history) > 1
        else (f" It started from {record.config.init.run}, which is not here.")
    )
    words = (
        f"Seed {record.config.seed}. The commands name every value that differs from "
        "configs/base.py, so they need no other configuration file. A run gives the same numbers "
        f"on one kind of machine and the same versions.{missing}"
    )
    versions = (
        f"This report was written by {software()}. With which versions the run was trained is not "
        "recorded."
    )
    parts = [html.paragraph(words), html.listing(lines), html.paragraph(versions)]
    return html.section("reproduce", "How to reproduce it", *parts)


def training_command(config: ConfigDict, *, stage: str, workdir: str, start: str) -> str:
    """The command line of a training with exactly these values but init.run, which is `start`."""
    defaults = leaves(base.get_config())
    options = [
        f"--config.{field}={_as_typed(value)}"
        for field, value in (leaves(config) | {"init.run": start}).items()
        if value != defaults[field]
    ]
    words = [f"--workdir={workdir}", *options]
    command = f"python -m {stage}.main --config=configs/base.py"
    return " \\\n  ".join([command, *map(shlex.quote, words)])


def _as_typed(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def _earlier(config: ConfigDict) -> list[tuple[Path, ConfigDict, str]]:
    """The runs it goes back to as far as they are here, the newest first."""
    found: list[tuple[Path, ConfigDict, str]] = []
    while config.init.run and (Path(config.init.run) / "config.json").is_file():
        if len(found) == _OLDEST:
            break
        path = Path(config.init.run)
        config, _ = complete(read_config(path))
        found.append((path, config, stage_of(config)))
    return found
