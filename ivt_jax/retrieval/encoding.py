"""Images and texts become embeddings: in batches of few shapes, over all devices.

Rows are padded to whole batches and texts to the next of a few lengths, so that little is compiled
and little is computed on padding; what was padded is dropped.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from ivt_jax.data.texts import Tokenizer
from ivt_jax.errors import EXIT_DIVERGED, UserError
from ivt_jax.model.pixels import normalise
from ivt_jax.model.products import compiler_options
from ivt_jax.training.sharding import REPLICATED, to_global

BUCKET = 16  # tokens; texts are padded to a multiple of it


@dataclasses.dataclass(frozen=True)
class Encoders:
    """Jitted encoders of one architecture; parameters come with each call.

    `image(params, images)`: uint8 (B, H, W, 3) -> (B, D); `text(params, token_ids, token_mask)`:
    (B, L), (B, L) -> (B, D). Both float32, L2-normalised, whole on every device.
    """

    image: Callable
    text: Callable
    mesh: jax.sharding.Mesh


def make_encoders(graphdef, mesh: jax.sharding.Mesh, *, dtype: str = "") -> Encoders:
    """Encoders of a model, see `jitted`."""
    image, text = encoding_functions(graphdef)
    return Encoders(jitted(image, mesh, dtype=dtype), jitted(text, mesh, dtype=dtype), mesh)


def jitted(encode: Callable, mesh: jax.sharding.Mesh, *, dtype: str):
    """An encoder whose result is whole on every device; compiled when shapes come.

    `dtype` is what its parameters are held as, by which the compiler is told what to prefer; "" =
    nothing.
    """
    whole = NamedSharding(mesh, REPLICATED)

    def encoded(*arguments):
        return jax.lax.with_sharding_constraint(encode(*arguments), whole)

    options = compiler_options(mesh.devices.flat[0].platform, dtype)
    return jax.jit(encoded, compiler_options=options)


def encoding_functions(graphdef) -> tuple[Callable, Callable]:
    """What `Encoders.image` and `Encoders.text` compute, not jitted."""
    from flax import nnx  # an exported model does without it

    def image(params, images):
        model = nnx.merge(graphdef, params)
        return _unit(model.image_features(normalise(images)))

    def text(params, token_ids, token_mask):
        model = nnx.merge(graphdef, params)
        return _unit(model.text_features(token_ids, token_mask))

    return image, text


def encode_images(
    encoders: Encoders, params, images: Iterable[np.ndarray], *, batch_size: int
) -> np.ndarray:
    """Encodes uint8 (H, W, 3) images, in order, in padded batches of one shape -> (n, D).

    Raises UserError (exit code 3) for an embedding that is not finite, as `encode_texts` does.
    """
    images = iter(images)

    def batches():
        while rows := list(itertools.islice(images, batch_size)):
            yield {"images": rows}

    def run(batch):
        return encoders.image(params, batch["images"])

    return _in_batches(batches(), run, encoders.mesh, batch_size)


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
    """Encodes captions -> (n, D) in their order, and how many were cut to `length` tokens.

    Captions of like length share a batch, which is as long as its longest one, rounded up to a
    multiple of BUCKET and at most `length`. Padding is masked, so this changes rounding alone.
    """
    ids, mask, cut = tokenizer.encode(captions, length=length, separator=separator)
    tokens = mask.sum(axis=1)
    order = np.argsort(tokens, kind="stable")

    def batches():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            width = min(-(-tokens[rows[-1]] // BUCKET) * BUCKET, length)
            yield {"ids": ids[rows, :width], "mask": mask[rows, :width]}

    def run(batch):
        return encoders.text(params, batch["ids"], batch["mask"])

    by_length = _in_batches(batches(), run, encoders.mesh, batch_size)
    embeddings = np.empty_like(by_length)
    embeddings[order] = by_length
    return embeddings, int(cut.sum())


def truncation_note(cut: int, total: int, *, length: int) -> str:
    """The sentence on captions that the model did not read to their end."""
    return f"{cut} of {total} captions were cut to data.text_length={length} tokens"


def _unit(features):
    norm = jnp.sqrt(jnp.sum(features * features, axis=-1, keepdims=True))
    return features / jnp.maximum(norm, 1e-12)


def _in_batches(batches: Iterator[dict], run: Callable, mesh, batch_size: int) -> np.ndarray:
    """Runs batches of up to `batch_size` rows, padded to it; each process feeds its share."""
    share = batch_size // jax.process_count()
    first = share * jax.process_index()
    results = []
    for batch in batches:
        count = len(next(iter(batch.values())))
        mine = np.minimum(np.arange(first, first + share), count - 1)  # the last row pads
        fed = {name: np.stack([rows[i] for i in mine]) for name, rows in batch.items()}
        with jax.set_mesh(mesh):
            results.append((run(to_global(mesh, fed)), count))
    embeddings = np.concatenate([np.asarray(value)[:count] for value, count in results])
    if not np.isfinite(embeddings).all():
        raise UserError(
            "the model gives embeddings that are not finite: its training has diverged, or its "
            "weights are damaged; take an earlier checkpoint or train it anew",
            exit_code=EXIT_DIVERGED,
        )
    return embeddings
