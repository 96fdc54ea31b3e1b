"""Turns a folder of photos into a gallery: finds what changed, encodes that, keeps the rest.

scan -> known by size and time, or by hash -> decode in threads -> encode in batches of one shape
-> journal -> the next state of the gallery. The journal outlives a killed process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ivt_jax.data.builders.faults import described
from ivt_jax.data.builders.progress import Show, silent
from ivt_jax.data.images import ImageError, decode, evaluation_image
from ivt_jax.data.threads import in_threads
from ivt_jax.disk import alone, replace_text
from ivt_jax.errors import EXIT_UNUSABLE_DATA, UserError
from ivt_jax.inference import Retriever
from ivt_jax.retrieval.encoding import encode_images
from ivt_jax.retrieval.fingerprint import fingerprint
from ivt_jax.retrieval.gallery_files import (
    POINTER,
    SKIPPED,
    Facts,
    Photos,
    read_gallery,
    write_gallery,
)
from ivt_jax.retrieval.journal import Journal
from ivt_jax.retrieval.photos import File, Skipped, read, scan
from ivt_jax.training.faults import strike

_UNFINISHED = "unfinished"
_LOOKAHEAD = 2  # batches decoded before they are encoded
_LASTING = ("empty", "not-an-image", "format", "too-large", "too-small", "truncated", "broken")


@dataclasses.dataclass(frozen=True)
class Report:
    """What a run of the index did; counts of photos."""

    photos: int  # in the gallery now
    encoded: int
    resumed: int  # encoded by a run that was interrupted
    kept: int  # known before by size and time, or by content
    removed: int
    skipped: dict[str, int]  # files that are not in the gallery, by reason
    seconds: float


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A photo of the next state; `row` as in `write_gallery`."""

    file: File
    sha256: bytes
    row: int


def build_gallery(
    model: Retriever, folder: Path, out: Path, *, threads: int = 0, show: Show = silent
) -> Report:
    """Makes or renews the gallery `out` of the photos below `folder`.

    Args:
      model: encodes the photos; a gallery belongs to one model.
      folder: searched with all folders in it; see `photos.scan`.
      out: the gallery; made if it is not there. May lie in `folder`.
      threads: that read and decode; 0 = one for each CPU core.
      show: is told of the progress.

    Raises:
      UserError: `folder` is none, has no usable photo, or is not the gallery's; the gallery was
        made with another model or is being written by another process; the embeddings are not
        finite.
    """
    began = time.monotonic()
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; name the folder of your photos")
    with alone(out):
        old = _old_state(out, model, folder.resolve())
        mark, width = old.facts.fingerprint, old.facts.width
        with Journal(out / _UNFINISHED, fingerprint=mark, width=width) as journal:
            resumed = len(journal)
            entries, skipped = _entries(model, old, out, journal, threads, show)
            _write_skipped(out / SKIPPED, skipped)
            if not entries:
                raise UserError(
                    f"no usable photo in {folder}: {_counted(skipped)}",
                    exit_code=EXIT_UNUSABLE_DATA,
                )
            photos = _commit(out, old, entries, journal)
            encoded = len(journal) - resumed
        shutil.rmtree(out / _UNFINISHED)
    first = len(old.photos.paths)
    resumed = sum(first <= entry.row < first + resumed for entry in entries)
    return Report(
        photos=len(entries),
        encoded=encoded,
        resumed=resumed,
        kept=len(entries) - encoded - resumed,
        removed=len(set(old.photos.paths).difference(photos.paths)),
        skipped=dict(Counter(one.reason for one in skipped)),
        seconds=time.monotonic() - began,
    )


@dataclasses.dataclass(frozen=True)
class _State:
    """A gallery as it is, nothing in it at first; `moved`: the files say another place."""

    facts: Facts
    photos: Photos
    embeddings: np.ndarray
    moved: bool = False


def _old_state(out: Path, model: Retriever, root: Path) -> _State:
    mark, width = fingerprint(model), model.config.model.width
    if not (out / POINTER).exists():
        official = Path(model.path).is_file()
        vocabulary = str(model.tokenizer.path.resolve()) if official else ""
        made = (str(root), mark, model.path, model.step, vocabulary, width)
        facts = Facts(*made, "", "", 0, 0, dtype=model.dtype)
        none, hashes = np.zeros(0, np.int64), np.zeros((0, 32), np.uint8)
        return _State(facts, Photos(none, [], none, none, hashes), np.zeros((0, width), np.float32))
    facts, photos, embeddings = read_gallery(out)
    if facts.dtype not in ("", model.dtype):
        raise UserError(
            f"the gallery {out} was made in {facts.dtype}, and this model encodes in "
            f"{model.dtype}. Add --dtype={facts.dtype}, or name another --out"
        )
    if facts.fingerprint != mark:
        raise UserError(
            f"the gallery {out} was made with another model ({facts.model or 'in memory'}, step "
            f"{facts.step}), and embeddings of two models cannot be compared. Name another --out, "
            "or remove that folder"
        )
    if facts.root != str(root) and Path(facts.root).is_dir():
        raise UserError(
            f"the gallery {out} is that of {facts.root}, not of {root}. Name another --out, or "
            "remove that folder"
        )
    now = dataclasses.replace(facts, root=str(root))
    if model.path:
        now = dataclasses.replace(now, model=model.path, step=model.step, dtype=model.dtype)
    return _State(now, photos, embeddings, moved=now != facts)


def _entries(
    model: Retriever, old: _State, out: Path, journal: Journal, threads: int, show: Show
) -> tuple[list[_Entry], list[Skipped]]:
    """Every photo of the next state, and the files that are not in it."""
    photos, skipped_before = old.photos, _read_skipped(out / SKIPPED)
    files = map(File, photos.paths, photos.sizes.tolist(), photos.mtimes.tolist())
    hashes = [row.tobytes() for row in photos.hashes]
    known = {file: (len(hashes) + i, sha256) for i, (file, sha256) in enumerate(journal.files)}
    # What is in the gallery already stays as it is, also if the journal was not removed in time.
    known |= dict(zip(files, enumerate(hashes), strict=True))
    entries, skipped, todo = [], [], []
    for found in scan(Path(old.facts.root), avoid=out):
        if isinstance(found, Skipped):
            skipped.append(found)
        elif found in known:
            row, sha256 = known[found]
            entries.append(_Entry(found, sha256, row))
        elif found in skipped_before:
            skipped.append(skipped_before[found])
        else:
            todo.append(found)
    by_hash = {sha256: row for row, sha256 in known.values()}
    done = len(entries)
    with show(done, done + len(todo)) as advance:
        reader = _Reader(Path(old.facts.root), tuple(model.config.model.image_size), by_hash)
        for result in _encoded(model, reader, todo, journal, len(hashes), threads):
            (skipped if isinstance(result, Skipped) else entries).append(result)
            advance(1)
    return entries, sorted(skipped)


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads one file; a photo whose content is known is not decoded."""

    root: Path
    image_size: tuple[int, int]
    by_hash: dict[bytes, int]

    def __call__(self, file: File) -> _Entry | Skipped | tuple[bytes, np.ndarray]:
        try:
            data = read(self.root, file.path)
            sha256 = hashlib.sha256(data).digest()
            if sha256 in self.by_hash:
                return _Entry(file, sha256, self.by_hash[sha256])
            return sha256, evaluation_image(decode(data, key=file.path), self.image_size)
        except ImageError as error:
            return Skipped(file.path, error.reason, error.detail, file.size, file.mtime)


def _encoded(
    model: Retriever, reader: _Reader, todo: list[File], journal: Journal, first: int, threads: int
) -> Iterator[_Entry | Skipped]:
    """Reads files in threads and encodes them in batches, which go to the journal one by one."""
    batch: list[tuple[File, bytes]] = []
    images: list[np.ndarray] = []

    def flush() -> Iterator[_Entry]:
        size = model.batch_size
        embeddings = encode_images(model.encoders, model.params, iter(images), batch_size=size)
        row = first + len(journal)
        journal.append(batch, embeddings)
        strike("gallery-batch", len(journal) // size)
        yield from (_Entry(file, sha256, row + i) for i, (file, sha256) in enumerate(batch))
        batch.clear()
        images.clear()

    threads, ahead = threads or os.cpu_count() or 1, _LOOKAHEAD * model.batch_size
    for file, result in in_threads(reader, todo, threads=threads, ahead=ahead):
        if isinstance(result, _Entry | Skipped):
            yield result
            continue
        sha256, image = result
        batch.append((file, sha256))
        images.append(image)
        if len(batch) == model.batch_size:
            yield from flush()
    if batch:
        yield from flush()


def _commit(out: Path, old: _State, entries: list[_Entry], journal: Journal) -> Photos:
    """Writes the next state unless nothing changed; returns its photos."""
    entries = sorted(entries, key=lambda entry: entry.file.path)
    next_id, numbered = old.facts.next_id, []
    for entry in entries:
        kept = entry.row < len(old.photos.paths) and old.photos.paths[entry.row] == entry.file.path
        number = int(old.photos.ids[entry.row]) if kept else next_id
        next_id += not kept
        numbered.append((number, entry))
    numbered.sort(key=lambda pair: pair[0])
    ordered = [entry for _, entry in numbered]
    photos = Photos(
        ids=np.array([number for number, _ in numbered], np.int64),
        paths=[entry.file.path for entry in ordered],
        sizes=np.array([entry.file.size for entry in ordered], np.int64),
        mtimes=np.array([entry.file.mtime for entry in ordered], np.int64),
        hashes=np.frombuffer(b"".join(entry.sha256 for entry in ordered), np.uint8).reshape(-1, 32),
    )
    rows = np.array([entry.row for entry in ordered], np.int64)
    facts = dataclasses.replace(old.facts, next_id=next_id)
    if old.moved or not _same(photos, old.photos):
        write_gallery(out, facts, photos, old=old.embeddings, new=journal.embeddings(), rows=rows)
    return photos


def _same(one: Photos, other: Photos) -> bool:
    names = [field.name for field in dataclasses.fields(Photos)]
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def _read_skipped(file: Path) -> dict[File, Skipped]:
    """What could not be decoded, by the file as it was; anything else is looked at again."""
    found = {}
    with contextlib.suppress(OSError, ValueError, TypeError):
        for line in file.read_text("utf-8").splitlines():
            one = Skipped(**json.loads(line))
            if one.reason in _LASTING:
                found[File(one.path, one.size, one.mtime)] = one
    return found


def _write_skipped(file: Path, skipped: list[Skipped]) -> None:
    replace_text(file, "".join(json.dumps(one._asdict()) + "\n" for one in skipped))


def _counted(skipped: list[Skipped]) -> str:
    return described(Counter(one.reason for one in skipped))
