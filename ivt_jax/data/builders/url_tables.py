"""Reads the official URL lists of CC3M and SBU, beside a folder of the images downloaded by them.

CC3M: a TSV of caption and URL. SBU: two text files of lines, or sbu-captions-all.json. These lists
do not name files, so what is on disk decides which of FILE_NAMES the images are called by.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from ivt_jax.data.builders.faults import Fault
from ivt_jax.data.builders.ingest import Split
from ivt_jax.data.builders.layouts import read_json
from ivt_jax.data.builders.rows import Rows, new_record, read_file, rows_split, text_of
from ivt_jax.data.records import DataError

TSV = ("Train_GCC-training.tsv", "GCC-training.tsv", "cc3m.tsv")
SBU_TEXT = ("SBU_captioned_photo_dataset_urls.txt", "SBU_captioned_photo_dataset_captions.txt")
SBU_JSON = "sbu-captions-all.json"

# What a row's image may be called: (row number from 0, URL) -> name. The first is that of the
# ViLBERT download script for CC3M, the second that of torchvision for SBU.
FILE_NAMES: dict[str, Callable[[int, str], str]] = {
    "<CRC-32 of the URL>": lambda row, url: _crc(url),
    "<last part of the URL>": lambda row, url: PurePosixPath(urlsplit(url).path).name,
    "<CRC-32 of the URL>.jpg": lambda row, url: f"{_crc(url)}.jpg",
    "<row>.jpg": lambda row, url: f"{row}.jpg",
    "<row, 8 digits>.jpg": lambda row, url: f"{row:08}.jpg",
    "<row, 9 digits>.jpg": lambda row, url: f"{row:09}.jpg",
}
_FOLDERS = ("training", "images", "imgs", "dataset", ".")
_TRIED = 1000  # rows by which the name rule is found


def tsv_split(path: Path, *, images: Path | None, source: str) -> Split:
    """CC3M's TSV (caption, URL; a line that names the columns is passed over).

    Raises:
        DataError: no row has an image under any of FILE_NAMES.
    """
    places, faults = array("q"), []
    with path.open("rb") as file:
        end = 0
        for number, line in enumerate(file):
            start, end = end, end + len(line)
            caption, tab, url = line.rstrip(b"\r\n").rpartition(b"\t")
            if number == 0 and caption.strip().lower() == b"caption":
                continue
            if not tab or not url.strip():
                detail = "the line is not a caption, a tab and a URL"
                faults.append(Fault(f"{path.name}, line {number + 1}", "bad-row", detail))
                url = b""
            # Bad lines are kept as rows for now, so that they count in the row numbers.
            places.extend((start, len(caption), start + len(caption) + 1, len(url)))
    spans = np.frombuffer(places, np.int64).reshape(-1, 4)
    return _span_split((path, path), spans, faults, images=images, source=source)


def sbu_text_split(folder: Path, *, images: Path | None, source: str) -> Split:
    """SBU's two files of lines, URLs and captions; DataError if their lengths differ."""
    urls, captions = (folder / name for name in SBU_TEXT)
    url_spans, caption_spans = (_line_spans(path) for path in (urls, captions))
    if len(url_spans) != len(caption_spans):
        raise DataError(
            f"{urls} has {len(url_spans):,} lines and {captions} {len(caption_spans):,}; "
            "they must match, so one of them is not whole"
        )
    spans = np.concatenate([caption_spans, url_spans], axis=1)
    return _span_split((captions, urls), spans, [], images=images, source=source)


def _line_spans(path: Path) -> np.ndarray:
    """Offset and size of every line, int64 (N, 2)."""
    if not path.is_file():
        raise DataError(f"there is no {path}; it belongs beside the other SBU file")
    spans, end = array("q"), 0
    with path.open("rb") as file:
        for line in file:
            spans.extend((end, len(line.rstrip(b"\r\n"))))
            end += len(line)
    return np.frombuffer(spans, np.int64).reshape(-1, 2)


def _span_split(
    paths: tuple[Path, Path],
    spans: np.ndarray,
    faults: list[Fault],
    *,
    images: Path | None,
    source: str,
) -> Split:
    """A Split of (caption offset, size, URL offset, size) in the files `paths`."""

    def urls() -> Iterator[str]:
        with paths[1].open("rb") as file:
            for offset, size in spans[:, 2:]:
                file.seek(offset)
                yield text_of(file.read(size)).strip()

    root, rule, kept = _downloaded(urls, paths[1], images=images)
    rows = Rows((kept, *spans[kept].T), faults)
    return rows_split(rows, _load_span, paths, root, rule, source)


def _load_span(
    paths: tuple[Path, Path],
    root: Path,
    rule: str,
    source: str,
    number: int,
    row: int,
    *places: int,
) -> dict[str, Any]:
    where = f"{paths[0].name}, row {row}"
    caption, url = (
        text_of(read_file(path, where, offset=offset, size=size)).strip()
        for path, offset, size in zip(paths, places[::2], places[1::2], strict=True)
    )
    return _load_image(root, rule, source, number, row, url, caption)


def sbu_json_split(path: Path, *, images: Path | None, source: str) -> Split:
    """SBU's sbu-captions-all.json: {image_urls: [...], captions: [...], ...}."""
    content = read_json(path)
    lists = [
        content.get(n) if isinstance(content, dict) else None for n in ("image_urls", "captions")
    ]
    urls, captions = (value if isinstance(value, list) else [] for value in lists)
    if not urls or len(urls) != len(captions):
        raise DataError(f"{path} has no lists image_urls and captions of one length")
    urls = [str(url) for url in urls]
    root, rule, kept = _downloaded(lambda: iter(urls), path, images=images)
    columns = (kept, [urls[row] for row in kept], [captions[row] for row in kept])
    return rows_split(Rows(columns), _load_image, root, rule, source)


def _load_image(
    root: Path, rule: str, source: str, number: int, row: int, url: str, caption: Any
) -> dict[str, Any]:
    name = FILE_NAMES[rule](row, url)
    image = read_file(root / name, name)
    return new_record(image, [caption], identity=number, source=source, key=name)


def _downloaded(
    urls: Callable[[], Iterator[str]], path: Path, *, images: Path | None
) -> tuple[Path, str, np.ndarray]:
    """The image folder, the name rule and the rows whose image is there, int64; prints them."""
    roots = [images] if images else [path.parent / name for name in _FOLDERS]
    root, rule = _rule(list(enumerate(islice(urls(), _TRIED))), roots, path)
    named = FILE_NAMES[rule]
    kept, total = array("q"), 0
    for row, url in enumerate(urls()):
        total += bool(url)  # without a URL it is a bad row, told elsewhere
        if url and _is_file(root, named(row, url)):
            kept.append(row)
    print(
        f"{path}: images are {root}/{rule}; {len(kept):,} of {total:,} rows have one, the other "
        f"{total - len(kept):,} were not downloaded and are left out"
    )
    return root, rule, np.frombuffer(kept, np.int64)


def _rule(rows: Sequence[tuple[int, str]], roots: Sequence[Path], path: Path) -> tuple[Path, str]:
    """The folder and name rule by which most of the first rows have an image."""
    found = {
        (root, rule): sum(_is_file(root, named(row, url)) for row, url in rows if url)
        for root in roots
        for rule, named in FILE_NAMES.items()
    }
    best = max(found, key=lambda choice: found[choice], default=None)
    if best is None or not found[best]:
        raise DataError(
            f"none of the first {len(rows):,} rows of {path} has an image in "
            f"{' or '.join(str(root) for root in roots)}; give --images=<folder>, whose files are "
            f"called {', or '.join(FILE_NAMES)} (row: from 0)"
        )
    return best


def _is_file(root: Path, name: str) -> bool:
    try:
        return bool(name) and (root / name).is_file()
    except (OSError, ValueError):  # too long, or with a null byte
        return False


def _crc(url: str) -> str:
    return str(zlib.crc32(url.encode("utf-8", "surrogateescape")))


def url_splits(source: Path, *, images: Path | None, name: str) -> Split | None:
    """What `source` (a file or folder) has of the official lists; None if nothing."""
    folder = source if source.is_dir() else source.parent
    if name == "sbu":
        if source.name == SBU_JSON or (source / SBU_JSON).is_file():
            return sbu_json_split(folder / SBU_JSON, images=images, source=name)
        if source.name in SBU_TEXT or (source / SBU_TEXT[0]).is_file():
            return sbu_text_split(folder, images=images, source=name)
        return None
    if source.is_file():
        return tsv_split(source, images=images, source=name) if source.suffix == ".tsv" else None
    found = [source / tsv for tsv in TSV if (source / tsv).is_file()]
    return tsv_split(found[0], images=images, source=name) if found else None
