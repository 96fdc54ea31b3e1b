"""Models of Hugging Face with random weights, and copies under timm's and Google's names."""

from typing import Any

import numpy as np
import pytest

from ivt_jax.model.ivt import IVTConfig

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

WIDTH, DEPTH, HEADS, WORDS, PLACES = 64, 2, 4, 40, 20
CONFIG = IVTConfig(
    image_size=(64, 64),
    width=WIDTH,
    depth=DEPTH,
    heads=HEADS,
    vocabulary_size=WORDS,
    max_text_positions=PLACES,
    layers="unroll",
)
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(WORDS - 5))]


def hugging_face(kind: str, **sizes):
    """A ViT or BERT of the library with random, non-trivial parameters."""
    sizes = {
        "hidden_size": WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "intermediate_size": 4 * WIDTH,
        "attn_implementation": "eager",
        **sizes,
    }
    if kind == "vit":
        config = transformers.ViTConfig(**{"image_size": 64, "layer_norm_eps": 1e-6, **sizes})
        model = transformers.ViTModel(config)
    else:
        config = {"vocab_size": WORDS, "max_position_embeddings": PLACES, **sizes}
        model = transformers.BertModel(transformers.BertConfig(**config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def as_timm(model) -> dict[str, np.ndarray]:
    """timm's names, written from the library's modules and not from any table."""
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    found = {
        "cls_token": state["embeddings.cls_token"],
        "pos_embed": state["embeddings.position_embeddings"],
        "head.weight": np.zeros((10, WIDTH), np.float32),
        "head.bias": np.zeros(10, np.float32),
    }
    for part in ("weight", "bias"):
        found[f"patch_embed.proj.{part}"] = state[f"embeddings.patch_embeddings.projection.{part}"]
        found[f"norm.{part}"] = state[f"layernorm.{part}"]
        for index, layer in enumerate(model.layers):
            block = {
                "norm1": layer.layernorm_before,
                "norm2": layer.layernorm_after,
                "attn.proj": layer.attention.o_proj,
                "mlp.fc1": layer.mlp.fc1,
                "mlp.fc2": layer.mlp.fc2,
            }
            for name, module in block.items():
                found[f"blocks.{index}.{name}.{part}"] = getattr(module, part).detach().numpy()
            attention = layer.attention
            found[f"blocks.{index}.attn.qkv.{part}"] = np.concatenate(
                [
                    getattr(module, part).detach().numpy()
                    for module in (attention.q_proj, attention.k_proj, attention.v_proj)
                ]
            )
    return found


def as_google(timm: dict[str, np.ndarray]) -> dict[str, Any]:
    """Google's names and Flax layouts of the same numbers."""
    found = {
        "cls": timm["cls_token"],
        "embedding/kernel": timm["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": timm["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": timm["pos_embed"],
        "Transformer/encoder_norm/scale": timm["norm.weight"],
        "Transformer/encoder_norm/bias": timm["norm.bias"],
        "head/kernel": timm["head.weight"].T,
        "head/bias": timm["head.bias"],
    }
    for index in range(DEPTH):
        block, ours = f"Transformer/encoderblock_{index}", f"blocks.{index}"
        for norm, name in (("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")):
            found[f"{block}/{norm}/scale"] = timm[f"{ours}.{name}.weight"]
            found[f"{block}/{norm}/bias"] = timm[f"{ours}.{name}.bias"]
        for number in (0, 1):
            dense, name = f"{block}/MlpBlock_3/Dense_{number}", f"{ours}.mlp.fc{number + 1}"
            found[f"{dense}/kernel"] = timm[f"{name}.weight"].T
            found[f"{dense}/bias"] = timm[f"{name}.bias"]
        attention = f"{block}/MultiHeadDotProductAttention_1"
        shape = (HEADS, WIDTH // HEADS)
        parts = zip(
            ("query", "key", "value"),
            np.split(timm[f"{ours}.attn.qkv.weight"], 3),
            np.split(timm[f"{ours}.attn.qkv.bias"], 3),
            strict=True,
        )
        for name, weight, bias in parts:
            found[f"{attention}/{name}/kernel"] = weight.T.reshape(WIDTH, *shape)
            found[f"{attention}/{name}/bias"] = bias.reshape(shape)
        found[f"{attention}/out/kernel"] = timm[f"{ours}.attn.proj.weight"].T.reshape(*shape, WIDTH)
        found[f"{attention}/out/bias"] = timm[f"{ours}.attn.proj.bias"]
    return found
