"""`python -m ivt_jax report RUN`: all about a run in one HTML file that needs nothing else."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ivt_jax.errors import UserError

if TYPE_CHECKING:
    from ivt_jax.reporting.gather import Gathered


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    from ivt_jax.reporting.gather import gather

    options = _parser().parse_args(argv)
    out = options.out or options.run / "report.html"
    if out.is_dir():
        raise UserError(f"--out: {out} is a folder; name a file")
    if out.exists() and not options.replace:
        raise UserError(f"{out} is there already; name another file (--out) or pass --replace")
    write_report(gather(options), out)
    return 0


def write_report(gathered: "Gathered", out: Path) -> None:
    """Writes the file, whole or not at all, and says so."""
    from ivt_jax.reporting.report import report_page

    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(out.name + ".unfinished")
    unfinished.write_text(report_page(gathered), encoding="utf-8")
    unfinished.replace(out)
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB); open it in a browser")
    if gathered.why:
        print(f"it has no scores: {gathered.why}")
    if not gathered.record.finished:
        print(gathered.record.standing)


def _parser() -> argparse.ArgumentParser:
    from ivt_jax.reporting.gather import add_options

    parser = argparse.ArgumentParser(prog="python -m ivt_jax report", description=__doc__)
    add_options(parser)
    parser.add_argument("--out", type=Path, help="file to write (default: RUN/report.html)")
    return parser
