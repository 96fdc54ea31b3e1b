"""`ivt_jax.load`: a trained model that turns photos and sentences into embeddings."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding
from ml_collections import ConfigDict
from PIL import Image

from configs import base
from ivt_jax.convert.exported import WEIGHTS, read_exported
from ivt_jax.convert.hub import SCHEME, fetch
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


def load(path: str | Path, step: int | None = None) -> Retriever:
    """Loads a run folder, or a folder that `python -m ivt_jax export --to=pytorch` wrote.

    Args:
      path: the --workdir of a training run, an exported folder, or "hf://USER/NAME@COMMIT" for
        one on the Hugging Face hub. An exported model computes in float32.
      step: the checkpoint of a run; None = the best by its validation score, else the newest.

    Raises:
      UserError: no run there, no such step, or parameters that do not fit its configuration.
    """
    folder = fetch(str(path)) if str(path).startswith(SCHEME) else Path(path)
    read = _read_exported if (folder / WEIGHTS).is_file() else _read_run
    config, step, params = read(folder, step)
    graphdef, _ = split_model(IVTConfig(**config.model))
    mesh = make_mesh(data=-1, fsdp=1)
    params = jax.device_put(params, NamedSharding(mesh, REPLICATED))
    encoders = make_encoders(graphdef, mesh)
    return Retriever(config, step, params, encoders, load_tokenizer(folder / "vocab.txt"))


def _read_run(run: Path, step: int | None) -> tuple[ConfigDict, int, dict]:
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
        return image
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    return decode(Path(image).read_bytes(), key=str(image))
