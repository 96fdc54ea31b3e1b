"""The data of a run, opened: entries to train on, splits to evaluate on, one tokenizer."""

import dataclasses
import json
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from ivt_jax.data.feed import Feed, hanging_sample
from ivt_jax.data.images import ImageError, decode
from ivt_jax.data.pipeline import (
    TrainingEntries,
    ViewOptions,
    epochs_seen,
    read_record,
    sample_places,
    training_batches,
    training_samples,
)
from ivt_jax.data.records import DataError, RecordSource, open_dataset, vocabulary_path
from ivt_jax.data.texts import Tokenizer, load_tokenizer
from ivt_jax.errors import UserError
from ivt_jax.training.cluster import exchange, to_first

_RECENT, _BAD_SHARE = 10_000, 0.01  # samples looked back on, and how many of them may be bad
_PATIENCE = 10.0  # seconds until a sample that is read again counts as hanging
_VIEW_FIELDS = ("text_length", "word_length", "phrase_length", "separator", "word_level")
_VIEW_FIELDS += ("phrase_level", "image_views", "decode", "resize", "pad", "flip")


@dataclasses.dataclass(frozen=True)
class Data:
    """What `open_data` found; `evaluation` maps split names to their records."""

    datasets: list[TrainingEntries]
    weights: list[float]
    tokenizer: Tokenizer
    options: ViewOptions
    evaluation: dict[str, RecordSource]
    names: list[str]
    recent: deque[tuple[int, int]] = dataclasses.field(default_factory=deque)  # samples, bad ones
    cut: Counter[str] = dataclasses.field(default_factory=Counter)  # texts by the field that cut

    def batches(self, config: ConfigDict, *, start: int, say: Callable[[str], None]) -> Feed:
        """This process's share of the training batches from number `start` on."""
        process, processes = jax.process_index(), jax.process_count()
        common = {"tokenizer": self.tokenizer, "options": self.options, "seed": config.seed}
        size = config.training.batch_size // processes

        def make(number: int):
            return training_batches(
                self.datasets,
                self.weights,
                **common,
                batch_size=config.training.batch_size,
                start_step=number,
                process=process,
                processes=processes,
                workers=config.data.workers,
                threads=config.data.threads,
                prefetch=config.data.prefetch,
                cache_gib=config.data.cache_gib,
            )

        def suspect(number: int) -> str:
            samples = training_samples(self.datasets, self.weights, **common)
            first = (number * processes + process) * size
            return hanging_sample(
                samples.__getitem__,
                lambda sample: "{dataset}, {key}".format(**self.origin(sample)),
                range(first, first + size),
                patience=min(config.data.worker_deadline, _PATIENCE),
            )

        deadline = config.data.worker_deadline if config.data.workers else None
        return Feed(make, start, deadline=deadline, suspect=suspect, say=say)

    def origin(self, sample: int) -> dict[str, str]:
        """Dataset and key of a sample of the stream of batches, counted from 0."""
        number, place = sample_places(self.datasets, self.weights)[sample]
        entries = self.datasets[number]
        record = int(entries.entries[entries.order[place]][0])
        try:
            key = read_record(entries.source, record)["key"]
        except (ImageError, OSError, RuntimeError):  # damaged or away; no reason to end a run
            key = f"record {record}"
        return {"dataset": self.names[number], "key": key}

    def report(self, batch: dict[str, np.ndarray], file: Path, say: Callable[[str], None]) -> None:
        """Takes the counts out of a batch; bad records are listed in `file` and said aloud.

        Process 0 does so for all; what others find may wait for its next call.
        """
        found = []
        substituted = batch.pop("substituted")
        for number, index in substituted[substituted[:, 0] > 0]:
            line = {"dataset": self.names[number - 1]}
            try:
                record = read_record(self.datasets[number - 1].source, int(index))
                line["key"] = record["key"]
                decode(record["image"], key=record["key"])
            except ImageError as error:
                line |= {"key": error.key, "reason": error.reason, "detail": error.detail}
            found.append(json.dumps(line))
        self.list_bad(found, file, say)
        self._count_bad(len(substituted), len(found), file)
        cut = batch.pop("truncated").sum(axis=0)  # (V,)
        for view, count in zip(self.options.views, cut.tolist(), strict=True):
            own = f"{view}_length"
            self.cut[f"data.{own if getattr(self.options, own, 0) else 'text_length'}"] += count

    def cut_texts(self) -> list[str]:
        """A sentence for each field that cut texts, of all processes; all have to ask, once."""
        told = exchange("cut texts", json.dumps(self.cut))
        cut = sum((Counter(json.loads(counts)) for counts in told), Counter())
        return [
            f"{count} texts were longer than {field} and were cut" for field, count in cut.items()
        ]

    def list_bad(self, found: list[str], file: Path, say: Callable[[str], None]) -> None:
        """On process 0 lists the bad records that it found, and that others sent since."""
        for line in to_first("substituted", found):
            if file.exists() and line in file.read_text():
                continue
            try:
                with file.open("a") as lines:
                    lines.write(line + "\n")
                listed = f"listed in {file}"
            except OSError as error:  # a report is no reason to end a run
                listed = f"not listed, as {file.name} cannot be written: {error.strerror}"
            say(f"unreadable image replaced by the next entry: {line} ({listed})")

    def _count_bad(self, samples: int, bad: int, file: Path) -> None:
        self.recent.append((samples, bad))
        while sum(count for count, _ in self.recent) - self.recent[0][0] >= _RECENT:
            self.recent.popleft()
        bad = sum(count for _, count in self.recent)
        if bad > _BAD_SHARE * _RECENT:
            raise DataError(
                f"{bad} of the last {_RECENT:,} samples were bad records, more than "
                f"{_BAD_SHARE:.0%}; {file} lists them with their reasons.\nPrepare the dataset "
                "anew, or look for a storage that fails."
            )

    @property
    def epoch_entries(self) -> int:
        """Samples in a pass over all training entries."""
        return sum(len(entries.order) for entries in self.datasets)

    def epochs(self, samples: int) -> dict[str, float]:
        """Passes over each dataset after so many samples: "epochs_<name>" -> count."""
        seen = epochs_seen(self.datasets, self.weights, samples=samples)
        return {f"epochs_{name}": count for name, count in zip(self.names, seen, strict=True)}

    @property
    def description(self) -> str:
        """One line for the head of a log."""
        parts = [
            f"{name} ({len(entries.source):,} images, {len(entries.order):,} entries)"
            for name, entries in zip(self.names, self.datasets, strict=True)
        ]
        return " + ".join(parts)


def open_data(config: ConfigDict, *, views: tuple[str, ...]) -> Data:
    """Opens the training mixture and the evaluation splits of a configuration.

    Raises UserError for a vocabulary larger than the word table or a missing dataset or split.
    """
    names = list(config.data.mixture)
    entries, offset = [], 0
    for number, name in enumerate(names):
        source = open_dataset(config.data.directory, name, "train")
        entries.append(
            TrainingEntries(
                source,
                kind=config.data.entries,
                sampler=config.data.sampler,
                group=config.data.captions_per_identity,
                seed=config.seed + number,
                number=number,
                identity_offset=offset,
            )
        )
        offset += int(source.identities.max()) + 1
    vocabulary = config.data.vocabulary or vocabulary_path(config.data.directory, names[0])
    tokenizer = load_tokenizer(vocabulary)
    if tokenizer.size > config.model.vocabulary_size:
        raise UserError(
            f"the vocabulary {vocabulary} has {tokenizer.size} tokens, more than "
            f"model.vocabulary_size={config.model.vocabulary_size}"
        )
    options = ViewOptions(
        views=views,
        image_size=tuple(config.model.image_size),
        **{field: config.data[field] for field in _VIEW_FIELDS},
    )
    weights = [float(config.data.mixture[name]) for name in names]
    return Data(entries, weights, tokenizer, options, _evaluation_splits(config), names)


def _evaluation_splits(config: ConfigDict) -> dict[str, RecordSource]:
    name = config.evaluation.dataset
    if not name:
        return {}
    wanted = dict.fromkeys(filter(None, (config.evaluation.select, config.evaluation.report)))
    return {split: open_dataset(config.data.directory, name, split) for split in wanted}
