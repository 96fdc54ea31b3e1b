"""The PyTorch side: the exported module, trained and evaluated the way the official code does.

Written from a description of that code: unfused attention, all three texts of a pair padded to
the longest text of the batch, a random share of at most 0.2 of the tokens removed, stochastic
depth, SGD with twice the rate for biases, each test image encoded once for every caption.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks.bench_case import plain_pairs, read_batch

OFFICIAL = {"drop_path": 0.1, "dropout": 0.1, "share": 0.2}
BATCH = 64  # of the official evaluation
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Twin:
    """The exported PyTorch module with what training adds to it.

    Args:
      attention: "plain" = products and a softmax, as the official code; "sdpa" = fused.
      dtype: "float32", or "bfloat16" for autocast; parameters are float32.
    """

    def __init__(self, folder: Path, *, attention: str, dtype: str):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = _module(folder).IVTModel.from_pretrained(str(folder)).to(self.device)
        self.attention, self.dtype = attention, _DTYPES[dtype]
        if attention == "plain":
            for block in self.model.blocks:
                block.attention.forward = functools.partial(_plain_attention, block.attention)
        self.rates = {"drop_path": 0.0, "dropout": 0.0, "share": 0.0}

    def autocast(self):
        """The context of a computation in the chosen dtype."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (B, H, W, 3) -> (B, D)."""
        model = self.model
        pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1
        patches = model.patch(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([model.class_token.expand(len(patches), 1, -1), patches], dim=1)
        tokens = tokens + model.image_positions + model.image_types
        return self._encode(*self._dropped(tokens, None), "image")

    def text_features(self, token_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Token ids (B, L), real tokens (B, L) bool -> (B, D)."""
        model = self.model
        tokens = F.embedding(token_ids, model.word_table)
        tokens = tokens + model.position_table[: token_ids.shape[1]] + model.type_table[0]
        tokens = F.dropout(model.text_norm(tokens), self.rates["dropout"])
        return self._encode(*self._dropped(tokens, mask), "text")

    def _dropped(self, tokens, mask):
        """Removes as many random tokens as a draw says, the same for all samples."""
        count = tokens.shape[1]
        most = int(self.rates["share"] * count)
        if not most:
            return tokens, mask
        places = random.sample(range(1, count), count - 1)[random.randint(0, most) :]
        kept = torch.tensor([0, *places], device=tokens.device)
        return tokens[:, kept], None if mask is None else mask[:, kept]

    def _encode(self, tokens, mask, modality: str):
        blocks = self.model.blocks
        for number, block in enumerate(blocks):
            rate = self.rates["drop_path"] * number / max(len(blocks) - 1, 1)
            mlp = block.mlp_image if modality == "image" else block.mlp_text
            tokens = tokens + _drop_path(block.attention(block.norm1(tokens), mask), rate)
            tokens = tokens + _drop_path(mlp(block.norm2(tokens)), rate)
        return self.model.norm(tokens)[:, 0]


def _module(folder: Path):
    """modeling_ivt.py of an exported folder."""
    spec = importlib.util.spec_from_file_location("modeling_ivt", folder / "modeling_ivt.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["modeling_ivt"] = module
    spec.loader.exec_module(module)
    return module


def _plain_attention(attention, tokens, mask):
    rows, count, width = tokens.shape
    qkv = attention.qkv(tokens).view(rows, count, 3, attention.heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = qkv[0], qkv[1], qkv[2]
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores + (~mask[:, None, None, :]) * -10000.0
    mixed = scores.softmax(dim=-1).to(value.dtype) @ value
    return attention.projection(mixed.transpose(1, 2).reshape(rows, count, width))


def _drop_path(branch, rate: float):
    if not rate:
        return branch
    kept = torch.rand(len(branch), 1, 1, device=branch.device) < 1 - rate
    return branch * kept / (1 - rate)


def cmpm(image, text, identities, epsilon: float = 1e-8):
    """CMPM with the other side normalised and L2-normalised targets (official code)."""
    match = (identities[:, None] == identities[None]).float()
    target = torch.log(match / match.norm(dim=1, keepdim=True) + epsilon)
    total = 0.0
    for one, other in ((image, text), (text, image)):
        logits = one @ F.normalize(other, dim=1).T
        log_probability = F.log_softmax(logits.float(), dim=1)
        total = total + (log_probability.exp() * (log_probability - target)).sum(1).mean()
    return total


def functions(folder: Path, spec: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Everything that is timed, by name; each call returns when the device is done.

    spec: "attention" "plain" | "sdpa", "dtype"; and if need be "rows" of the batch, "views" in a
    step, "compile" true, "official", what training adds.
    """
    twin = Twin(folder, attention=spec["attention"], dtype=spec["dtype"])
    if spec.get("compile"):
        twin.image_features = torch.compile(twin.image_features)
        twin.text_features = torch.compile(twin.text_features)
    batch = read_batch(folder, rows=spec.get("rows", 0))
    pairs = _tensors(twin, plain_pairs(batch))

    def encoded(which: str):
        with torch.inference_mode(), twin.autocast():
            if which == "images":
                found = twin.image_features(pairs["images"])
            else:
                found = twin.text_features(pairs["token_ids"], pairs["token_mask"])
        return done(twin, {which: F.normalize(found.float(), dim=1)})

    return {
        "images": lambda: encoded("images"),
        "captions": lambda: encoded("captions"),
        "step": _step(twin, batch, spec.get("official", OFFICIAL), views=spec.get("views", 3)),
        "encode": functools.partial(_encode_files, twin, folder),
    }


def _step(
    twin: Twin, batch: dict[str, np.ndarray], rates: dict[str, float], *, views: int
) -> Callable:
    """A step: the last `views` images and texts of a pair in one pass, CMPM over all, SGD."""
    flat = {
        name: value[:, -views:].reshape(-1, *value.shape[2:])
        for name, value in batch.items()
        if value.ndim > 1
    }
    flat["identities"] = np.repeat(batch["identities"], views)
    longest = int(flat["token_mask"].sum(axis=1).max())
    for name in ("token_ids", "token_mask"):
        flat[name] = flat[name][:, :longest]
    groups: dict[bool, list] = {False: [], True: []}
    for name, parameter in twin.model.named_parameters():
        groups["bias" in name].append(parameter)
    rate = 5e-5  # of the first official epoch
    optimizer = torch.optim.SGD(
        [{"params": groups[False], "lr": rate}, {"params": groups[True], "lr": 2 * rate}],
        lr=rate,
        momentum=0.9,
        weight_decay=1e-4,
    )

    def step():
        twin.rates = rates
        tensors = _tensors(twin, flat)
        optimizer.zero_grad()
        with twin.autocast():
            image = twin.image_features(tensors["images"])
            text = twin.text_features(tensors["token_ids"], tensors["token_mask"])
            loss = cmpm(image, text, tensors["identities"])
        loss.backward()
        optimizer.step()
        twin.rates = dict.fromkeys(rates, 0.0)
        return done(twin, {"loss": loss.detach()})

    return step


def _encode_files(twin: Twin, folder: Path) -> dict[str, np.ndarray]:
    """A test set from files, in batches of captions: each with its photo, so photos repeat."""
    from tokenizers import Tokenizer

    split = json.loads((folder / "captions.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    height, width = twin.model.config.image_size
    found: dict[str, list] = {"images": [], "captions": []}
    for start in range(0, len(split["captions"]), BATCH):
        rows = slice(start, start + BATCH)
        photos = []
        for number in split["photos"][rows]:
            with Image.open(folder / f"{number}.jpg") as photo:
                photo = photo.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
                photos.append(np.asarray(photo))
        tokens = tokenizer.encode_batch(split["captions"][rows])  # padded to the longest
        arrays = {
            "images": np.stack(photos),
            "token_ids": np.array([row.ids for row in tokens]),
            "token_mask": np.array([row.attention_mask for row in tokens], bool),
        }
        tensors = _tensors(twin, arrays)
        with torch.inference_mode(), twin.autocast():
            images = twin.image_features(tensors["images"])
            texts = twin.text_features(tensors["token_ids"], tensors["token_mask"])
        found["images"].append(F.normalize(images.float(), dim=1).cpu())
        found["captions"].append(F.normalize(texts.float(), dim=1).cpu())
    return {name: torch.cat(parts).numpy() for name, parts in found.items()}


def _tensors(twin: Twin, arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(x).to(twin.device) for name, x in arrays.items()}


def done(twin: Twin, found: dict) -> dict:
    """The tensors, computed."""
    if twin.device.type == "cuda":
        torch.cuda.synchronize()
    return found


def matrix_rate(dtype: str, size: int) -> Callable[[], float]:
    """A function that multiplies two square matrices; its result is the FLOPs of one call."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Random values: zeros cost less power, so a product of them runs too fast.
    left, right = (torch.randn(size, size, device=device).to(_DTYPES[dtype]) for _ in range(2))

    def product() -> float:
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        return 2.0 * size**3

    return product


def machine() -> dict[str, Any]:
    """Versions and the device, for the report."""
    cuda = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if cuda else "cpu"
    return {"torch": torch.__version__, "device": name, "threads": torch.get_num_threads()}


def peak_memory() -> int | None:
    """Bytes allocated on the accelerator at most; None on a CPU."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def release() -> None:
    """Gives cached memory of the accelerator back, for the next contestant."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
