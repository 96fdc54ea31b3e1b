"""`python -m ivt_jax figures RUN`: the figures of a paper, from a run."""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ivt_jax.errors import UserError

if TYPE_CHECKING:
    from ivt_jax.reporting.gather import Gathered

INDEX = "figures.json"


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    from ivt_jax.reporting.gather import gather

    options = _parser().parse_args(argv)
    out = options.out or options.run / "figures"
    check_place(out, replace=options.replace)
    gathered = gather(options)
    files = write_figures(gathered, out)
    print(f"wrote {out / INDEX} (all numbers) and {len(files)} pictures:")
    for figure in gathered.figures:
        if figure.canvas is not None:
            print(f"  {out / figure.name}-{{light,dark}}.{{png,svg}}  {figure.title}")
    for figure in gathered.figures:
        if figure.canvas is None:
            print(f"not drawn: {figure.title}: {figure.missing}")
    print(f"next: python -m ivt_jax report {options.run}")
    return 0


def check_place(out: Path, *, replace: bool) -> None:
    """UserError unless figures may be written to the folder `out`.

    A folder that is there is left alone; with `replace`, one that this command wrote, and that
    nothing else was put into, gives way.
    """
    if not out.exists():
        return
    if not replace:
        raise UserError(f"{out} is there already; name another folder (--out) or pass --replace")
    index = out / INDEX
    if not index.is_file():
        raise UserError(f"{out} holds no {INDEX}, so it is no folder of figures; name another")
    try:
        figures = json.loads(index.read_text("utf-8"))["figures"].values()
        ours = {INDEX, *(name for figure in figures for name in figure["files"])}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{index} is damaged; name another folder or remove {out}") from None
    strange = sorted(path.name for path in out.iterdir() if path.name not in ours)
    if strange:
        names = ", ".join(strange[:5])
        raise UserError(f"{out} also holds {names}; move that away, or name another folder")


def write_figures(gathered: "Gathered", out: Path) -> list[str]:
    """Writes all pictures and figures.json, whole or not at all; returns names of pictures."""
    unfinished = out.with_name(out.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    figures, written = {}, []
    for figure in gathered.figures:
        files = figure.save(unfinished)
        written += files
        figures[figure.name] = {
            "title": figure.title,
            "files": files,
            **({"not_drawn": figure.missing} if figure.missing else {"caption": figure.note}),
            "numbers": figure.numbers,
        }
    index = json.dumps(facts(gathered) | {"figures": figures}, indent=1, ensure_ascii=False)
    (unfinished / INDEX).write_text(index + "\n", encoding="utf-8")
    if out.exists():
        shutil.rmtree(out)
    unfinished.rename(out)
    return written


def facts(gathered: "Gathered") -> dict:
    """Where the numbers come from, and the scores of all runs."""
    from ivt_jax.evaluate import summary

    found = {
        "run": str(gathered.record.path),
        "standing": gathered.record.standing,
        "scores": {run.name: summary(run.evaluation, run=str(run.path)) for run in gathered.runs},
    }
    return found | ({"not_scored": gathered.why} if gathered.why else {})


def _parser() -> argparse.ArgumentParser:
    from ivt_jax.reporting.gather import add_options

    parser = argparse.ArgumentParser(prog="python -m ivt_jax figures", description=__doc__)
    add_options(parser)
    parser.add_argument("--out", type=Path, help="folder to write (default: RUN/figures)")
    return parser
