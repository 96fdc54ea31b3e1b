"""Writes one dataset as TFDS array_record shards: resumable, and readable only when whole."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import naming

from ivt_jax.data import records
from ivt_jax.data.builders import shards, space
from ivt_jax.data.builders.faults import described
from ivt_jax.data.builders.ingest import Split
from ivt_jax.data.builders.progress import Show, silent
from ivt_jax.data.builders.shards import Part, Task
from ivt_jax.data.builders.workers import in_beam, in_processes
from ivt_jax.data.records import DataError
from ivt_jax.data.words import tagger_version
from ivt_jax.disk import alone, sync
from ivt_jax.errors import UserError

BAD_SHARE = 0.01  # share of records with a fault above which a dataset is refused
QUARANTINE = "quarantine.jsonl"


def write_dataset(
    name: str,
    splits: Mapping[str, Split],
    *,
    out: Path,
    workers: int = 1,
    vocabulary: list[str] | None = None,
    about: dict[str, Any] | None = None,
    bad_share: float = BAD_SHARE,
    beam: str | None = None,
    show: Show = silent,
    say: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Writes `<out>/<name>` and returns its manifest.

    Shards grow in the hidden folder `<out>/.<name>.unfinished` and move at the end, so what can
    be opened is whole. Stopped in any way, the same call goes on after the last finished shard,
    and ends with the same bytes as a call that was never stopped; with other items, options or
    versions it starts anew and says so.

    Args:
        name: the dataset.
        splits: what to read; every record is checked, and kept in this order.
        out: folder of all datasets.
        workers: processes that load, check and write; 1 = this one.
        vocabulary: tokens to store as vocab.txt.
        about: more fields of the manifest: where the data came from, and with which options.
        bad_share: share of records with a fault above which the dataset is refused.
        beam: options of an Apache Beam pipeline that runs in place of `workers`; "" = Beam's own.
        show: shows the progress.
        say: tells what a person should know before it starts.

    Raises:
        DataError: too many bad records (they are then listed in
            `<out>/<name>.quarantine.jsonl`), nothing to write, or `<out>/<name>` is taken.
        UserError: the disk is too small (exit code 73), or an argument is wrong.
        OSError: a shard cannot be written.
        BrokenProcessPool: a worker died.
    """
    final, unfinished = out / name, out / f".{name}.unfinished"
    _check(name, splits, final, bad_share)
    with alone(unfinished):
        sizes = {label: space.item_bytes(split) for label, split in splits.items()}
        attempt = unfinished / space.fingerprint(name, splits, sizes=sizes, about=about or {})
        tasks = _begin(name, splits, attempt, sizes=sizes, say=say)
        refused = out / f"{name}.{QUARANTINE}"
        try:
            _write(
                tasks, sizes, workers=workers, bad_share=bad_share, beam=beam, show=show, say=say
            )
        except DataError as error:
            _write_quarantine(refused, tasks)
            shutil.rmtree(unfinished)
            raise DataError(f"dataset {name} was not written: {error}. See {refused}") from error
        if vocabulary is not None:
            text = "\n".join(vocabulary) + "\n"
            (attempt / name / records.VOCABULARY).write_text(text, "utf-8")
        manifest = _finish(name, attempt / name, tasks, about or {})
        refused.unlink(missing_ok=True)
        (attempt / name).rename(final)
        shutil.rmtree(unfinished)
    return manifest


def _check(name: str, splits: Mapping[str, Split], final: Path, bad_share: float):
    if final.exists():
        raise DataError(f"{final} exists and is not a finished dataset; move it away")
    if not any(len(split.items) for split in splits.values()):
        raise DataError(f"dataset {name} has no records; check --source")
    if not 0 <= bad_share <= 1:
        raise UserError(f"the bad share is {bad_share}; it must be from 0 to 1")


def _begin(
    name: str,
    splits: Mapping[str, Split],
    attempt: Path,
    *,
    sizes: Mapping[str, float],
    say: Callable[[str], object],
) -> list[Task]:
    """The shards to write, and the folder that keeps them between attempts."""
    others = [path for path in attempt.parent.iterdir() if path.is_dir() and path != attempt]
    for path in others:
        shutil.rmtree(path)
    if others:
        say(f"The unfinished {name} is of other data, options or versions: removed, starting anew")
    (attempt / name / records.VERSION).mkdir(parents=True, exist_ok=True)
    (attempt / shards.NOTES).mkdir(exist_ok=True)
    shards.remove_temporary(attempt)
    return [
        task
        for label, split in splits.items()
        for task in shards.tasks(
            attempt,
            name,
            label,
            split,
            items=shards.items_per_shard(len(split.items), sizes[label]),
        )
    ]


def _write(
    tasks: Sequence[Task],
    sizes: Mapping[str, float],
    *,
    workers: int,
    bad_share: float,
    beam: str | None,
    show: Show,
    say: Callable[[str], object],
):
    """Writes the shards that are missing; DataError as soon as too many records are bad."""
    before = [shards.finished(task) for task in tasks]
    missing = [task for task, part in zip(tasks, before, strict=True) if part is None]
    total = sum(len(task.split.items) for task in tasks)
    done = total - sum(len(task.split.items) for task in missing)
    if done:
        say(f"Going on: {done:,} of {total:,} records are in finished shards already")
    bad = sum(part.bad for part in before if part)
    _refuse(bad, total, bad_share, tasks)
    needed = sum(sizes[task.label] * len(task.split.items) for task in missing)
    space.require(tasks[0].attempt.parents[1], needed, shards=len(missing))
    parts = _run(missing, workers, beam)
    try:
        with contextlib.closing(parts), show(done, total) as advance:
            for part in parts:
                advance(part.items)
                bad += part.bad
                _refuse(bad, total, bad_share, tasks)
    finally:
        shards.remove_temporary(tasks[0].attempt)  # of workers that were stopped


def _run(tasks: Sequence[Task], workers: int, beam: str | None) -> Generator[Part, None, None]:
    if beam is not None:
        return in_beam(tasks, options=shlex.split(beam))
    return in_processes(tasks, workers=workers)


def _refuse(bad: int, total: int, bad_share: float, tasks: Sequence[Task]):
    if bad > bad_share * total:
        reasons = Counter(row["reason"] for row in _faults(tasks))
        raise DataError(
            f"{bad:,} of {total:,} records are bad, more than {100 * bad_share:.3g}%: "
            f"{described(reasons)}"
        )


def _faults(tasks: Sequence[Task]) -> Iterator[dict[str, str]]:
    for task in tasks:
        for key, reason, detail in (shards.read_note(task) or {"faults": []})["faults"]:
            yield {"split": task.label, "key": key, "reason": reason, "detail": detail}


def _write_quarantine(path: Path, tasks: Sequence[Task]) -> Counter[str]:
    reasons: Counter[str] = Counter()
    with path.open("w", encoding="utf-8") as file:
        for row in _faults(tasks):
            reasons[row["reason"]] += 1
            file.write(json.dumps(row) + "\n")
    return reasons


def _finish(
    name: str, folder: Path, tasks: Sequence[Task], about: dict[str, Any]
) -> dict[str, Any]:
    """Writes beside the shards what the notes say of the whole, for TFDS and for us."""
    left_out = _write_quarantine(folder / QUARANTINE, tasks)
    found = {
        label: _write_index([task for task in tasks if task.label == label])
        for label in dict.fromkeys(task.label for task in tasks)
    }
    _write_tfds_info([split for split, _ in found.values()], tasks[0].path.parent)
    manifest = {
        "name": name,
        **about,
        "tagger": tagger_version(),
        "splits": {label: facts["counts"] for label, (_, facts) in found.items()},
        "left_out": dict(left_out),
        "files": {label: facts["files"] for label, (_, facts) in found.items()},
        "sha256": {label: facts["sha256"] for label, (_, facts) in found.items()},
    }
    (folder / records.MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    for path in (*folder.rglob("*"), folder):
        sync(path)
    return manifest


def _write_index(tasks: Sequence[Task]) -> tuple[tfds.core.SplitInfo, dict[str, Any]]:
    """Stores what is known of a split without images; returns what TFDS and the manifest tell."""
    captions, identities, lengths, size, files, sums = [], [], [], 0, {}, {}
    for task in tasks:
        note = shards.read_note(task)
        assert note, f"{task.path} was finished and is gone"
        captions.append(np.array(note["captions_per_record"], np.int32))
        identities.append(np.array(note["identities"], np.int64))
        lengths.append(note["records"])
        size += note["bytes"]
        files[task.path.name], sums[task.path.name] = note["size"], note["sha256"]
    folder, label = tasks[0].path.parent, tasks[0].label
    counts, people = np.concatenate(captions), np.concatenate(identities)
    np.savez(records.index_path(folder, label), captions_per_record=counts, identities=people)
    template = naming.ShardedFileTemplate(
        data_dir=folder,
        dataset_name=tasks[0].dataset,
        split=label,
        filetype_suffix="array_record",
    )
    split = tfds.core.SplitInfo(
        name=label, shard_lengths=lengths, num_bytes=size, filename_template=template
    )
    totals = {
        "records": len(counts),
        "captions": int(counts.sum()),
        "identities": len(np.unique(people)),
    }
    return split, {"counts": totals, "files": files, "sha256": sums}


def _write_tfds_info(splits: Sequence[tfds.core.SplitInfo], folder: Path):
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=shards.features(),
        split_infos=list(splits),
        version=records.VERSION,
        description="Images with captions and identities.",
        check_data=False,  # the check wants TensorFlow
    )
