"""Reads the caption corpora CC3M, SBU, COCO and Visual Genome: looks what form they are in."""

from __future__ import annotations

from pathlib import Path

from ivt_jax.data.builders import archives, coco, url_tables, visual_genome
from ivt_jax.data.builders.ingest import Split
from ivt_jax.data.builders.json_lists import caption_list, is_json_list
from ivt_jax.data.records import DataError

# Names under which [{image, caption}, ...] is shared.
FILES = {
    "cc3m": ("cc3m.json", "cc3m_train.json", "new_cc3m_train.json"),
    "sbu": ("sbu.json", "new_sbu.json"),
    "coco": ("coco.json", "coco_train.json"),
    "vg": ("vg.json", "new_vg.json"),
}
_IMG2DATASET = "a folder that img2dataset wrote (tars, files or parquet)"
_ACCEPTED = {
    "cc3m": f"{_IMG2DATASET}, or {' or '.join(url_tables.TSV)} beside its images",
    "sbu": f"{_IMG2DATASET}, or {url_tables.SBU_TEXT[0]} with {url_tables.SBU_TEXT[1]}, or "
    f"{url_tables.SBU_JSON}, beside the images",
    "coco": f"captions_train2014.json or captions_train2017.json, or {coco.KARPATHY}, each here or "
    "in annotations/",
    "vg": visual_genome.FILE,
}


def caption_splits(
    name: str, source: Path, *, images: Path | None = None, regions: str = "image"
) -> dict[str, Split]:
    """The splits of a caption corpus; prints which form of it was recognised.

    Args:
        name: a key of FILES.
        source: a file or folder in one of the forms that docs/data.md lists.
        images: folder of the images, if they are not in the form's usual place.
        regions: of Visual Genome: "image" | "crop" (`visual_genome.region_splits`).

    Raises:
        DataError: nothing was recognised, or what was recognised is broken.
    """
    listed = _shared_list(name, source)
    if listed:
        print(f"{listed}: a list of {{image, caption}}")
        return caption_list(listed, images=images, source=name)
    if name == "coco":
        found = coco.coco_splits(source, images=images)
    elif name == "vg":
        found = visual_genome.region_splits(source, images=images, regions=regions)
    else:
        split = _sharded(name, source) or url_tables.url_splits(source, images=images, name=name)
        found = {"train": split} if split else None
    if found is None:
        raise DataError(
            f"{source} is not recognised as {name}; it is read from {_ACCEPTED[name]}, or "
            f"from a list of {{image, caption}} called {' or '.join(FILES[name])}"
        )
    return found


def _shared_list(name: str, source: Path) -> Path | None:
    if source.is_file():
        others = (visual_genome.FILE,)
        is_list = source.suffix == ".json" and source.name not in others and is_json_list(source)
        return source if is_list else None
    return next((source / file for file in FILES[name] if (source / file).is_file()), None)


def _sharded(name: str, source: Path) -> Split | None:
    """What img2dataset wrote; the parquet files beside its tars and folders hold no images."""
    if source.is_file():
        tars = [source] if source.suffix == ".tar" else []
    else:
        tars = sorted(source.glob("*.tar"))
    if tars:
        print(f"{source}: webdataset tars; reading the index of {len(tars):,}", flush=True)
        split, form = archives.tar_split(tars, source=name), "tars"
    elif source.is_dir() and archives.has_file_shards(source):
        split, form = archives.file_split(source, source=name), "img2dataset's folders of files"
    elif files := _parquet_files(source):
        split, failed = archives.parquet_split(files, source=name)
        form = f"img2dataset's parquet, without {failed:,} rows that were never downloaded"
    else:
        return None
    print(f"{source}: {len(split.items):,} records in {form}")
    return split


def _parquet_files(source: Path) -> list[Path]:
    if source.is_file():
        return [source] if source.suffix == ".parquet" else []
    # Their columns need pyarrow to look at, which the other forms in such a folder do not.
    official = (*url_tables.TSV, url_tables.SBU_TEXT[0], url_tables.SBU_JSON)
    if any((source / name).is_file() for name in official):
        return []
    return archives.parquet_files_with_images(source)
