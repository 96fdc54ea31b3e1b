"""`ivt_jax.load`: a trained model that turns photos and sentences into embeddings."""

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding
from ml_collections import ConfigDict
from PIL import Image

from configs import base
from ivt_jax import aot
from ivt_jax.convert.folder import SIZES
from ivt_jax.data.images import decode, evaluation_image
from ivt_jax.data.texts import Tokenizer, load_tokenizer
from ivt_jax.dtypes import DTYPES
from ivt_jax.errors import UserError
from ivt_jax.model.precision import Int8
from ivt_jax.retrieval.encoding import (
    Encoders,
    encode_images,
    encode_texts,
    truncation_note,
)
from ivt_jax.training.sharding import REPLICATED, make_mesh


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
    def dtype(self) -> str:
        """How it is held and computes: one of "float32", "bfloat16", "int8", "int8_dynamic"."""
        kernel = self.params["blocks"]["attention"]["qkv"]["kernel"]
        if isinstance(kernel, Int8):
            return "int8_dynamic" if kernel.tokens == "int8" else "int8"
        return self.config.model.dtype

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
    path: str | Path,
    step: int | None = None,
    *,
    vocabulary: str | Path | None = None,
    dtype: str = "",
) -> Retriever:
    """Loads a run, a folder that `python -m ivt_jax export` wrote, or official IVT weights.

    Args:
      path: the --workdir of a training run, an exported folder, "hf://USER/NAME@COMMIT" for one on
        the Hugging Face hub, or a .safetensors or .pth file of official weights. What was exported
        with --to=jax starts without tracing the model.
      step: the checkpoint of a run; None = the best by its validation score, else the newest.
      vocabulary: of official weights, a WordPiece vocab.txt; None = the one beside the file.
      dtype: "float32" | "bfloat16" | "int8" | "int8_dynamic", which docs/inference.md compares;
        "" = that of the run or of the export.

    Raises:
      UserError: no run there, no such step, a file that cannot be read safely, parameters or a
        vocabulary that do not fit, or an unknown dtype; nothing but JSON, tensors and programs
        that stay inside XLA is read.
    """
    if dtype not in ("", *DTYPES):
        raise UserError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    folder = Path(path)
    if (folder / aot.PROGRAMS[0]).is_file():
        model = _load_programs(folder, step, dtype)
    else:
        from ivt_jax import sources  # with the model's code, which programs do without

        source = sources.held(sources.read(path, step, vocabulary), dtype)
        mesh = make_mesh(data=-1, fsdp=1)
        params = jax.device_put(source.params, NamedSharding(mesh, REPLICATED))
        encoders = sources.encoders_of(source.config, mesh, dtype=dtype)
        model = Retriever(source.config, source.step, params, encoders, source.tokenizer)
    tokens, rows = model.tokenizer.size, model.config.model.vocabulary_size
    if tokens > rows:  # the features of a word beyond the table would not be numbers
        raise UserError(
            f"the vocabulary {model.tokenizer.path} has {tokens} tokens, more than the {rows} rows "
            f"of the word table in {path}"
        )
    place = str(path) if str(path).startswith("hf://") else str(folder.resolve())
    return dataclasses.replace(model, path=place)


def _load_programs(folder: Path, step: int | None, dtype: str) -> Retriever:
    facts, weights, programs = aot.read_programs(folder)
    if step not in (None, facts["step"]):
        raise UserError(f"{folder} holds step {facts['step']} and no other, so not {step}")
    if dtype not in ("", facts["dtype"]):
        raise UserError(
            f"{folder} was exported in {facts['dtype']}, and its programs cannot compute in "
            f"{dtype}. Export the run again with --dtype={dtype}"
        )
    config = base.get_config()
    config.model.update({name: facts[name] for name in SIZES})
    config.model.image_size = tuple(facts["image_size"])
    config.model.dtype = facts["computation"]
    config.data.update(text_length=facts["text_length"], separator=facts["separator"])
    params = aot.nested(weights, tokens="int8" if facts["dtype"] == "int8_dynamic" else "float")
    mesh = make_mesh(data=-1, fsdp=1)
    params = jax.device_put(params, NamedSharding(mesh, REPLICATED))
    encoders = aot.program_encoders(programs, mesh, dtype=facts["dtype"])
    return Retriever(config, facts["step"], params, encoders, load_tokenizer(folder / "vocab.txt"))


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
