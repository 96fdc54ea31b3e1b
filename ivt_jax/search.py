"""`python -m ivt_jax search`: finds the photos of a gallery that fit a sentence or an example."""

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ivt_jax.errors import UserError
from ivt_jax.retrieval.options import ENGINES, RERANK

if TYPE_CHECKING:
    from ivt_jax.retrieval.gallery import Gallery


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    arguments = _parser().parse_intermixed_args(argv)  # a sentence may follow options
    query = [*arguments.sentences, *arguments.image]
    if not query:
        raise UserError("there is nothing to search for; give a sentence or --image=PHOTO")
    from ivt_jax.data.images import ImageError
    from ivt_jax.retrieval.gallery import Gallery
    from ivt_jax.training.compilation_cache import use_compilation_cache

    use_compilation_cache(shortest=0.1)  # compiling takes most of the time of a first search
    gallery = Gallery.open(arguments.gallery, model=arguments.run)
    how = {name: getattr(arguments, name) for name in ("without", "folder", "rerank", "engine")}
    try:
        # A sentence that was cut is worth a note, not a warning with a line of our source.
        with warnings.catch_warnings(record=True, action="always") as notes:
            rows, scores = gallery.rank(query, arguments.k, **how)
    except (ImageError, FileNotFoundError) as error:
        raise UserError(f"--image: {error}") from error
    for note in notes:
        print(f"note: {note.message}", file=sys.stderr)
    found = [
        {"path": str(gallery.root / gallery.paths[row]), "score": round(score, 6)}
        for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
    ]
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        for rank, one in enumerate(found, 1):
            print(f"{rank:>4}  {one['score']:.4f}  {printable(one['path'])}")
    if arguments.strip:
        _write_strip(arguments.strip, gallery, arguments, rows.tolist(), scores.tolist())
    return 0


def printable(path: str) -> str:
    """A path as one line of any terminal: what is no printable character is escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in path)


def _write_strip(
    file: Path,
    gallery: "Gallery",
    arguments: argparse.Namespace,
    rows: list[int],
    scores: list[float],
) -> None:
    """Draws the photos found; one that has gone since it was indexed is left out and named."""
    from PIL import Image

    from ivt_jax.data.images import ImageError, decode
    from ivt_jax.retrieval.figures import StripResult, StripRow, ranking_strip

    results = []
    for row, score in zip(rows, scores, strict=True):
        try:
            photo = Image.fromarray(decode(gallery.read(row), key=gallery.paths[row]))
        except ImageError as error:
            print(f"not in {file}: {error}", file=sys.stderr)
            continue
        results.append(StripResult(photo, score, None))
    examples = [f"like {Path(one).name}" for one in arguments.image]
    excluded = [f"without {sentence}" for sentence in arguments.without]
    caption = "; ".join([*arguments.sentences, *examples, *excluded])
    row = StripRow(caption, None, results)
    ranking_strip([row], k=max(1, len(results)), title="search").save(file)
    print(f"wrote {file}", file=sys.stderr if arguments.json else sys.stdout)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ivt_jax search", description=__doc__)
    parser.add_argument("gallery", type=Path, help="folder that `python -m ivt_jax index` wrote")
    parser.add_argument("sentences", nargs="*", help="what to find; several count alike")
    parser.add_argument("-k", "--k", type=int, default=10, help="photos to find (default: 10)")
    parser.add_argument("--json", action="store_true", help="print JSON: path and score")
    parser.add_argument("--strip", type=Path, help="also write the photos as one picture (.png)")
    parser.add_argument(
        "--image", action="append", default=[], type=Path, help="an example photo; repeatable"
    )
    parser.add_argument(
        "--without", action="append", default=[], help="what must not be there; repeatable"
    )
    parser.add_argument(
        "--folder", default="", help="only photos in this folder of the gallery, or below it"
    )
    parser.add_argument(
        "--rerank",
        choices=RERANK,
        default="none",
        help="reciprocal: photos with the neighbours of the best ones move up",
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="auto: the FAISS index, if there is one, from a million photos",
    )
    parser.add_argument("--run", help="the gallery's model, if it has moved")
    return parser
