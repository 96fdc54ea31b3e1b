"""IVT in PyTorch: one transformer turns person photos and sentences into comparable embeddings.

Needs torch and safetensors. `IVTModel.from_pretrained(folder)` reads the folder this file lies in,
and where huggingface_hub is installed `from_pretrained("USER/NAME", revision=COMMIT)` the hub;
where transformers is installed the same classes also serve its AutoModel. For inference: the
dropout and the token masking of training are not here. Letters: B batch, T tokens, D width.
"""

import hashlib
import json
import re
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

try:
    from transformers import PreTrainedConfig, PreTrainedModel  # pyright: ignore
except ImportError:
    try:
        from huggingface_hub import PyTorchModelHubMixin, snapshot_download
    except ImportError:
        snapshot_download = None

        class PyTorchModelHubMixin:  # pyright: ignore
            """Stands in for the class of huggingface_hub: reads a folder, knows no hub."""

            @classmethod
            def from_pretrained(cls, folder):
                """The model of a folder, ready to encode."""
                return cls._from_pretrained(model_id=folder)  # pyright: ignore

    class PreTrainedConfig:
        """Stands in for the class of transformers: a bag of values."""

        def __init__(self, **others):
            vars(self).update(others)

    class PreTrainedModel(nn.Module, PyTorchModelHubMixin):
        """Stands in for the class of transformers: reads a folder, or one commit of the hub."""

        folder = Path(__file__).parent

        def __init__(self, config):
            super().__init__()
            self.config = config

        def post_init(self):
            """Does what transformers asks a model to call, which is nothing here."""

        @classmethod
        def _from_pretrained(cls, *, model_id, revision=None, config=None, **download):
            # The config passed in is unchecked; the one beside the weights is read below.
            from safetensors.torch import load_file

            folder = Path(model_id)
            if not folder.is_dir():
                folder = _fetch(str(model_id), revision, **download)
            _check_sums(folder)
            model = cls(IVTConfig(**json.loads((folder / "config.json").read_text("utf-8"))))
            model.load_state_dict(load_file(folder / "model.safetensors"))
            model.folder = folder
            return model.eval()

        def _save_pretrained(self, save_directory):
            super()._save_pretrained(save_directory)  # pyright: ignore
            for file in self.folder.iterdir():  # code, vocabulary, card
                if file.is_file() and file.name not in DATA:
                    shutil.copy(file, save_directory)

        def push_to_hub(self, repo_id, *, private=True, **options):
            """Uploads the model with the other files of its folder; private unless asked."""
            return super().push_to_hub(repo_id, private=private, **options)  # pyright: ignore


DATA = ("config.json", "model.safetensors", "SHA256SUMS")


def _fetch(repository, revision, **download):
    if snapshot_download is None or not re.fullmatch("[0-9a-f]{40}", revision or ""):
        raise ValueError(
            f"there is no folder {repository}; a model of the hub is named with its commit, "
            'from_pretrained("USER/NAME", revision="the 40 digits"), and needs huggingface_hub'
        )
    files = snapshot_download(repository, revision=revision, allow_patterns=list(DATA), **download)
    return Path(files)


def _check_sums(folder):
    if not (folder / "SHA256SUMS").is_file():
        return
    lines = (folder / "SHA256SUMS").read_text("utf-8").splitlines()
    for name in DATA[:2]:
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if f"{digest}  {name}" not in lines:
            raise ValueError(f"{folder / name} is not the file that SHA256SUMS lists")


class IVTConfig(PreTrainedConfig):
    """Sizes of an IVT: pixels for the images, tokens for the texts."""

    model_type = "ivt"

    def __init__(
        self,
        image_size=(384, 128),
        patch_size=16,
        patch_stride=16,
        width=768,
        depth=12,
        heads=12,
        mlp_ratio=4,
        vocabulary_size=30522,
        max_text_positions=512,
        text_length=100,
        **others,
    ):
        self.image_size = tuple(image_size)  # height, width
        self.patch_size = patch_size
        self.patch_stride = patch_stride
        self.width = width
        self.depth = depth
        self.heads = heads
        self.mlp_ratio = mlp_ratio
        self.vocabulary_size = vocabulary_size
        self.max_text_positions = max_text_positions
        self.text_length = text_length  # longer captions were cut in training
        super().__init__(**others)


class Attention(nn.Module):
    """Multi-head self-attention; both modalities share it."""

    def __init__(self, config):
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.projection = nn.Linear(config.width, config.width)

    def forward(self, tokens, mask):
        """(B, T, D), real tokens (B, T) bool or None -> (B, T, D)."""
        rows, count, width = tokens.shape
        qkv = self.qkv(tokens).view(rows, count, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, T, D / heads)
        keys = None if mask is None else mask[:, None, None, :]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=keys)
        return self.projection(mixed.transpose(1, 2).reshape(rows, count, width))


class Mlp(nn.Module):
    """Two layers with the exact GELU; each modality has its own."""

    def __init__(self, config):
        super().__init__()
        self.up = nn.Linear(config.width, config.mlp_ratio * config.width)
        self.down = nn.Linear(config.mlp_ratio * config.width, config.width)

    def forward(self, tokens):
        """(B, T, D) -> (B, T, D)."""
        return self.down(F.gelu(self.up(tokens)))


class Block(nn.Module):
    """Pre-norm block: shared attention, then the MLP of the modality."""

    def __init__(self, config):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=1e-6)
        self.attention = Attention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp_image = Mlp(config)
        self.mlp_text = Mlp(config)

    def forward(self, tokens, mask, modality):
        """(B, T, D) -> (B, T, D); `modality` is "image" or "text"."""
        mlp = self.mlp_image if modality == "image" else self.mlp_text
        tokens = tokens + self.attention(self.norm1(tokens), mask)
        return tokens + mlp(self.norm2(tokens))


class IVTModel(PreTrainedModel):
    """The encoder; features are the class token after the last norm."""

    config_class = IVTConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    _no_split_modules = ["Block"]

    def __init__(self, config):
        super().__init__(config)
        width, patch, stride = config.width, config.patch_size, config.patch_stride
        rows, columns = ((size - patch) // stride + 1 for size in config.image_size)
        self.patch = nn.Conv2d(3, width, patch, stride)
        self.class_token = nn.Parameter(torch.zeros(width))
        self.image_positions = nn.Parameter(torch.zeros(rows * columns + 1, width))
        self.image_types = nn.Parameter(torch.zeros(rows * columns + 1, width))
        self.word_table = nn.Parameter(torch.zeros(config.vocabulary_size, width))
        self.position_table = nn.Parameter(torch.zeros(config.max_text_positions, width))
        self.type_table = nn.Parameter(torch.zeros(2, width))
        self.text_norm = nn.LayerNorm(width, eps=1e-12)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.post_init()

    def image_features(self, pixel_values):
        """Float images (B, 3, H, W) in [-1, 1] -> features (B, D), not normalised."""
        patches = self.patch(pixel_values).flatten(2).transpose(1, 2)  # (B, T - 1, D)
        class_token = self.class_token.expand(patches.shape[0], 1, -1)
        tokens = torch.cat([class_token, patches], dim=1)
        return self._encode(tokens + self.image_positions + self.image_types, None, "image")

    def text_features(self, input_ids, attention_mask):
        """Token ids (B, T), real tokens (B, T) -> features (B, D), not normalised."""
        tokens = F.embedding(input_ids, self.word_table)
        tokens = tokens + self.position_table[: input_ids.shape[1]] + self.type_table[0]
        return self._encode(self.text_norm(tokens), attention_mask.bool(), "text")

    def forward(self, pixel_values=None, input_ids=None, attention_mask=None):
        """L2-normalised embeddings (B, D) of what is given: "image_embeds", "text_embeds".

        Their dot product is the similarity of a photo and a sentence. Without an attention mask
        every token counts, padding too.
        """
        found = {}
        if pixel_values is not None:
            found["image_embeds"] = F.normalize(self.image_features(pixel_values), dim=-1)
        if input_ids is not None:
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            found["text_embeds"] = F.normalize(self.text_features(input_ids, mask), dim=-1)
        return found

    def _encode(self, tokens, mask, modality):
        for block in self.blocks:
            tokens = block(tokens, mask, modality)
        return self.norm(tokens[:, 0])
