"""Records become batches: a pure function of (seed, step), read by Grain.

Global batch s is made of positions [s * B, (s + 1) * B) of the order, and a process reads its
contiguous share of them, so batches do not depend on the number of processes or workers, and
resuming needs the step alone. Nothing here imports JAX: reading processes load this module.
"""

import dataclasses
from typing import Any

import grain
import numpy as np
from absl import flags

from ivt_jax.data.cache import Cache
from ivt_jax.data.feed import serve
from ivt_jax.data.images import ImageError, View, decode_resized, drawn_views, write_view
from ivt_jax.data.records import DataError, RecordSource, entries
from ivt_jax.data.sampling import IdentityOrder, ShuffledOrder, uniform
from ivt_jax.data.texts import Tokenizer, image_count, level_lengths, text_levels
from ivt_jax.training.faults import strike

_ENDLESS = 1 << 40  # positions; Grain wants a length, the orders have none
_SUBSTITUTES = 100  # entries tried after a bad one before giving up


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """How a record becomes views; the fields are those of `config.data`.

    `views` are names of text levels, any of `texts.LEVELS` in any number.
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
    phrase_level: str
    image_views: str
    word_length: int = 0
    phrase_length: int = 0

    @property
    def images(self) -> int:
        """Image views of a sample."""
        return image_count(self.views, image_views=self.image_views)

    @property
    def text_lengths(self) -> tuple[int, ...]:
        """The most tokens that a text of each view has."""
        own = {name: getattr(self, name) for name in ("word_length", "phrase_length")}
        return level_lengths(self.views, text_length=self.text_length, **own)


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

    def read_ahead(self, positions: list[int], cache: Cache) -> dict[int, dict[str, Any]]:
        """The records at these positions that are not in the cache, by their index.

        Read all at once, which costs half of reading them one by one.
        """
        indices = {int(self.entries[self.order[position], 0]) for position in positions}
        missing = [index for index in sorted(indices) if cache.get((self.number, index)) is None]
        try:
            return dict(zip(missing, self.source.read(missing), strict=True)) if missing else {}
        except (RuntimeError, IndexError):
            return {}  # one of them is damaged; one by one it will be known which

    def sample(
        self,
        position: int,
        *,
        key: np.ndarray,
        options: ViewOptions,
        cache: Cache,
        ahead: dict[int, dict[str, Any]],
        views: list[View],
        images: np.ndarray,
    ) -> tuple[list[str], int, tuple[int, int]]:
        """The sample at a position; a bad record is replaced by the next good entry.

        What was read and decoded is kept in `cache` while there is room; the sample is the same
        with and without it, and whether its record is in `ahead` or not. The `views` are written
        into `images`, uint8 (V or 1, H, W, 3): in its place in a batch a view is written once.

        Returns the V texts, the identity, and for the report 1 + the number of the dataset, and of
        the bad record, or zeros.
        Raises DataError when 100 entries in a row are bad.
        """
        strike("sample", position)
        record, caption_index, image, bad = self._readable(
            self.order[position], options, cache, ahead
        )
        texts = _texts(record, caption_index, options, key, position)
        for view, out in zip(views, images, strict=True):
            write_view(image, view, out)
        return texts, record["identity"] + self.identity_offset, bad

    def _readable(
        self, entry: int, options: ViewOptions, cache: Cache, ahead: dict[int, dict[str, Any]]
    ) -> tuple[dict[str, Any], int, np.ndarray, tuple[int, int]]:
        """The record, caption and resized pixels of the first good entry from `entry` on."""
        bad = (0, 0)
        for attempt in range(_SUBSTITUTES):
            index, caption = map(int, self.entries[(entry + attempt) % len(self.entries)])
            try:
                kept = cache.get((self.number, index))
                record, image = kept or self._decode(index, options, cache, ahead)
                return record, caption, image, bad
            except ImageError:
                bad = bad if any(bad) else (self.number + 1, index)
        raise DataError(
            f"{_SUBSTITUTES} images in a row of {self.source.name} cannot be read, from record "
            f"{bad[1]} on; prepare the dataset anew"
        )

    def _decode(
        self, index: int, options: ViewOptions, cache: Cache, ahead: dict[int, dict[str, Any]]
    ) -> tuple[dict[str, Any], np.ndarray]:
        record = ahead[index] if index in ahead else read_record(self.source, index)
        image = decode_resized(
            record["image"],
            size=options.image_size,
            resize_filter=options.resize,
            mode=options.decode,
            key=record["key"],
        )  # (H, W, 3)
        record = {name: value for name, value in record.items() if name != "image"}
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


def _texts(record: dict, caption: int, options: ViewOptions, key, position: int) -> list[str]:
    """The texts of a caption, of a random one if it is -1."""
    if options.views == ("sentence",) and caption >= 0:
        return [record["captions"][caption].lower()]
    rng = _generator(key, position)  # not free to make
    if caption < 0:
        caption = int(rng.integers(len(record["captions"])))
    return text_levels(
        record["captions"][caption],
        options.views,
        words=record["words"][caption],
        attributes=record["attributes"][caption],
        word_style=options.word_level,
        phrase_style=options.phrase_level,
        source=record["source"],
        rng=rng,
    )


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
class _Batches:
    """One process's share of every batch, by step; what Grain reads ahead.

    Made batch by batch and not sample by sample: records are read and texts are tokenised all at
    once, and pixels are copied once.
    """

    datasets: list[TrainingEntries]
    mixture: grain.MapDataset  # of (number of the dataset, position in its order)
    keys: list[np.ndarray]  # of the randomness of each dataset
    tokenizer: Tokenizer
    options: ViewOptions
    cache: Cache
    batch_size: int  # B
    first: int  # row of the batch
    rows: int

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        first = step * self.batch_size + self.first
        places = [self.mixture[first + row] for row in range(self.rows)]
        ahead = [
            dataset.read_ahead([p for n, p in places if n == number], self.cache)
            for number, dataset in enumerate(self.datasets)
        ]
        count, (height, width) = self.options.images, self.options.image_size
        images = np.empty((self.rows, count, height, width, 3), np.uint8)  # (B, V or 1, H, W, 3)
        samples = [
            self.datasets[number].sample(
                position,
                key=self.keys[number],
                options=self.options,
                cache=self.cache,
                ahead=ahead[number],
                views=views,
                images=out,
            )
            for (number, position), views, out in zip(
                places, self._views(places), images, strict=True
            )
        ]
        texts, identities, bad = zip(*samples, strict=True)
        ids, mask, truncated = self._tokenised(texts)
        return {
            "images": images,
            "token_ids": ids,
            "token_mask": mask,
            "identities": np.array(identities, np.int32),
            "truncated": truncated,
            "substituted": np.array(bad, np.int32),
        }

    def _tokenised(self, texts: tuple[list[str], ...]) -> tuple[np.ndarray, ...]:
        """Ids and mask (B, V, L), each view cut to its own length, and which were cut (B, V)."""
        longest, by_view = self.options.text_length, []
        for view, length in enumerate(self.options.text_lengths):
            ids, mask, cut = self.tokenizer.encode(
                [levels[view] for levels in texts], length=length, separator=self.options.separator
            )
            room = ((0, 0), (0, longest - length))
            ids = np.pad(ids, room, constant_values=self.tokenizer.pad_id)
            by_view.append((ids, np.pad(mask, room), cut))
        return tuple(np.stack(parts, axis=1) for parts in zip(*by_view, strict=True))

    def _views(self, places: list[tuple[int, int]]) -> list[list[View]]:
        """The views of the samples at these places, drawn all at once."""
        count = self.options.images
        keys = np.array([self.keys[number][0] for number, _ in places])  # (B,)
        positions = np.array([position for _, position in places], np.uint64)  # (B,)
        chances = uniform(keys, positions, count=3 * count).reshape(-1, 3)  # (B V, 3) or (B, 3)
        drawn = drawn_views(chances, pad=self.options.pad, flip=self.options.flip)
        return [drawn[row : row + count] for row in range(0, len(drawn), count)]


@dataclasses.dataclass(frozen=True)
class _Positions:
    """The positions of one dataset's order, with its number."""

    number: int

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, position: int) -> tuple[int, int]:
        return self.number, position


def _key(seed: int) -> np.ndarray:
    """The Philox key of a dataset's randomness; a sample's position is its counter."""
    drawn = np.random.SeedSequence([seed, 1]).generate_state(1)
    return np.random.Philox(int(drawn[0])).state["state"]["key"]


def _generator(key: np.ndarray, position: int) -> np.random.Generator:
    counter = np.array([0, 0, 0, position], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def sample_places(datasets: list[TrainingEntries], weights: list[float]) -> grain.MapDataset:
    """Of each sample of the stream: the number of its dataset, and its position there."""
    places = [grain.MapDataset.source(_Positions(number)) for number in range(len(datasets))]
    return places[0] if len(places) == 1 else grain.MapDataset.mix(places, weights)


def training_samples(
    datasets: list[TrainingEntries],
    weights: list[float],
    *,
    tokenizer: Tokenizer,
    options: ViewOptions,
    seed: int,
) -> "_Batches":
    """The samples of that stream, each a batch of one, read when it is asked for."""
    return _Batches(
        datasets=datasets,
        mixture=sample_places(datasets, weights),
        keys=[_key(seed + number) for number in range(len(datasets))],
        tokenizer=tokenizer,
        options=options,
        cache=Cache(0),
        batch_size=1,
        first=0,
        rows=1,
    )


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

    Yields dicts of numpy arrays with a leading axis of B / processes: images uint8
    (B, V or 1, H, W, 3), token_ids int32 and token_mask bool (B, V, L), identities int32 (B,), and
    for the report truncated bool (B, V), the texts that were cut, and substituted int32 (B, 2): see
    `TrainingEntries.sample`.
    """
    share = batch_size // processes
    samples = training_samples(datasets, weights, tokenizer=tokenizer, options=options, seed=seed)
    batches = dataclasses.replace(
        samples,
        cache=Cache(int(cache_gib * 2**30) // max(workers, 1)),
        batch_size=batch_size,
        first=process * share,
        rows=share,
    )
    read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, 1))
    stream = grain.MapDataset.source(batches)[start_step:].to_iter_dataset(read)
    if workers:
        flags.FLAGS.mark_as_parsed()  # Grain reads one when it starts processes
        stream = stream.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=prefetch),
            worker_init_fn=serve,
        )
    return iter(stream)
