"""The verify command: reads all of a prepared dataset and compares it with what is published."""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ivt_jax.data import images, records
from ivt_jax.data.builders.faults import described
from ivt_jax.data.builders.ingest import check
from ivt_jax.data.builders.progress import shown_on
from ivt_jax.data.published import PUBLISHED, Counts, Published
from ivt_jax.data.records import RecordSource
from ivt_jax.errors import EXIT_UNUSABLE_DATA, run

_CHUNK = 64  # records that a process examines at once
_NAMED = 5  # records named in a sentence
_LONG = 1000  # characters; published captions are shorter


class Finding(NamedTuple):
    """One thing to know of a dataset.

    weight: "difference": from what a whole, published copy is | "note".
    """

    weight: str
    split: str
    sentence: str


class Examined(NamedTuple):
    """What reading some records of a split gave, in their order; unreadable ones are no rows."""

    split: str
    digests: np.ndarray  # (N,) uint64, of the encoded images
    identities: np.ndarray  # (N,) int64
    captions: np.ndarray  # (N,) int32
    faults: list[tuple[str, str, str]]  # weight, reason, key and detail


def main(argv: list[str]) -> int:
    """Runs `python -m ivt_jax verify ...`; returns 0, 2 (usage) or 5 (--strict, no dataset)."""
    return run(_main, argv)


def verify(
    name: str,
    *,
    directory: str | Path,
    workers: int = 1,
    published: Published | None = None,
) -> dict[str, Any]:
    """Reads every record of `<directory>/<name>` and checks the dataset as a whole.

    Files and their sizes; every image decoded; every caption valid; index equal to the records;
    counts equal to the manifest and to the published ones; identities and images of one split in
    no other; images that are there twice.

    Args:
        name: the dataset.
        directory: folder of all datasets.
        workers: processes that decode; 1 = this one.
        published: what a whole copy has; default the dataset's entry of PUBLISHED, if any.

    Returns:
        {"dataset", "directory", "splits": split -> {"identities", "images", "captions"},
        "published": the same, "differences" and "notes": sentences, "images_per_second"}.

    Raises:
        DataError: the dataset is not there.
    """
    manifest = records.read_manifest(directory, name)
    published = published or PUBLISHED.get(name)
    start = time.monotonic()
    findings = list(_file_findings(Path(directory) / name / records.VERSION, manifest))
    whole = [split for split in manifest["splits"] if split not in {f.split for f in findings}]
    found = _examine(name, directory, whole, workers=workers)
    count = sum(len(examined.digests) for examined in found)
    counts = {examined.split: _counts(examined) for examined in found}
    for examined in found:
        findings += _record_findings(
            examined, records.open_dataset(directory, name, examined.split)
        )
        findings += _manifest_findings(examined.split, counts, manifest)
    findings += _overlaps(found, persons=published is None or published.counting == "exact")
    if published:
        findings += _published_findings(counts, found, published, manifest["left_out"])
    return {
        "dataset": name,
        "directory": str(directory),
        "splits": {split: counted._asdict() for split, counted in counts.items()},
        "published": {s: c._asdict() for s, c in published.splits.items()} if published else {},
        "differences": [_line(f) for f in findings if f.weight == "difference"],
        "notes": [_line(f) for f in findings if f.weight == "note"],
        "images_per_second": count / max(time.monotonic() - start, 1e-9),
    }


def _main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m ivt_jax verify", description=__doc__)
    parser.epilog = "--run=FOLDER instead of a name verifies the checkpoints of a run"
    parser.add_argument("name", help="the dataset, a folder below --directory")
    parser.add_argument("--directory", default="data", help="of all datasets (default: data)")
    parser.add_argument("--workers", type=int, help="processes (default: one a CPU core)")
    parser.add_argument("--strict", action="store_true", help="exit with 5 on any difference")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    arguments = parser.parse_args(argv)
    report = verify(
        arguments.name,
        directory=arguments.directory,
        workers=arguments.workers or os.cpu_count() or 1,
    )
    print(json.dumps(report, indent=1) if arguments.json else _text(report))
    return EXIT_UNUSABLE_DATA if arguments.strict and report["differences"] else 0


def _file_findings(folder: Path, manifest: dict[str, Any]) -> Iterator[Finding]:
    for split, files in manifest["files"].items():
        for path, found, size in records.changed_files(folder, files):
            state = "is missing" if found is None else f"has {found:,} bytes, not {size:,}"
            sentence = f"{path} {state}; the split was not read. Prepare the dataset anew"
            yield Finding("difference", split, sentence)


def _examine(
    name: str, directory: str | Path, splits: list[str], *, workers: int
) -> list[Examined]:
    """Reads all records of the splits, in chunks, with progress on stderr."""
    sizes = {split: len(records.open_dataset(directory, name, split)) for split in splits}
    chunks = [
        (split, range(start, min(start + _CHUNK, size)))
        for split, size in sizes.items()
        for start in range(0, size, _CHUNK)
    ]
    examine = functools.partial(_examine_chunk, str(directory), name)
    parts: dict[str, list[Examined]] = {split: [] for split in splits}
    show = shown_on(sys.stderr, did="read")
    with _mapper(workers) as mapped, show(0, sum(sizes.values())) as advance:
        for (_, numbers), part in zip(chunks, mapped(examine, chunks), strict=True):
            parts[part.split].append(part)
            advance(len(numbers))
    return [_joined(split, parts[split]) for split in splits]


@contextlib.contextmanager
def _mapper(workers: int):
    if workers <= 1:
        yield map
        return
    executor = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    try:
        yield executor.map
    finally:
        executor.shutdown(cancel_futures=True)


@functools.lru_cache(maxsize=4)
def _source(directory: str, name: str, split: str) -> RecordSource:
    return records.open_dataset(directory, name, split)


def _examine_chunk(directory: str, name: str, chunk: tuple[str, range]) -> Examined:
    split, numbers = chunk
    source = _source(directory, name, split)
    rows, faults = [], []
    for number in numbers:
        try:
            record = source[number]
        except Exception as error:  # whatever a damaged shard makes its reader raise
            reason = "invalid-text" if isinstance(error, UnicodeDecodeError) else "unreadable"
            faults.append(("difference", reason, f"record {number}: {error}"))
            continue
        digest = hashlib.blake2b(record["image"], digest_size=8).digest()
        rows.append((int.from_bytes(digest), record["identity"], len(record["captions"])))
        faults += _faults(record)
    digests, identities, captions = zip(*rows, strict=True) if rows else ((), (), ())
    return Examined(
        split,
        np.array(digests, np.uint64),
        np.array(identities, np.int64),
        np.array(captions, np.int32),
        faults,
    )


def _faults(record: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    key = record["key"]
    for _, reason, detail in check(lambda item: item, record).faults:
        yield "difference", reason, f"{key} ({detail})"
    if len({len(record[field]) for field in ("captions", "words", "attributes")}) > 1:
        yield "difference", "misaligned", f"{key} (captions, words and attributes differ in number)"
    warning = images.damaged(record["image"])
    if warning:
        yield "note", "damaged", f"{key} ({warning})"
    for caption in record["captions"]:
        if len(caption) > _LONG:
            yield "note", "long-caption", f"{key} ({len(caption):,} characters)"
        if "\N{REPLACEMENT CHARACTER}" in caption:
            yield "note", "replacement-character", f"{key} ({caption[:60]!r})"


def _joined(split: str, parts: list[Examined]) -> Examined:
    def column(field: int, kind: type) -> np.ndarray:
        return np.concatenate([np.zeros(0, kind), *(part[field] for part in parts)])

    faults = [fault for part in parts for fault in part.faults]
    return Examined(split, column(1, np.uint64), column(2, np.int64), column(3, np.int32), faults)


def _counts(examined: Examined) -> Counts:
    identities = len(np.unique(examined.identities))
    return Counts(identities, len(examined.identities), int(examined.captions.sum()))


def _record_findings(examined: Examined, source: RecordSource) -> Iterator[Finding]:
    """Faults by reason, some of each named, and whether the index tells the truth."""
    reasons = Counter((weight, reason) for weight, reason, _ in examined.faults)
    for (weight, reason), count in reasons.items():
        named = [where for _, other, where in examined.faults if other == reason][:_NAMED]
        more = f" and {count - len(named):,} more" if count > len(named) else ""
        yield Finding(weight, examined.split, f"{count:,} {reason}: {'; '.join(named)}{more}")
    index = (source.identities, source.captions_per_record)
    found = (examined.identities, examined.captions)
    readable = len(examined.identities) == len(source)
    if readable and not all(np.array_equal(*pair) for pair in zip(index, found, strict=True)):
        sentence = "the index beside the shards does not fit the records. Prepare the dataset anew"
        yield Finding("difference", examined.split, sentence)


def _manifest_findings(
    split: str, counts: dict[str, Counts], manifest: dict[str, Any]
) -> Iterator[Finding]:
    written = manifest["splits"][split]
    expected = Counts(written["identities"], written["records"], written["captions"])
    if counts[split] != expected:
        sentence = f"holds {_words(counts[split])}, but prepared.json says {_words(expected)}"
        yield Finding("difference", split, sentence)


def _overlaps(found: list[Examined], *, persons: bool) -> Iterator[Finding]:
    """Identities and images that two splits share, and images that one has twice."""
    for number, one in enumerate(found):
        digests, times = np.unique(one.digests, return_counts=True)
        twice = digests[times > 1]
        if len(twice):
            sentence = f"{len(twice):,} images are there more than once, equal in every byte"
            yield Finding("note", one.split, sentence)
            rows = np.isin(one.digests, twice)
            pairs = np.unique(
                np.stack([one.digests[rows], one.identities[rows].view(np.uint64)]), axis=1
            )
            split_up = pairs.shape[1] - len(twice)
            if persons and split_up:
                sentence = f"{split_up:,} times one image belongs to two identities"
                yield Finding("difference", one.split, sentence)
        for other in found[number + 1 :]:
            both = f"{one.split} and {other.split}"
            shared = len(np.intersect1d(one.identities, other.identities))
            if persons and shared:
                sentence = (
                    f"share {shared:,} identities: scores would be of people seen in training"
                )
                yield Finding("difference", both, sentence)
            shared = len(np.intersect1d(digests, other.digests))
            if shared:
                yield Finding("difference", both, f"share {shared:,} images, equal in every byte")


def _published_findings(
    counts: dict[str, Counts], found: list[Examined], published: Published, left_out: dict[str, int]
) -> Iterator[Finding]:
    for split, expected in published.splits.items():
        if split not in counts:
            yield Finding("difference", split, f"is not there; published are {_words(expected)}")
            continue
        for field, count in expected._asdict().items():
            yield from _count_findings(
                split, field, getattr(counts[split], field), count, published, left_out
            )
    for split in counts.keys() - published.splits.keys():
        yield Finding("difference", split, "is no split of the published dataset")
    for examined in found:
        yield from _shape_findings(examined, published)


def _count_findings(
    split: str,
    field: str,
    count: int,
    expected: int,
    published: Published,
    left_out: dict[str, int],
) -> Iterator[Finding]:
    if count == expected or (
        published.counting == "about" and 0.5 * expected <= count <= 1.2 * expected
    ):
        return
    if published.counting == "about":
        sentence = f"{count:,} {field}, where about {expected:,} are usual"
        yield Finding("difference", split, sentence)
        return
    by = f"{abs(count - expected):,} {'more' if count > expected else 'fewer'}"
    sentence = f"{count:,} {field}, {by} than the published {expected:,}"
    known = [
        other
        for other in published.other_counts
        if (other.split, other.field, other.count) == (split, field, count)
    ]
    if known:
        weight = "note" if known[0].verdict == "same" else "difference"
        yield Finding(weight, split, f"{sentence}: {known[0].meaning}")
    elif left_out and count < expected:
        sentence = f"{sentence}; prepare left out {described(left_out)}"
        yield Finding("difference", split, sentence)
    else:
        cure = "the source is another edition of the dataset, or was cut; compare its JSON file"
        yield Finding("difference", split, f"{sentence}: {cure}")


def _shape_findings(examined: Examined, published: Published) -> Iterator[Finding]:
    least = published.captions_per_image
    fewer, more = (int((op(examined.captions, least)).sum()) for op in (np.less, np.greater))
    if fewer and published.counting == "exact":
        sentence = f"{fewer:,} images have fewer than {least} captions"
        yield Finding("difference", examined.split, sentence)
    if more and published.counting == "exact":
        sentence = f"{more:,} images have more than {least} captions"
        yield Finding("note", examined.split, sentence)
    first = published.first_identity
    if examined.split == "train" and first is not None and len(examined.identities):
        lowest, highest = int(examined.identities.min()), int(examined.identities.max())
        last = first + published.splits["train"].identities - 1
        if (lowest, highest) != (first, last):
            sentence = f"identities run from {lowest} to {highest}, published are {first} to {last}"
            yield Finding("difference", "train", sentence)


def _text(report: dict[str, Any]) -> str:
    lines = [f"{Path(report['directory']) / report['dataset']}:"]
    for split, counted in report["splits"].items():
        published = report["published"].get(split, {})
        cells = [
            f"{count:>9,} {field}" + (f" (published {published[field]:,})" if published else "")
            for field, count in counted.items()
        ]
        lines.append(f"  {split:5} {'  '.join(cells)}")
    for kind in ("differences", "notes"):
        lines.append(f"{kind}: {len(report[kind]) or 'none'}")
        lines += [f"  {sentence}" for sentence in report[kind]]
    lines.append(f"all records read, {report['images_per_second']:,.0f} images/s")
    return "\n".join(lines)


def _line(finding: Finding) -> str:
    return f"{finding.split}: {finding.sentence}"


def _words(counts: Counts) -> str:
    return ", ".join(f"{count:,} {field}" for field, count in counts._asdict().items())
