"""Reads caption corpora from the JSON that ALBEF-style projects share: [{image, caption}, ...]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ivt_jax.data.builders.ingest import Split
from ivt_jax.data.builders.layouts import (
    annotation_file,
    field,
    grouped,
    image_split,
    listed,
    read_json,
)
from ivt_jax.data.records import DataError

# Names these files are shared under.
FILES = {
    "cc3m": ("cc3m.json", "cc3m_train.json", "new_cc3m_train.json"),
    "sbu": ("sbu.json", "new_sbu.json"),
    "coco": ("coco.json", "coco_train.json"),
    "vg": ("vg.json", "new_vg.json"),
}


def caption_splits(name: str, source: Path, *, images: Path | None = None) -> dict[str, Split]:
    """The train split of a caption corpus; an image's captions become one record.

    Args:
        name: a key of FILES.
        source: the JSON file, or the folder that holds it.
        images: folder that the image paths start from; default the JSON file's own. Absolute
            paths are taken as they are.

    Raises:
        DataError: the file is missing or not of this layout.
    """
    path = annotation_file(source, FILES[name])
    content = read_json(path)
    if not isinstance(content, list):
        raise DataError(f"{path} is not a list of {{image, caption}}")
    rows = grouped(_row(entry, f"{path}, entry {i}") for i, entry in enumerate(content))
    for number, row in enumerate(rows):
        row["identity"] = number
    return {"train": image_split(rows, root=images or path.parent, source=name)}


def _row(entry: Any, where: str) -> dict[str, Any]:
    captions = list(listed(field(entry, "caption", where)))
    key = str(field(entry, "image", where))
    return {"key": key, "captions": captions, "attributes": [""] * len(captions)}
