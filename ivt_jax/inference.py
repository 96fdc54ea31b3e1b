"""`ivt_jax.load`: a trained model that turns photos and sentences into embeddings."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding
from ml_collections import ConfigDict
from PIL import Image

from ivt_jax.convert.assemble import assemble
from ivt_jax.convert.official_files import official_run_config, read_official
from ivt_jax.data.images import decode, evaluation_image
from ivt_jax.data.texts import Tokenizer, load_tokenizer
from ivt_jax.errors import UserError
from ivt_jax.model.ivt import IVTConfig
from ivt_jax.retrieval.evaluate import Encoders, encode_images, encode_texts, make_encoders
from ivt_jax.training.checkpoint import choose_step, read_config, restore_params
from ivt_jax.training.sharding import REPLICATED, make_mesh
from ivt_jax.training.state import split_model


@dataclasses.dataclass(frozen=True)
class Retriever:
    """A loaded model; `encode_image` and `encode_text` give comparable embeddings."""

    config: ConfigDict
    step: int
    params: dict
    encoders: Encoders
    tokenizer: Tokenizer

    def encode_image(self, images: Sequence[Image.Image | str | Path] | np.ndarray) -> np.ndarray:
        """PIL images or paths, or uint8 (B, H, W, 3) -> float32 (B, D), L2-normalised.

        Raises ImageError for a file that is no readable JPEG, PNG or WebP.
        """
        size = tuple(self.config.model.image_size)
        prepared = (evaluation_image(_pixels(image), size) for image in images)
        return encode_images(self.encoders, self.params, prepared, batch_size=self.batch_size)

    def encode_text(self, captions: Sequence[str]) -> np.ndarray:
        """Sentences -> float32 (B, D), L2-normalised; longer than data.text_length are cut."""
        embeddings, _ = encode_texts(
            self.encoders,
            self.params,
            list(captions),
            tokenizer=self.tokenizer,
            length=self.config.data.text_length,
            separator=self.config.data.separator,
            batch_size=self.batch_size,
        )
        return embeddings

    @property
    def batch_size(self) -> int:
        """Images or captions encoded at once: the run's, rounded up to the devices here."""
        devices = jax.device_count()
        return -(-self.config.evaluation.batch_size // devices) * devices


def load(
    path: str | Path, step: int | None = None, *, vocabulary: str | Path | None = None
) -> Retriever:
    """Loads a run folder, or official IVT weights from a .safetensors or .pth file.

    Args:
      path: the --workdir of a training run, or the file.
      step: the run's checkpoint; None = the best by its validation score, else the newest.
      vocabulary: of official weights, a WordPiece vocab.txt; None = the one beside the file.

    Raises:
      UserError: no run there, no such step, a file that cannot be read safely, or parameters that
        do not fit; nothing but JSON and tensors is read from either.
    """
    if Path(path).is_file():
        return _load_official(Path(path), vocabulary)
    run = Path(path)
    config = read_config(run)
    step = choose_step(run, -1 if step is None else step)
    _, shapes = split_model(IVTConfig(**config.model))
    params = restore_params(run, step, shapes)
    return _retriever(config, step, params, load_tokenizer(run / "vocab.txt"))


def _load_official(file: Path, vocabulary: str | Path | None) -> Retriever:
    source, stated = read_official(file, field="official weights")
    config = official_run_config(source, stated)
    tokenizer = load_tokenizer(vocabulary or file.with_name("vocab.txt"))
    if tokenizer.size > config.model.vocabulary_size:
        raise UserError(
            f"the vocabulary {tokenizer.path} has {tokenizer.size} tokens, more than the "
            f"{config.model.vocabulary_size} rows of the word table in {file}"
        )
    params, report = assemble(IVTConfig(**config.model), [source], strict=True, seed=0)
    logging.info("%s", report)
    return _retriever(config, 0, params, tokenizer)


def _retriever(config: ConfigDict, step: int, params: dict, tokenizer: Tokenizer) -> Retriever:
    graphdef, _ = split_model(IVTConfig(**config.model))
    mesh = make_mesh(data=-1, fsdp=1)
    params = jax.device_put(params, NamedSharding(mesh, REPLICATED))
    return Retriever(config, step, params, make_encoders(graphdef, mesh), tokenizer)


def _pixels(image: Image.Image | str | Path | np.ndarray) -> np.ndarray:
    if isinstance(image, np.ndarray):
        return image
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    return decode(Path(image).read_bytes(), key=str(image))
