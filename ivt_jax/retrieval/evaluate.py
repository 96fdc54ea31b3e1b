"""The retrieval protocol on the device: encode a split once, rank, score.

Every caption is a query; the gallery holds every image once; a positive is any image of the
query's identity, its own photo included (the protocol of IRRA and its successors).
"""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding

from ivt_jax.data.images import ImageError, decode, evaluation_image
from ivt_jax.data.records import DataError, RecordSource
from ivt_jax.data.texts import Tokenizer
from ivt_jax.model.pixels import normalise
from ivt_jax.retrieval.metrics import metrics_from_ranks
from ivt_jax.retrieval.ranking import ranks_of_positives
from ivt_jax.training.sharding import REPLICATED, to_global


@dataclasses.dataclass(frozen=True)
class Encoders:
    """Jitted encoders of one architecture; parameters come with each call.

    `image(params, images)`: uint8 (B, H, W, 3) -> (B, D); `text(params, token_ids, token_mask)`:
    (B, L), (B, L) -> (B, D). Both float32, L2-normalised, whole on every device.
    """

    image: Callable
    text: Callable
    mesh: jax.sharding.Mesh


@dataclasses.dataclass(frozen=True)
class EncodedSplit:
    """A split with G images and Q captions; embeddings float32, L2-normalised."""

    image_embeddings: np.ndarray  # (G, D)
    image_identities: np.ndarray  # (G,)
    text_embeddings: np.ndarray  # (Q, D)
    text_identities: np.ndarray  # (Q,)
    text_images: np.ndarray  # (Q,) row of the photo that a caption describes
    captions: list[str]
    truncated: int  # captions that were cut to the text length


def make_encoders(graphdef, mesh: jax.sharding.Mesh) -> Encoders:
    """Compiles nothing yet: shapes come with the first call."""
    whole = NamedSharding(mesh, REPLICATED)

    @jax.jit
    def image(params, images):
        model = nnx.merge(graphdef, params)
        embeddings = _unit(model.image_features(normalise(images)))
        return jax.lax.with_sharding_constraint(embeddings, whole)

    @jax.jit
    def text(params, token_ids, token_mask):
        model = nnx.merge(graphdef, params)
        embeddings = _unit(model.text_features(token_ids, token_mask))
        return jax.lax.with_sharding_constraint(embeddings, whole)

    return Encoders(image, text, mesh)


def encode_images(
    encoders: Encoders, params, images: Iterator[np.ndarray], *, batch_size: int
) -> np.ndarray:
    """Encodes uint8 (H, W, 3) images, in order, in padded batches of one shape -> (n, D)."""

    def run(batch):
        return encoders.image(params, batch["images"])

    return _in_batches(({"images": image} for image in images), run, encoders.mesh, batch_size)


def encode_texts(
    encoders: Encoders,
    params,
    captions: list[str],
    *,
    tokenizer: Tokenizer,
    length: int,
    separator: str,
    batch_size: int,
) -> tuple[np.ndarray, int]:
    """Encodes captions -> (n, D), and how many of them were cut to `length` tokens."""
    ids, mask, cut = tokenizer.encode(captions, length=length, separator=separator)
    rows = ({"ids": i, "mask": m} for i, m in zip(ids, mask, strict=True))

    def run(batch):
        return encoders.text(params, batch["ids"], batch["mask"])

    return _in_batches(rows, run, encoders.mesh, batch_size), int(cut.sum())


def encode_split(
    encoders: Encoders,
    params,
    source: RecordSource,
    *,
    image_size: tuple[int, int],
    tokenizer: Tokenizer,
    length: int,
    separator: str,
    batch_size: int,
    done: Callable[[int], object] = lambda photos: None,
) -> EncodedSplit:
    """Encodes each image and each caption of a split once; `done` is told of every photo.

    Raises DataError for an image that cannot be decoded: a score must cover the whole gallery.
    """
    captions, owners = [], []

    def images():
        for row in range(len(source)):
            record = source[row]
            captions.extend(record["captions"])
            owners.extend([row] * len(record["captions"]))
            yield evaluation_image(_pixels(record, source), image_size)
            done(1)

    image_embeddings = encode_images(encoders, params, images(), batch_size=batch_size)
    reading = {"tokenizer": tokenizer, "length": length, "separator": separator}
    text_embeddings, truncated = encode_texts(
        encoders, params, captions, **reading, batch_size=batch_size
    )
    identities = np.asarray(source.identities)
    return EncodedSplit(
        image_embeddings,
        identities,
        text_embeddings,
        identities[owners],
        np.array(owners),
        captions,
        truncated,
    )


def score(encoded: EncodedSplit, *, unmatched: str = "error") -> dict[str, float]:
    """R1, R5, R10, mAP, mAP_trapezoid and mINP in percent; see `retrieval_metrics`."""
    ranks, valid = ranks_of_positives(
        encoded.text_embeddings,
        encoded.image_embeddings,
        encoded.text_identities,
        encoded.image_identities,
    )
    return metrics_from_ranks(ranks, valid, unmatched=unmatched)


def _pixels(record: dict, source: RecordSource) -> np.ndarray:
    try:
        return decode(record["image"], key=record["key"])
    except ImageError as error:
        raise DataError(
            f"{source.name} {source.split}: {error}. A score must cover every photo: mend that "
            "file and prepare the dataset anew."
        ) from error


def truncation_note(cut: int, total: int, *, length: int) -> str:
    """The sentence on captions that the model did not read to their end."""
    return f"{cut} of {total} captions were cut to data.text_length={length} tokens"


def _unit(features):
    norm = jnp.sqrt(jnp.sum(features * features, axis=-1, keepdims=True))
    return features / jnp.maximum(norm, 1e-12)


def _in_batches(rows: Iterator[dict], run: Callable, mesh, batch_size: int) -> np.ndarray:
    """Stacks rows into batches of one shape, padding the last; each process feeds its share."""
    share = batch_size // jax.process_count()
    first = share * jax.process_index()
    results, pending = [], []

    def flush():
        count = len(pending)
        padded = pending + [pending[-1]] * (batch_size - count)
        mine = padded[first : first + share]
        batch = {name: np.stack([row[name] for row in mine]) for name in mine[0]}
        with jax.set_mesh(mesh):
            results.append((run(to_global(mesh, batch)), count))
        pending.clear()

    for row in rows:
        pending.append(row)
        if len(pending) == batch_size:
            flush()
    if pending:
        flush()
    return np.concatenate([np.asarray(value)[:count] for value, count in results])
