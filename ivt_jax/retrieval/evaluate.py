"""The retrieval protocol on the device: encode a split once, rank, score.

Every caption is a query; the gallery holds every image once; a positive is any image of the
query's identity, its own photo included (the protocol of IRRA and its successors).
"""

import dataclasses
import os
from collections.abc import Callable

import numpy as np

from ivt_jax.data.images import ImageError, decode, evaluation_image
from ivt_jax.data.records import DataError, RecordSource
from ivt_jax.data.texts import Tokenizer
from ivt_jax.data.threads import in_threads
from ivt_jax.retrieval.encoding import Encoders, encode_images, encode_texts
from ivt_jax.retrieval.metrics import metrics_from_ranks
from ivt_jax.retrieval.ranking import ranks_of_positives


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
        photos = _read_ahead(source, image_size, ahead=batch_size)
        for row, (record, image) in enumerate(photos):
            captions.extend(record["captions"])
            owners.extend([row] * len(record["captions"]))
            yield image
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


def _read_ahead(source: RecordSource, image_size: tuple[int, int], *, ahead: int):
    """Each record with its pixels (H, W, 3), decoded in threads."""

    def read(record: dict) -> np.ndarray:
        return evaluation_image(_pixels(record, source), image_size)

    records = (source[row] for row in range(len(source)))
    return in_threads(read, records, threads=os.cpu_count() or 1, ahead=ahead)


def _pixels(record: dict, source: RecordSource) -> np.ndarray:
    try:
        return decode(record["image"], key=record["key"])
    except ImageError as error:
        raise DataError(
            f"{source.name} {source.split}: {error}. A score must cover every photo: mend that "
            "file and prepare the dataset anew."
        ) from error
