"""The prepare command: a published dataset, or the embedded ones, become records on disk."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from ivt_jax.data import records
from ivt_jax.data.builders import caption_pairs, own_data, person_search, visual_genome
from ivt_jax.data.builders.faults import described
from ivt_jax.data.builders.ingest import Split
from ivt_jax.data.records import DataError
from ivt_jax.data.texts import load_tokenizer
from ivt_jax.errors import UserError, run

NAMES = ("synthetic", *person_search.FILES, *caption_pairs.FILES, *own_data.NAMES)
_RESUMABLE = "Finished shards are kept: the same command goes on from them."


def main(argv: list[str]) -> int:
    """Runs `python -m ivt_jax prepare ...`; returns the exit code (errors.py lists them)."""
    return run(_main, argv)


def prepare(
    name: str,
    *,
    out: str | Path,
    source: str | Path | None = None,
    images: str | Path | None = None,
    dataset: str | None = None,
    regions: str = "image",
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
        source: the dataset's file or folder (docs/data.md lists the forms of each); not used by
            "synthetic".
        images: folder of the images, if they are not where the dataset puts them.
        dataset: name to give to one's own data ("folder", "table").
        regions: of "vg": "image", all phrases of an image in one record | "crop", one record a
            region.
        vocabulary: vocab.txt (or its folder) to store with the dataset.
        seed: of the embedded datasets.
        workers: processes that read, check and write; None = one a CPU core.
        bad_share: share of records with a fault above which a dataset is refused.
        beam: options of an Apache Beam pipeline to use in place of `workers`; "" = its defaults.

    Returns:
        dataset -> its manifest (`records.read_manifest`).

    Raises:
        UserError: an argument is wrong. DataError: the data is missing or unusable, or a process
            died. OSError: a file cannot be read or written; its note says how to go on.
    """
    _check(name, out=out, source=source, images=images, dataset=dataset, regions=regions)
    about: dict[str, Any] = {"seed": seed, "drawing": _drawing()}
    if source is not None:
        about = {"source": str(Path(source).resolve())}
    if images:
        about["images"] = str(Path(images).resolve())
    if name == "vg":
        about["regions"] = regions
    manifests = {}
    for made in _datasets(name, dataset):
        folder = Path(out) / made
        if (folder / records.MANIFEST).is_file():
            print(f"{folder} is finished already and left alone; remove it to make it anew")
            manifests[made] = records.read_manifest(out, made)
        else:
            manifests[made] = _write(
                made,
                _splits(name, made, source=source, images=images, regions=regions, seed=seed),
                out=Path(out),
                workers=workers or os.cpu_count() or 1,
                vocabulary=_vocabulary(name, vocabulary),
                about=about,
                bad_share=bad_share,
                beam=beam,
            )
    return manifests


def ensure_embedded(directory: str | Path, names: Iterable[str]) -> None:
    """Draws the embedded datasets among `names` that are not in `directory` yet.

    Those that another version drew are told of and left as they are. Raises as `prepare` does.
    """
    missing = []
    for name in names:
        if records.PREPARED_BY.get(name) != "synthetic":
            continue
        if not (Path(directory) / name / records.MANIFEST).is_file():
            missing.append(name)
            continue
        manifest = records.read_manifest(directory, name)
        if "seed" in manifest and manifest.get("drawing") != _drawing():
            print(
                f"{Path(directory) / name} was drawn by another version of this package: scores "
                "differ from those of its README. Remove the folder to have it drawn anew."
            )
    if missing:
        print(f"{', '.join(missing)}: not in {directory} yet, so drawn first")
        for name, manifest in prepare("synthetic", out=directory).items():
            counts = [f"{n['records']:,} {split}" for split, n in manifest["splits"].items()]
            print(f"{name}: {', '.join(counts)} images")


def _drawing() -> int:
    from ivt_jax.data.synthetic.records import DRAWING

    return DRAWING


def _datasets(name: str, dataset: str | None) -> list[str]:
    """The datasets that a name makes."""
    return [dataset] if dataset else [d for d, by in records.PREPARED_BY.items() if by == name]


def _check(
    name: str,
    *,
    out: str | Path,
    source: str | Path | None,
    images: str | Path | None,
    dataset: str | None,
    regions: str,
):
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
        raise UserError(f"{name} needs --source=<its file, or the folder that holds it>")
    if source and not Path(source).exists():
        raise DataError(f"there is no {source}; give --source the file or its folder")
    if images and not Path(images).is_dir():
        raise DataError(f"there is no image folder {images}")
    if regions not in visual_genome.REGIONS or (regions != "image" and name != "vg"):
        known = " or ".join(visual_genome.REGIONS)
        raise UserError(f"--regions is of vg alone, {known} (got {regions!r} for {name})")
    if (name in own_data.NAMES) != (dataset is not None):
        raise UserError(
            f"{name} is your own data; give --name=<what to call it>"
            if dataset is None
            else f"--name is for {' and '.join(own_data.NAMES)}; {name} keeps its own"
        )
    if dataset is not None and not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", dataset):
        raise UserError(
            f"--name={dataset!r} is not made of letters, digits and _, beginning with a letter"
        )
    if dataset in records.PREPARED_BY:
        raise UserError(f"--name={dataset} is the name of a published dataset; choose another")


def _main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m ivt_jax prepare", description=__doc__)
    parser.add_argument("name", choices=NAMES, help="what to prepare")
    parser.add_argument("--source", help="the dataset's file, or the folder that holds it")
    parser.add_argument("--images", help="folder of the images, if not the usual one")
    parser.add_argument("--name", dest="dataset", help="what to call your own data (folder, table)")
    parser.add_argument(
        "--regions",
        default="image",
        choices=visual_genome.REGIONS,
        help="of vg: one record an image with all phrases (default), or one a region",
    )
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
    name = arguments.pop("name")
    for dataset, manifest in prepare(name, **arguments).items():
        print(_report(Path(arguments["out"], dataset), manifest))
    print(_next_command(name, arguments["dataset"] or name, Path(arguments["out"])))
    return 0


def _splits(
    name: str,
    dataset: str,
    *,
    source: str | Path | None,
    images: str | Path | None,
    regions: str,
    seed: int,
) -> dict[str, Split]:
    if source is None:
        return _synthetic_splits(dataset, seed=seed)
    path, root = Path(source), Path(images) if images else None
    try:
        if name in own_data.NAMES:
            return own_data.own_splits(name, path, images=root, dataset=dataset)
        if name in person_search.FILES:
            return person_search.person_splits(name, path, images=root)
        return caption_pairs.caption_splits(name, path, images=root, regions=regions)
    except OSError as error:
        raise DataError(f"{error.filename or source} cannot be read: {error.strerror}") from error


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
    try:
        return write_dataset(dataset, splits, out=out, show=shown_on(sys.stdout), **how)
    except BrokenProcessPool as error:
        raise DataError(
            f"a process that made {out / dataset} died, most often for want of memory; try "
            f"--workers=1. {_RESUMABLE}"
        ) from error
    except (OSError, KeyboardInterrupt) as error:
        error.add_note(f"{out / dataset} is not finished. {_RESUMABLE}")
        raise


def _report(folder: Path, manifest: dict[str, Any]) -> str:
    lines = [f"{folder}:"]
    for split, counts in manifest["splits"].items():
        size = sum(manifest["files"][split].values()) / 1e6
        lines.append(
            f"  {split:5} {counts['records']:>9,} images  {counts['captions']:>9,} captions  "
            f"{counts['identities']:>9,} identities  {size:>9,.1f} MB"
        )
    left_out = manifest["left_out"]
    told = f"{described(left_out)} (see quarantine.jsonl)" if left_out else "0"
    lines.append(f"  left out: {told}")
    return "\n".join(lines)


def _next_command(name: str, dataset: str, out: Path) -> str:
    if name == "synthetic":
        options = "" if out == Path("data") else f" --data={out}"
        return f"next: python -m ivt_jax demo{options}"
    if name in own_data.NAMES:
        return f"next: name {dataset!r} in a configuration (docs/data.md, Your own photos)"
    config = "cc4m" if name in caption_pairs.FILES else name
    stage = "pretrain" if name in caption_pairs.FILES else "finetune"
    command = f"python -m {stage}.main --config=configs/{config}.py --workdir=runs/{config}"
    if out != Path("data"):
        command += f" --config.data.directory={out}"
    if not (out / name / records.VOCABULARY).is_file():
        command += " --config.data.vocabulary=<vocab.txt of BERT-uncased>"
    return f"next: {command}"
