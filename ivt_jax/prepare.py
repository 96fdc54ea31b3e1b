"""The prepare command: a published dataset, or the embedded ones, become records on disk."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from ivt_jax.data import records
from ivt_jax.data.builders import caption_pairs, person_search
from ivt_jax.data.builders.ingest import Split
from ivt_jax.data.records import DataError
from ivt_jax.data.texts import load_tokenizer
from ivt_jax.errors import UserError, run

NAMES = ("synthetic", *person_search.FILES, *caption_pairs.FILES)
_CANNOT_WRITE = 73
_RESUMABLE = "Finished shards are kept: the same command goes on from them."


def main(argv: list[str]) -> int:
    """Runs `python -m ivt_jax prepare ...`; returns 0, 2 (usage), 5 (unusable data) or 73."""
    return run(_main, argv)


def prepare(
    name: str,
    *,
    out: str | Path,
    source: str | Path | None = None,
    images: str | Path | None = None,
    vocabulary: str | Path | None = None,
    seed: int = 0,
    workers: int | None = None,
    bad_share: float = 0.01,
    beam: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Writes the dataset(s) of one name below `out`; what is finished already is left alone.

    Args:
        name: one of NAMES; "synthetic" writes synthetic_people and synthetic_scenes.
        out: folder of all datasets; made if missing.
        source: the published JSON file or its folder; not used by "synthetic".
        images: folder of the images, if they are not where the dataset puts them.
        vocabulary: vocab.txt (or its folder) to store with the dataset.
        seed: of the embedded datasets.
        workers: processes that read, check and write; None = one a CPU core.
        bad_share: share of records with a fault above which a dataset is refused.
        beam: options of an Apache Beam pipeline to use in place of `workers`; "" = its defaults.

    Returns:
        dataset -> its manifest (`records.read_manifest`).

    Raises:
        UserError: an argument is wrong. DataError: the data is missing or unusable.
    """
    _check(name, out=out, source=source, images=images)
    about: dict[str, Any] = {"seed": seed}
    if source is not None:
        about = {"source": str(Path(source).resolve())}
    if images:
        about["images"] = str(Path(images).resolve())
    manifests = {}
    for dataset in [dataset for dataset, by in records.PREPARED_BY.items() if by == name]:
        folder = Path(out) / dataset
        if (folder / records.MANIFEST).is_file():
            print(f"{folder} is finished already and left alone; remove it to make it anew")
            manifests[dataset] = records.read_manifest(out, dataset)
        else:
            manifests[dataset] = _write(
                dataset,
                _splits(dataset, source=source, images=images, seed=seed),
                out=Path(out),
                workers=workers or os.cpu_count() or 1,
                vocabulary=_vocabulary(name, vocabulary),
                about=about,
                bad_share=bad_share,
                beam=beam,
            )
        print(_report(folder, manifests[dataset]))
    print(_next_command(name, Path(out)))
    return manifests


def ensure_embedded(directory: str | Path, names: Iterable[str]) -> None:
    """Draws the embedded datasets among `names` that are not in `directory` yet."""
    missing = [
        name
        for name in names
        if records.PREPARED_BY.get(name) == "synthetic"
        and not (Path(directory) / name / records.MANIFEST).is_file()
    ]
    if missing:
        print(f"{', '.join(missing)}: not in {directory} yet, so drawn first")
        prepare("synthetic", out=directory)


def _check(name: str, *, out: str | Path, source: str | Path | None, images: str | Path | None):
    if name not in NAMES:
        raise UserError(f"unknown dataset {name!r}; choose one of {', '.join(NAMES)}")
    if "://" in str(out):
        raise UserError(
            f"--out={out} is no folder: array_record writes to folders only. Prepare into one and "
            "copy it, see docs/beam.md"
        )
    if name == "synthetic" and (source or images):
        raise UserError("the embedded datasets are drawn from a seed; leave --source and --images")
    if name != "synthetic" and not source:
        raise UserError(f"{name} needs --source=<its JSON file or the folder that holds it>")
    if source and not Path(source).exists():
        raise DataError(f"there is no {source}; give --source the JSON file or its folder")


def _main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m ivt_jax prepare", description=__doc__)
    parser.add_argument("name", choices=NAMES, help="what to prepare")
    parser.add_argument("--source", help="the published JSON file, or the folder that holds it")
    parser.add_argument("--images", help="folder of the images, if not the usual one")
    parser.add_argument("--vocabulary", help="vocab.txt (or its folder) to store with the dataset")
    parser.add_argument("--out", default="data", help="folder of all datasets (default: data)")
    parser.add_argument("--seed", type=int, default=0, help="of the embedded datasets")
    parser.add_argument("--workers", type=int, help="processes (default: one a CPU core)")
    parser.add_argument(
        "--bad_share",
        type=float,
        default=0.01,
        help="share of records with a fault above which the command fails (default: 0.01)",
    )
    parser.add_argument(
        "--beam",
        nargs="?",
        const="",
        metavar="OPTIONS",
        help="run as an Apache Beam pipeline with these options, see docs/beam.md",
    )
    arguments = vars(parser.parse_args(argv))
    try:
        prepare(arguments.pop("name"), **arguments)
    except OSError as error:
        message = f"cannot write to {arguments['out']}: {error}. {_RESUMABLE}"
        raise UserError(message, exit_code=_CANNOT_WRITE) from error
    except BrokenProcessPool as error:
        raise DataError(
            f"a worker process died, most often for want of memory; try --workers=1. {_RESUMABLE}"
        ) from error
    except KeyboardInterrupt:
        print(_RESUMABLE, file=sys.stderr)
        raise
    return 0


def _splits(
    dataset: str, *, source: str | Path | None, images: str | Path | None, seed: int
) -> dict[str, Split]:
    if source is None:
        return _synthetic_splits(dataset, seed=seed)
    read = (
        person_search.person_splits
        if dataset in person_search.FILES
        else caption_pairs.caption_splits
    )
    return read(dataset, Path(source), images=Path(images) if images else None)


def _synthetic_splits(dataset: str, *, seed: int) -> dict[str, Split]:
    from ivt_jax.data import synthetic

    if dataset == "synthetic_people":
        sources = {s: synthetic.people_records(s, seed=seed) for s in ("train", "val", "test")}
    else:
        sources = {s: synthetic.scene_records(s, seed=seed) for s in ("train", "val")}
    return {
        split: Split(range(len(source)), source.__getitem__) for split, source in sources.items()
    }


def _vocabulary(name: str, path: str | Path | None) -> list[str] | None:
    if path is None:
        if name != "synthetic":
            return None
        from ivt_jax.data import synthetic

        return synthetic.vocabulary()
    # Reading it as a tokenizer refuses a file that training would refuse much later.
    return load_tokenizer(path).tokens()


def _write(dataset: str, splits: dict[str, Split], *, out: Path, **how: Any) -> dict[str, Any]:
    from ivt_jax.data.builders.dataset import write_dataset
    from ivt_jax.data.builders.progress import shown_on

    print(f"Preparing {out / dataset}", flush=True)
    return write_dataset(dataset, splits, out=out, show=shown_on(sys.stdout), **how)


def _report(folder: Path, manifest: dict[str, Any]) -> str:
    lines = [f"{folder}:"]
    for split, counts in manifest["splits"].items():
        size = sum(manifest["files"][split].values()) / 1e6
        lines.append(
            f"  {split:5} {counts['records']:>9,} images  {counts['captions']:>9,} captions  "
            f"{counts['identities']:>9,} identities  {size:>9,.1f} MB"
        )
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in manifest["left_out"].items())
    lines.append(f"  left out: {left_out} (see quarantine.jsonl)" if left_out else "  left out: 0")
    return "\n".join(lines)


def _next_command(name: str, out: Path) -> str:
    config = "demo" if name == "synthetic" else "cc4m" if name in caption_pairs.FILES else name
    stage = "pretrain" if name in caption_pairs.FILES else "finetune"
    command = f"python -m {stage}.main --config=configs/{config}.py --workdir=runs/{config}"
    if out != Path("data"):
        command += f" --config.data.directory={out}"
    if name != "synthetic" and not (out / name / records.VOCABULARY).is_file():
        command += " --config.data.vocabulary=<vocab.txt of BERT-uncased>"
    return f"Next: {command}"
