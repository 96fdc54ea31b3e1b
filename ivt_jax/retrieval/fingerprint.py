"""Tells models apart: two with one fingerprint give the same embeddings."""

import hashlib
import json

import jax
import numpy as np

from ivt_jax.inference import Retriever
from ivt_jax.training.sharding import path_name

# The fields of config.model that change embeddings; others decide how they are computed or learned.
_SIZES = ("image_size", "patch_size", "patch_stride", "width", "depth", "heads", "mlp_ratio")
_SIZES += ("vocabulary_size", "max_text_positions", "dtype")


def fingerprint(model: Retriever) -> str:
    """32 hex digits of the SHA-256 over weights, sizes, vocabulary and the reading of texts."""
    config = model.config
    facts = {name: config.model[name] for name in _SIZES}
    facts["image_size"] = list(facts["image_size"])
    facts |= {"text_length": config.data.text_length, "separator": config.data.separator}
    if model.dtype.startswith("int8"):
        facts["held"] = model.dtype
    facts["vocabulary"] = model.tokenizer.sha256
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    leaves = jax.tree_util.tree_leaves_with_path(model.params)
    for path, leaf in sorted(leaves, key=lambda pair: path_name(pair[0])):
        value = np.ascontiguousarray(jax.device_get(leaf))
        digest.update(f"{path_name(path)} {value.dtype} {value.shape}".encode())
        digest.update(value.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:32]
