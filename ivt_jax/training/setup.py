"""The data of a run, opened: entries to train on, splits to evaluate on, one tokenizer."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from ivt_jax.data.images import ImageError, decode
from ivt_jax.data.pipeline import TrainingEntries, ViewOptions, epochs_seen, training_batches
from ivt_jax.data.records import RecordSource, open_dataset, vocabulary_path
from ivt_jax.data.texts import Tokenizer, load_tokenizer
from ivt_jax.errors import UserError
from ivt_jax.training.cluster import to_first

_VIEW_FIELDS = ("text_length", "separator", "decode", "resize", "pad", "flip", "word_level")


@dataclasses.dataclass(frozen=True)
class Data:
    """What `open_data` found; `evaluation` maps split names to their records."""

    datasets: list[TrainingEntries]
    weights: list[float]
    tokenizer: Tokenizer
    options: ViewOptions
    evaluation: dict[str, RecordSource]
    names: list[str]

    def batches(self, config: ConfigDict, *, start_step: int):
        """This process's share of the training batches from a step on; see `training_batches`."""
        return training_batches(
            self.datasets,
            self.weights,
            tokenizer=self.tokenizer,
            options=self.options,
            batch_size=config.training.batch_size,
            seed=config.seed,
            start_step=start_step,
            process=jax.process_index(),
            processes=jax.process_count(),
            workers=config.data.workers,
            threads=config.data.threads,
            prefetch=config.data.prefetch,
            cache_gib=config.data.cache_gib,
        )

    def report(self, batch: dict[str, np.ndarray], file: Path, say: Callable[[str], None]) -> int:
        """Takes the counts out of a batch; bad records are listed in `file` and said aloud.

        Process 0 does so for all; what others find may wait for its next call.
        Returns how many texts of this process's share were cut to the static length.
        """
        found = []
        substituted = batch.pop("substituted")
        for number, index in substituted[substituted[:, 0] > 0]:
            source = self.datasets[number - 1].source
            record = source[int(index)]
            line = {"dataset": self.names[number - 1], "key": record["key"]}
            try:
                decode(record["image"], key=record["key"])
            except ImageError as error:
                line |= {"reason": error.reason, "detail": error.detail}
            found.append(json.dumps(line))
        self.list_bad(found, file, say)
        return int(batch.pop("truncated").sum())

    def list_bad(self, found: list[str], file: Path, say: Callable[[str], None]) -> None:
        """On process 0 lists the bad records that it found, and that others sent since."""
        for line in to_first("substituted", found):
            if file.exists() and line in file.read_text():
                continue
            with file.open("a") as lines:
                lines.write(line + "\n")
            say(f"unreadable image replaced by the next entry: {line} (listed in {file})")

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
