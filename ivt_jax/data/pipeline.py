"""Records become batches: a pure function of (seed, step), read by Grain.

Global batch s is made of positions [s * B, (s + 1) * B) of the order, and a process reads its
contiguous share of them, so batches do not depend on the number of processes or workers, and
resuming needs the step alone. Nothing here imports JAX: reading processes load this module.
"""

import dataclasses
import signal
from typing import Any

import grain
import numpy as np
from absl import flags

from ivt_jax.data.cache import Cache
from ivt_jax.data.images import ImageError, crop_and_flip, decode_resized
from ivt_jax.data.records import DataError, RecordSource, entries
from ivt_jax.data.sampling import IdentityOrder, ShuffledOrder
from ivt_jax.data.texts import LEVELS, Tokenizer, text_levels
from ivt_jax.training.faults import strike

_ENDLESS = 1 << 40  # positions; Grain wants a length, the orders have none
_SUBSTITUTES = 100  # entries tried after a bad one before giving up


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """How a record becomes views; the fields are those of `config.data`.

    `views` are names of text levels, any of `texts.LEVELS`, with one image view each.
    """

    views: tuple[str, ...]
    image_size: tuple[int, int]
    text_length: int
    separator: str
    decode: str
    resize: str
    pad: int
    flip: float
    word_level: str


class TrainingEntries:
    """The entries of one dataset in their endless order; `sample` makes the one at a position.

    Args:
      source: the records of the training split.
      kind: "captions": an entry is an (image, caption) pair; "images": an image, with one of its
        captions drawn every time.
      sampler: "shuffle" | "identity", `group` entries of a person together.
      seed: of the order.
      number: of the dataset in the mixture, for reports and the cache.
      identity_offset: added to identities, so those of several datasets never meet.
    """

    def __init__(
        self,
        source: RecordSource,
        *,
        kind: str,
        sampler: str,
        group: int,
        seed: int,
        number: int = 0,
        identity_offset: int = 0,
    ):
        self.source = source
        self.number = number
        self.identity_offset = identity_offset
        if kind == "captions":
            self.entries = entries(source)  # (E, 2) of (record, caption)
        else:
            records = np.arange(len(source))
            self.entries = np.stack([records, np.full_like(records, -1)], axis=1)
        identities = source.identities[self.entries[:, 0]]
        self.order = (
            IdentityOrder(identities, group=group, seed=seed)
            if sampler == "identity"
            else ShuffledOrder(len(self.entries), seed=seed)
        )

    def sample(
        self,
        position: int,
        rng: np.random.Generator,
        *,
        tokenizer: Tokenizer,
        options: ViewOptions,
        cache: Cache,
    ) -> dict[str, Any]:
        """The sample at a position; a bad record is replaced by the next good entry.

        What was read and decoded is kept in `cache` while there is room; the sample is the same
        with and without it.

        Returns images uint8 (V, H, W, 3), token_ids int32 (V, L), token_mask bool (V, L),
        identities int32, and for the report truncated int32, the texts that were cut, and
        substituted int32 (2,): 1 + the number of the dataset, and of the bad record, or zeros.
        Raises DataError when 100 entries in a row are bad.
        """
        strike("sample", position)
        record, caption_index, image, bad = self._readable(self.order[position], options, cache)
        if caption_index < 0:
            caption_index = int(rng.integers(len(record["captions"])))
        texts = _levels(record, caption_index, options, rng)
        ids, mask, truncated = tokenizer.encode(
            texts, length=options.text_length, separator=options.separator
        )
        return {
            "images": np.stack(
                [crop_and_flip(image, pad=options.pad, flip=options.flip, rng=rng) for _ in texts]
            ),
            "token_ids": ids,
            "token_mask": mask,
            "identities": np.int32(record["identity"] + self.identity_offset),
            "truncated": np.int32(truncated.sum()),
            "substituted": np.array(bad, np.int32),
        }

    def _readable(
        self, entry: int, options: ViewOptions, cache: Cache
    ) -> tuple[dict[str, Any], int, np.ndarray, tuple[int, int]]:
        """The record, caption and resized pixels of the first good entry from `entry` on."""
        bad = (0, 0)
        for attempt in range(_SUBSTITUTES):
            index, caption = map(int, self.entries[(entry + attempt) % len(self.entries)])
            try:
                record, image = cache.get((self.number, index)) or self._read(index, options, cache)
                return record, caption, image, bad
            except ImageError:
                bad = bad if any(bad) else (self.number + 1, index)
        raise DataError(
            f"{_SUBSTITUTES} images in a row of {self.source.name} cannot be read, from record "
            f"{bad[1]} on; prepare the dataset anew"
        )

    def _read(
        self, index: int, options: ViewOptions, cache: Cache
    ) -> tuple[dict[str, Any], np.ndarray]:
        record = read_record(self.source, index)
        image = decode_resized(
            record.pop("image"),
            size=options.image_size,
            resize_filter=options.resize,
            mode=options.decode,
            key=record["key"],
        )  # (H, W, 3)
        cache.add((self.number, index), (record, image), size=image.nbytes)
        return record, image


def read_record(source: RecordSource, index: int) -> dict[str, Any]:
    """`source[index]`; ImageError ("damaged") where the bytes of a shard have changed or are gone.

    Other faults of reading pass, as they may pass by: those of a storage that is away.
    """
    try:
        return source[index]
    except (RuntimeError, IndexError) as error:
        if isinstance(error, RuntimeError) and "Corrupted" not in str(error):
            raise
        raise ImageError(
            "damaged", f"record {index}", f"{type(error).__name__}: {error}"
        ) from error


def _levels(record: dict, caption: int, options: ViewOptions, rng) -> list[str]:
    if options.views == ("sentence",):
        return [record["captions"][caption].lower()]
    levels = text_levels(
        record["captions"][caption],
        words=record["words"][caption],
        attributes=record["attributes"][caption],
        style=options.word_level,
        source=record["source"],
        rng=rng,
    )
    return [levels[LEVELS.index(view)] for view in options.views]


def epochs_seen(
    datasets: list[TrainingEntries], weights: list[float], *, samples: int
) -> list[float]:
    """How often each dataset of a mixture has been passed over after so many samples in all.

    A function of the sample count alone, as the mixture itself: each dataset gives its share.
    """
    total = sum(weights)
    return [
        samples * weight / total / len(entries.order)
        for entries, weight in zip(datasets, weights, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class _Sample(grain.transforms.RandomMap):
    entries: TrainingEntries
    tokenizer: Tokenizer
    options: ViewOptions
    cache: Cache

    def random_map(self, element: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return self.entries.sample(
            element, rng, tokenizer=self.tokenizer, options=self.options, cache=self.cache
        )


class _Positions:
    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, position: int) -> int:
        return position


@dataclasses.dataclass(frozen=True)
class _Place(grain.transforms.Map):
    number: int

    def map(self, element: int) -> tuple[int, int]:
        return self.number, element


def sample_places(datasets: list[TrainingEntries], weights: list[float]):
    """Of each sample of the stream of batches: the number of its dataset, and its place there."""
    streams = [
        grain.MapDataset.source(_Positions()).map(_Place(number)) for number in range(len(datasets))
    ]
    return _mixed(streams, weights)


def _mixed(streams: list, weights: list[float]):
    return streams[0] if len(streams) == 1 else grain.MapDataset.mix(streams, weights)


def _ignore_interrupt(*_) -> None:
    """Ctrl-C reaches a whole process group; only the main process answers, by saving."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def training_samples(
    datasets: list[TrainingEntries],
    weights: list[float],
    *,
    tokenizer: Tokenizer,
    options: ViewOptions,
    seed: int,
    cache: Cache,
):
    """The samples that batches are made of, in their order, read one by one as items."""
    streams = [
        grain.MapDataset.source(_Positions())
        .seed(seed + number)
        .random_map(_Sample(entries, tokenizer, options, cache))
        for number, entries in enumerate(datasets)
    ]
    return _mixed(streams, weights)


def training_batches(
    datasets: list[TrainingEntries],
    weights: list[float],
    *,
    tokenizer: Tokenizer,
    options: ViewOptions,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process: int = 0,
    processes: int = 1,
    workers: int = 0,
    threads: int = 2,
    prefetch: int = 4,
    cache_gib: float = 0.0,
):
    """An endless iterator over this process's share of the batches from `start_step` on.

    Args:
      datasets, weights: the mixture; weights are relative frequencies of samples.
      batch_size: of the global batch B, divisible by `processes`.
      seed: of what is drawn for each sample; the orders have their own.
      workers: reading processes; 0 = `threads` threads of this one.
      prefetch: batches kept ready, by each worker if there are any.
      cache_gib: GiB of decoded images kept in memory, an equal share in each worker.

    Yields dicts of numpy arrays with a leading axis of B / processes; see `TrainingEntries.sample`.
    """
    cache = Cache(int(cache_gib * 2**30) // max(workers, 1))
    samples = training_samples(
        datasets, weights, tokenizer=tokenizer, options=options, seed=seed, cache=cache
    )
    batches = samples.batch(batch_size // processes, drop_remainder=True)
    batches = batches[process::processes][start_step:]
    read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, 1))
    stream = batches.to_iter_dataset(read)
    if workers:
        flags.FLAGS.mark_as_parsed()  # Grain reads one when it starts processes
        stream = stream.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=prefetch),
            worker_init_fn=_ignore_interrupt,
        )
    return iter(stream)
