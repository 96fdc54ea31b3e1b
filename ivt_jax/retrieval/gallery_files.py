"""The files of a gallery: embeddings, the list of photos, and one small file that points to both.

A new state is written beside the old one and becomes the gallery when `gallery.json` is replaced,
so a process may die at any moment and leaves the old state or the new one.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ivt_jax.disk import replace_text, sync
from ivt_jax.errors import EXIT_UNUSABLE_DATA, UserError
from ivt_jax.training.faults import strike

FORMAT = 1  # grows when older code cannot read what this code writes
POINTER = "gallery.json"
SKIPPED = "skipped.jsonl"
_COPIED_ROWS = 65536  # at once, from one memory map to another
_ENDINGS = (".npy", ".npz", ".faiss")


@dataclasses.dataclass(frozen=True)
class Photos:
    """G photos, one a row: `ids` rise and are never given twice, `paths` are relative with "/"."""

    ids: np.ndarray  # (G,) int64
    paths: list[str]
    sizes: np.ndarray  # (G,) int64, bytes
    mtimes: np.ndarray  # (G,) int64, nanoseconds
    hashes: np.ndarray  # (G, 32) uint8, SHA-256 of the file


@dataclasses.dataclass(frozen=True)
class Facts:
    """What `gallery.json` holds."""

    root: str  # folder of the photos
    fingerprint: str  # of the model
    model: str  # what `ivt_jax.load` took; "" = a model that was made in memory
    step: int
    vocabulary: str  # of official weights: the vocab.txt
    width: int  # D
    photos: str  # file names
    embeddings: str
    next_id: int
    generation: int = 1
    format: int = FORMAT
    dtype: str = ""  # of the model, one of dtypes.DTYPES; "" = its own, in older galleries


def read_gallery(folder: Path) -> tuple[Facts, Photos, np.ndarray]:
    """Facts, photos and memory-mapped embeddings (G, D) float32 of a gallery.

    Raises UserError: no gallery there, another format, or files that do not fit together.
    """
    pointer = folder / POINTER
    if not pointer.is_file():
        raise UserError(
            f"{folder} is no gallery: it has no {POINTER}. Make one with "
            f"`python -m ivt_jax index PHOTOS --run=RUN --out={folder}`"
        )
    try:
        facts = _facts(json.loads(pointer.read_text("utf-8")))
        photos = _read_photos(folder / facts.photos)
        embeddings = np.load(folder / facts.embeddings, mmap_mode="r", allow_pickle=False)
        shape, found = (len(photos.paths), facts.width), (embeddings.shape, embeddings.dtype)
        if found != (shape, np.dtype(np.float32)):
            raise ValueError(f"{facts.embeddings} holds {found}, not {shape} float32")
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        if isinstance(error, PermissionError):
            raise
        raise UserError(
            f"the gallery {folder} is damaged: {error}. Remove it and index the photos anew",
            exit_code=EXIT_UNUSABLE_DATA,
        ) from error
    return facts, photos, embeddings


def _facts(read: dict[str, Any]) -> Facts:
    if read.get("format") != FORMAT:
        raise UserError(
            f"the gallery has format {read.get('format')} and this ivt_jax reads format {FORMAT}: "
            "remove the folder and index the photos anew"
        )
    facts = Facts(**read)
    for field in dataclasses.fields(Facts):
        if not isinstance(getattr(facts, field.name), {"str": str, "int": int}[str(field.type)]):
            raise ValueError(f"{POINTER}: {field.name} is {getattr(facts, field.name)!r}")
    for name in (facts.photos, facts.embeddings):
        if Path(name).name != name:
            raise ValueError(f"{POINTER}: {name!r} is no name of a file beside it")
    return facts


def _read_photos(file: Path) -> Photos:
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as read:
        blob, ends = read["paths"].tobytes(), read["ends"].tolist()
        starts = [0, *ends[:-1]]
        paths = [os.fsdecode(blob[a:b]) for a, b in zip(starts, ends, strict=True)]
        photos = Photos(read["ids"], paths, read["sizes"], read["mtimes"], read["hashes"])
    lengths = {len(getattr(photos, field.name)) for field in dataclasses.fields(Photos)}
    if lengths != {len(paths)}:
        raise ValueError(f"{file.name} has columns of different lengths")
    return photos


def _write_photos(file: Path, photos: Photos) -> None:
    names = [os.fsencode(path) for path in photos.paths]
    with file.open("wb") as stream:
        np.savez(
            stream,
            paths=np.frombuffer(b"".join(names), np.uint8),
            ends=np.cumsum([len(name) for name in names], dtype=np.int64),
            **{n: getattr(photos, n) for n in ("ids", "sizes", "mtimes", "hashes")},
        )
    sync(file)


def write_gallery(
    folder: Path,
    facts: Facts,
    photos: Photos,
    *,
    old: np.ndarray,
    new: np.ndarray,
    rows: np.ndarray,
) -> Facts:
    """Writes the next state of a gallery; returns its facts.

    Args:
      folder: of the gallery.
      facts: as they will be, but for file names and generation.
      photos: the new list.
      old: embeddings (G', D) of the state before; kept as they are where nothing moves.
      new: embeddings (n, D) encoded since.
      rows: (G,) int64; row i of the new state is old[rows[i]], or new[rows[i] - G'].
    """
    generation = facts.generation + 1
    photos_name, embeddings_name = f"photos-{generation:06d}.npz", facts.embeddings
    _write_photos(folder / photos_name, photos)
    if not np.array_equal(rows, np.arange(len(old))):
        embeddings_name = f"embeddings-{generation:06d}.npy"
        _write_embeddings(folder / embeddings_name, old, new, rows)
    facts = dataclasses.replace(
        facts, photos=photos_name, embeddings=embeddings_name, generation=generation
    )
    strike("gallery-written", generation)
    replace_text(folder / POINTER, json.dumps(dataclasses.asdict(facts), indent=1) + "\n")
    for file in folder.iterdir():
        kept = {photos_name, embeddings_name, faiss_name(facts)}
        if file.suffix in _ENDINGS and file.name not in kept:
            file.unlink()
    return facts


def faiss_name(facts: Facts) -> str:
    """The file of the FAISS index that belongs to the embeddings."""
    return str(Path(facts.embeddings).with_suffix(".faiss"))


def _write_embeddings(file: Path, old: np.ndarray, new: np.ndarray, rows: np.ndarray) -> None:
    shape = (len(rows), new.shape[1])
    target = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
    for start in range(0, len(rows), _COPIED_ROWS):
        block = rows[start : start + _COPIED_ROWS]
        fresh = block >= len(old)
        part = target[start : start + _COPIED_ROWS]
        part[~fresh] = old[block[~fresh]]
        part[fresh] = new[block[fresh] - len(old)]
    target.flush()
