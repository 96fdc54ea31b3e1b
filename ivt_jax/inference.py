"""`ivt_jax.load`: a trained model that turns photos and sentences into embeddings."""

import dataclasses
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding
from ml_collections import ConfigDict
from PIL import Image

from configs import base
from ivt_jax.convert.assemble import assemble
from ivt_jax.convert.exported import WEIGHTS, read_exported
from ivt_jax.convert.hub import SCHEME, fetch
from ivt_jax.convert.official_files import official_run_config, read_official
from ivt_jax.data.images import decode, evaluation_image
from ivt_jax.data.texts import Tokenizer, load_tokenizer
from ivt_jax.errors import UserError
from ivt_jax.model.ivt import IVTConfig
from ivt_jax.retrieval.encoding import (
    Encoders,
    encode_images,
    encode_texts,
    make_encoders,
    truncation_note,
)
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
    path: str = ""  # what `load` took; "" = not loaded

    def encode_image(self, images: Sequence[Image.Image | str | Path] | np.ndarray) -> np.ndarray:
        """PIL images or paths, or uint8 (B, H, W, 3) -> float32 (B, D), L2-normalised.

        Raises UserError for anything else, and ImageError for a file that is no readable JPEG,
        PNG or WebP.
        """
        if isinstance(images, np.ndarray):
            _check_pixels(images, shape="(B, H, W, 3)")
        if isinstance(images, Image.Image | str | Path):
            raise UserError("encode_image takes a list of images; write [image]")
        if not len(images):
            raise UserError("encode_image needs at least one image; the list is empty")
        size = tuple(self.config.model.image_size)
        prepared = (evaluation_image(_pixels(image), size) for image in images)
        size_at_once = self._batch_size_of(len(images))
        return encode_images(self.encoders, self.params, prepared, batch_size=size_at_once)

    def encode_text(self, captions: Sequence[str]) -> np.ndarray:
        """Sentences -> float32 (B, D), L2-normalised.

        Warns of sentences that were cut to the run's data.text_length tokens; raises UserError
        for anything but a list of sentences.
        """
        if isinstance(captions, str):
            raise UserError("encode_text takes a list of sentences; write [caption]")
        captions = list(captions)
        if not captions:
            raise UserError("encode_text needs at least one sentence; the list is empty")
        wrong = [type(caption).__name__ for caption in captions if not isinstance(caption, str)]
        if wrong:
            raise UserError(f"encode_text takes a list of sentences (str), not of {wrong[0]}")
        embeddings, cut = encode_texts(
            self.encoders,
            self.params,
            captions,
            tokenizer=self.tokenizer,
            length=self.config.data.text_length,
            separator=self.config.data.separator,
            batch_size=self._batch_size_of(len(captions)),
        )
        if cut:
            warnings.warn(
                truncation_note(cut, len(captions), length=self.config.data.text_length),
                stacklevel=2,
            )
        return embeddings

    @property
    def batch_size(self) -> int:
        """Images or captions encoded at once: the run's, rounded up to the devices here."""
        devices = jax.device_count()
        return -(-self.config.evaluation.batch_size // devices) * devices

    def _batch_size_of(self, count: int) -> int:
        """For so few rows, a smaller batch; doubling keeps the number of compiled shapes low."""
        size = jax.device_count()
        while size < min(count, self.batch_size):
            size *= 2
        return min(size, self.batch_size)


def load(
    path: str | Path, step: int | None = None, *, vocabulary: str | Path | None = None
) -> Retriever:
    """Loads a run, a folder that `python -m ivt_jax export` wrote, or official IVT weights.

    Args:
      path: the --workdir of a training run, an exported folder, "hf://USER/NAME@COMMIT" for one on
        the Hugging Face hub, or a .safetensors or .pth file of official weights. An exported model
        computes in float32.
      step: the checkpoint of a run; None = the best by its validation score, else the newest.
      vocabulary: of official weights, a WordPiece vocab.txt; None = the one beside the file.

    Raises:
      UserError: no run there, no such step, a file that cannot be read safely, or parameters that
        do not fit; nothing but JSON and tensors is read from either.
    """
    if Path(path).is_file():
        model = _load_official(Path(path), vocabulary)
    else:
        folder = fetch(str(path)) if str(path).startswith(SCHEME) else Path(path)
        read = _read_exported if (folder / WEIGHTS).is_file() else read_run
        config, step, params = read(folder, step)
        model = _retriever(config, step, params, load_tokenizer(folder / "vocab.txt"))
    place = str(path) if str(path).startswith(SCHEME) else str(Path(path).resolve())
    return dataclasses.replace(model, path=place)


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


def read_run(run: Path, step: int | None) -> tuple[ConfigDict, int, dict]:
    """Configuration, step and parameters of a run; step and errors as for `load`."""
    config = read_config(run)
    step = choose_step(run, -1 if step is None else step)
    _, shapes = split_model(IVTConfig(**config.model))
    return config, step, restore_params(run, step, shapes)


def _read_exported(folder: Path, step: int | None) -> tuple[ConfigDict, int, dict]:
    facts, sizes, params = read_exported(folder)
    if step not in (None, facts["step"]):
        raise UserError(f"{folder} holds step {facts['step']} and no other, so not {step}")
    config = base.get_config()
    config.model.update(dataclasses.asdict(sizes))
    config.data.update(text_length=facts["text_length"], separator=facts["separator"])
    return config, facts["step"], params


def _pixels(image: Image.Image | str | Path | np.ndarray) -> np.ndarray:
    if isinstance(image, np.ndarray):
        _check_pixels(image, shape="(H, W, 3)")
        return image
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    if not isinstance(image, str | Path):
        raise UserError(
            f"encode_image takes PIL images, paths or uint8 arrays, not {type(image).__name__}"
        )
    return decode(Path(image).read_bytes(), key=str(image))


def _check_pixels(images: np.ndarray, *, shape: str) -> None:
    fits = images.ndim == shape.count(",") + 1 and images.shape[-1] == 3
    if images.dtype != np.uint8 or not fits:
        raise UserError(
            f"encode_image takes pixels as uint8 {shape}, 0 to 255 in RGB, "
            f"not {images.dtype} {images.shape}"
        )
