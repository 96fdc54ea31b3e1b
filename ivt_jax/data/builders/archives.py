"""Reads what img2dataset writes: tars (webdataset), folders of files, or parquet with the images.

Tars are indexed once and never unpacked: a record is read from its place in the tar.
"""

from __future__ import annotations

import functools
import json
import tarfile
from array import array
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ivt_jax.data.builders.faults import Fault, RecordError
from ivt_jax.data.builders.ingest import Split
from ivt_jax.data.builders.rows import Rows, new_record, read_file, rows_split, text_of
from ivt_jax.data.records import DataError

IMAGES = ("jpg", "jpeg", "png", "webp")
_PARTS = {**dict.fromkeys(IMAGES, 0), "txt": 1, "json": 2}  # suffix -> place in a row
_LARGEST = 1 << 40  # bytes of a member; more is a damaged header
_CAPTIONS = ("txt", "caption")  # columns of a parquet file


def tar_split(tars: Sequence[Path], *, source: str) -> Split:
    """The records of webdataset tars: key.jpg (or png, webp) with key.txt or key.json.

    Members that tarfile's "data" filter would refuse, links, and what has no image are faults.
    """
    numbers, places, keys, faults = array("q"), array("q"), [], []
    for number, tar in enumerate(tars):
        samples = _samples(tar, faults)
        for key, parts in samples.items():
            if parts[0] < 0:
                faults.append(Fault(f"{tar.name}/{key}", "missing-image", "it has no image"))
                continue
            numbers.append(number)
            places.extend(parts)
            keys.append(key)
    spans = np.frombuffer(places, np.int64).reshape(-1, 6)
    rows = Rows((np.frombuffer(numbers, np.int64), keys, *spans.T), faults)
    return rows_split(rows, _load_tar, [str(tar) for tar in tars], source)


def _samples(tar: Path, faults: list[Fault]) -> dict[str, list[int]]:
    """Key -> offset and size of its image, text and JSON; -1 where there is none."""
    samples: dict[str, list[int]] = {}
    try:
        with tar.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                fault = _member_fault(member)
                if fault:
                    faults.append(Fault(f"{tar.name}/{member.name}", "unsafe-member", fault))
                elif not member.isdir():
                    _add(samples, member, tar, faults)
            # tarfile takes a damaged header, and the end of a cut file, for the tar's end.
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"no header and no end at byte {archive.offset:,}")
    # tarfile raises a dozen unrelated types on hostile headers.
    except Exception as error:
        faults.append(Fault(tar.name, "damaged-tar", f"{error}; what precedes it is read"))
    return samples


def _member_fault(member: tarfile.TarInfo) -> str:
    name = member.name
    if name.startswith(("/", "\\")) or PurePosixPath(name).is_absolute():
        return "its path is absolute"
    depth = 0
    for part in PurePosixPath(name).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return "its path leaves the tar"
    if member.isdir():
        return ""
    if not 0 <= member.size < _LARGEST:
        return f"its size is said to be {member.size} bytes"
    if member.issym() or member.islnk():
        return "it is a link"
    return "" if member.isreg() and not member.issparse() else "it is no ordinary file"


def _add(
    samples: dict[str, list[int]], member: tarfile.TarInfo, tar: Path, faults: list[Fault]
) -> None:
    folder, _, name = member.name.removeprefix("./").rpartition("/")
    stem, _, suffix = name.partition(".")
    part = _PARTS.get(suffix.lower())
    if part is None or not stem:
        return
    key = f"{folder}/{stem}" if folder else stem
    places = samples.setdefault(key, [-1] * 6)
    if places[2 * part] >= 0:
        detail = "the tar has it twice; the first is read"
        faults.append(Fault(f"{tar.name}/{member.name}", "duplicate-member", detail))
        return
    places[2 * part : 2 * part + 2] = member.offset_data, member.size


def _load_tar(
    tars: list[str], source: str, number: int, tar: int, key: str, *places: int
) -> dict[str, Any]:
    path = Path(tars[tar])
    where = f"{path.name}/{key}"
    image, text, about = (
        read_file(path, where, offset=offset, size=size) if offset >= 0 else None
        for offset, size in zip(places[::2], places[1::2], strict=True)
    )
    captions = _captions(text, about, where)
    return new_record(image or b"", captions, identity=number, source=source, key=where)


def _captions(text: bytes | None, about: bytes | None, key: str) -> list[Any]:
    """The caption of a .txt, or else of a .json; [] if neither has one."""
    if text is not None:
        return [text_of(text)]
    if about is None:
        return []
    try:
        content = json.loads(about)
    except (ValueError, RecursionError) as error:
        raise RecordError(key, "bad-json", str(error)) from error
    caption = content.get("caption") if isinstance(content, dict) else None
    return [] if caption is None else [caption]


def has_file_shards(folder: Path) -> bool:
    """Whether a folder holds the numbered folders of img2dataset's `files` form."""
    return any(shard.is_dir() and shard.name.isdigit() for shard in folder.iterdir())


def file_split(folder: Path, *, source: str) -> Split:
    """The records of folders NNNNN/ with key.jpg (or png, webp) and key.txt or key.json."""
    shards = sorted(s for s in folder.iterdir() if s.is_dir() and s.name.isdigit())
    keys, faults = [], []
    for shard in shards:
        names = sorted(path.name for path in shard.iterdir())
        found = [name for name in names if _suffix(name) in IMAGES]
        keys += [f"{shard.name}/{name}" for name in found]
        stems = {Path(name).stem for name in found}
        faults += [
            Fault(f"{shard.name}/{name}", "missing-image", "its caption has no image")
            for name in names
            if _suffix(name) == "txt" and Path(name).stem not in stems
        ]
    return rows_split(Rows((keys,), faults), _load_files, folder, source)


def _suffix(name: str) -> str:
    return Path(name).suffix[1:].lower()


def _load_files(folder: Path, source: str, number: int, key: str) -> dict[str, Any]:
    image = read_file(folder / key, key)
    text, about = (_optional((folder / key).with_suffix(end), key) for end in (".txt", ".json"))
    captions = _captions(text, about, key)
    return new_record(image, captions, identity=number, source=source, key=key)


def _optional(path: Path, key: str) -> bytes | None:
    return read_file(path, key) if path.exists() else None


def parquet_files_with_images(folder: Path) -> list[Path]:
    """The parquet files of a folder if the first of them has a column of images, else []."""
    files = sorted(folder.glob("*.parquet"))
    return files if files and _image_column(_parquet(files[0]).schema_arrow.names) else []


def parquet_split(files: Sequence[Path], *, source: str) -> tuple[Split, int]:
    """The records of parquet files with a column jpg, png or webp, and txt or caption.

    Returns:
        The split, and how many rows were left out because img2dataset never got their image.
    """
    places, faults, failed = array("q"), [], 0
    for number, path in enumerate(files):
        try:
            file = _parquet(path)
            if not _image_column(file.schema_arrow.names):
                raise DataError("it has no column of images")
            for group in range(file.num_row_groups):
                kept = _downloaded(file, group)
                failed += len(kept) - sum(kept)
                for row, keep in enumerate(kept):
                    if keep:
                        places.extend((number, group, row))
        except Exception as error:  # as many types as pyarrow has
            faults.append(Fault(path.name, "damaged-parquet", str(error)))
    columns = np.frombuffer(places, np.int64).reshape(-1, 3).T
    rows = Rows(tuple(columns), faults)
    return rows_split(rows, _load_parquet, [str(path) for path in files], source), failed


def _downloaded(file: Any, group: int) -> list[bool]:
    if "status" not in file.schema_arrow.names:
        return [True] * file.metadata.row_group(group).num_rows
    statuses = file.read_row_group(group, columns=["status"]).column("status").to_pylist()
    return [status == "success" for status in statuses]


def _load_parquet(
    files: list[str], source: str, number: int, file: int, group: int, row: int
) -> dict[str, Any]:
    path = Path(files[file])
    key = f"{path.name}, group {group}, row {row}"
    try:
        table = _row_group(path, group)
        values = {name: table.column(name)[row].as_py() for name in table.column_names}
    except Exception as error:  # as many types as pyarrow has
        raise RecordError(key, "damaged-parquet", str(error)) from error
    if values.get("key") is not None:
        key = f"{path.name}/{values['key']}"
    image = values.get(_image_column(list(values)))
    if not isinstance(image, bytes):
        raise RecordError(key, "missing-image", "its image is null or no bytes")
    caption = next((values[name] for name in _CAPTIONS if values.get(name) is not None), None)
    captions = [] if caption is None else [caption]
    return new_record(image, captions, identity=number, source=source, key=key)


# Consecutive records share a row group, which can only be read whole.
@functools.lru_cache(maxsize=1)
def _row_group(path: Path, group: int) -> Any:
    file = _parquet(path)
    names = file.schema_arrow.names
    wanted = [name for name in (_image_column(names), "key", *_CAPTIONS) if name in names]
    return file.read_row_group(group, columns=wanted)


def _image_column(names: Sequence[str]) -> str:
    return next((name for name in IMAGES if name in names), "")


def _parquet(path: Path) -> Any:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise DataError(
            f"reading {path} needs pyarrow: python -m pip install '.[parquet]' (in the checkout)"
        ) from error
    try:
        return parquet.ParquetFile(path)
    except (ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is not a parquet file: {error}") from error
