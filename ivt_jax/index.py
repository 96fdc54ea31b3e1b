"""`python -m ivt_jax index`: encodes a folder of photos into a gallery that `search` searches."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ivt_jax.dtypes import DTYPES
from ivt_jax.errors import UserError
from ivt_jax.retrieval.options import ENGINES

if TYPE_CHECKING:
    from ivt_jax.retrieval.gallery import Gallery

_AGAIN = "Nothing is lost: the same command goes on from the last batch."


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    if arguments.threads < 0:
        raise UserError(f"--threads={arguments.threads}: name a number of threads, 0 for all cores")
    if not arguments.photos.is_dir():
        raise UserError(f"{arguments.photos} is no folder; name the folder of your photos")
    from ivt_jax.data.builders.faults import described
    from ivt_jax.data.builders.progress import shown_on
    from ivt_jax.inference import load
    from ivt_jax.retrieval.gallery import Gallery
    from ivt_jax.retrieval.gallery_files import SKIPPED
    from ivt_jax.retrieval.indexing import build_gallery
    from ivt_jax.training.compilation_cache import use_compilation_cache

    use_compilation_cache(shortest=0.1)
    how = {"vocabulary": arguments.vocabulary, "dtype": arguments.dtype}
    model = load(arguments.run, arguments.step, **how)
    out, show = arguments.out, shown_on(sys.stderr, what="photos")
    try:
        report = build_gallery(model, arguments.photos, out, threads=arguments.threads, show=show)
    except (KeyboardInterrupt, OSError) as error:
        error.add_note(_AGAIN)
        raise
    resumed = f", {report.resumed:,} by an interrupted run before" if report.resumed else ""
    print(
        f"{out} holds {report.photos:,} photos: {report.encoded:,} encoded{resumed}, "
        f"{report.kept:,} known before; {report.removed:,} removed ({report.seconds:.1f} s)"
    )
    if report.skipped:
        print(f"skipped: {described(report.skipped)}; listed in {out / SKIPPED}")
    _index_faiss(Gallery.open(out), arguments.engine)
    print(f'next: python -m ivt_jax search {out} "a woman in a red coat"')
    return 0


def _index_faiss(gallery: "Gallery", engine: str) -> None:
    from ivt_jax.retrieval import approximate

    many = len(gallery) >= approximate.FEWEST
    if engine == "exact" or (engine == "auto" and not (many and approximate.installed())):
        return
    began = time.monotonic()
    recall, lists = gallery.index_faiss()
    print(
        f"FAISS index: {100 * recall:.1f} % of the ten nearest photos that exact search finds, "
        f"with {lists} lists searched ({time.monotonic() - began:.0f} s)"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ivt_jax index", description=__doc__)
    parser.add_argument("photos", type=Path, help="folder of photos, with all folders in it")
    parser.add_argument(
        "--run", required=True, help="run folder, exported folder, hf:// or official weights"
    )
    parser.add_argument("--out", required=True, type=Path, help="the gallery: a folder")
    parser.add_argument("--step", type=int, help="checkpoint of a run; default: the best")
    parser.add_argument("--vocabulary", help="of official weights: vocab.txt (default: beside)")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="", help="docs/inference.md (default: the run's)"
    )
    parser.add_argument(
        "--threads", type=int, default=0, help="that read photos (default: one for each core)"
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="faiss: also make a FAISS index; auto: that from a million photos, if installed",
    )
    return parser
