"""IVT: one transformer for images and texts (paper section 3.2).

LayerNorms and attention are shared, each modality has its own MLP in every block. Modules
hold parameters and nothing else: randomness comes in as a key, and `key=None` means
deterministic. Letters: B batch, N image tokens, L text tokens, T either, D width, H heads.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ivt_jax.model.attention import attend
from ivt_jax.model.precision import Int8
from ivt_jax.model.products import apart, dense, gelu_dense, normalised
from ivt_jax.training.sharding import batch_sharded, gathered

_table = jax.nn.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IVTConfig:
    """Sizes and computation of an IVT; the fields of `config.model`, documented in configs/base.py.

    A run names every field; the defaults here serve conversion and tests, which are
    deterministic and in float32. Raises ValueError when heads do not divide the width, a patch
    does not fit the image, or the width does not suit the position tables.
    """

    image_size: tuple[int, int] = (384, 128)
    patch_size: int = 16
    patch_stride: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: int = 4
    vocabulary_size: int = 30522
    max_text_positions: int = 512
    drop_path: float = 0.0
    text_dropout: float = 0.0
    kernel_deviation: float = 0.02
    position_init: str = "normal"
    dtype: str = "float32"
    attention: str = "auto"
    layers: str = "scan"
    remat: str = "none"

    def __post_init__(self):
        object.__setattr__(self, "image_size", tuple(self.image_size))
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} must divide width={self.width}")
        if min(self.image_size) < self.patch_size:
            raise ValueError(f"a patch of {self.patch_size} does not fit in {self.image_size}")
        if self.position_init == "sincos" and self.width % 4:
            raise ValueError(f'"sincos" needs a width divisible by 4, not {self.width}')

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across: (size - patch) // stride + 1, as the official code counts."""
        rows, columns = ((s - self.patch_size) // self.patch_stride + 1 for s in self.image_size)
        return rows, columns

    @property
    def image_tokens(self) -> int:
        """N: the patches and the class token."""
        return self.grid[0] * self.grid[1] + 1


class Views(NamedTuple):
    """Which views of a batch some rows are, and the length of all texts, 0 = theirs.

    What is random is drawn for the whole batch, so that it does not depend on how it is encoded.
    """

    every: int = 1
    own: tuple[int, ...] = (0,)
    length: int = 0

    def of(self, rows):
        """Rows (B * every, ...), view by view within a sample -> those of the own views."""
        if len(self.own) == self.every:
            return rows
        rows = rows.reshape(-1, self.every, *rows.shape[1:])[:, np.array(self.own)]
        return rows.reshape(-1, *rows.shape[2:])

    def kept(self, key, share, rows: int, *shape: int):
        """True with probability `share`: (rows, *shape), for so many own rows."""
        drawn = (rows // len(self.own) * self.every, *shape)
        return self.of(jax.random.bernoulli(key, share, drawn))


_ALL = Views()


class Part(NamedTuple):
    """Tokens (B, T, D) that pass the blocks beside others; the fields are arguments of `encode`."""

    tokens: jax.Array
    mask: jax.Array | None
    modality: str
    key: jax.Array | None = None
    views: Views = _ALL


class Attention(nnx.Module):
    """Multi-head self-attention; both modalities share it."""

    def __init__(self, config: IVTConfig, *, rngs: nnx.Rngs):
        self.heads, self.kernel = config.heads, config.attention
        self.qkv = _linear(config, config.width, 3 * config.width, rngs)
        self.projection = _linear(config, config.width, config.width, rngs)

    def __call__(self, tokens, mask, *, queries: int | None = None):
        """(B, T, D), keys to attend to as `attend` takes them -> (B, T or queries, D)."""
        (kernel, bias), width = _parameters(self.qkv), tokens.shape[-1]
        split = "b t (s h d) -> s b h t d"
        if queries is None:
            together = dense(tokens, kernel, bias)
            query, key, value = apart(einops.rearrange(together, split, s=3, h=self.heads))
        else:
            first = dense(tokens[:, :queries], kernel[:, :width], bias[:width])
            rest = dense(tokens, kernel[:, width:], bias[width:])
            (query,) = einops.rearrange(first, split, s=1, h=self.heads)
            key, value = apart(einops.rearrange(rest, split, s=2, h=self.heads))
        mixed = attend(query, key, value, mask, kernel=self.kernel)  # (B, H, T, D/H)
        mixed = einops.rearrange(mixed, "b h q d -> b q (h d)")
        return dense(mixed, *_parameters(self.projection))


class Mlp(nnx.Module):
    """Two layers with the exact GELU; each modality has its own."""

    def __init__(self, config: IVTConfig, *, rngs: nnx.Rngs):
        hidden = config.width * config.mlp_ratio
        self.up = _linear(config, config.width, hidden, rngs)
        self.down = _linear(config, hidden, config.width, rngs)

    def __call__(self, tokens):
        """(B, T, D) -> (B, T, D)."""
        hidden = dense(tokens, *_parameters(self.up))
        return gelu_dense(hidden, *_parameters(self.down))


class Block(nnx.Module):
    """Pre-norm block (paper Eq. 3 and 4): shared attention, then the modality's own MLP."""

    def __init__(self, config: IVTConfig, *, rngs: nnx.Rngs):
        self.norm1 = _norm(config, rngs)
        self.attention = Attention(config, rngs=rngs)
        self.norm2 = _norm(config, rngs)
        self.mlp_image = Mlp(config, rngs=rngs)
        self.mlp_text = Mlp(config, rngs=rngs)

    def __call__(
        self, tokens, mask, *, modality: str, key=None, drop_rate=0.0, queries=None, views=_ALL
    ):
        """(B, T, D) -> (B, T or queries, D); a branch is dropped for a sample at `drop_rate`."""
        keys = (None, None) if key is None else jax.random.split(key)
        mlp = {"image": self.mlp_image, "text": self.mlp_text}[modality]
        mixed = self.attention(_norm_of(self.norm1, tokens), mask, queries=queries)
        tokens = tokens[:, :queries] + _drop_path(mixed, keys[0], drop_rate, views)
        return tokens + _drop_path(mlp(_norm_of(self.norm2, tokens)), keys[1], drop_rate, views)


class IVT(nnx.Module):
    """The unified visual-textual network: two embeddings, one stack of blocks, one final norm."""

    def __init__(self, config: IVTConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, patch = config.width, config.patch_size
        self.patch = nnx.Linear(
            patch * patch * 3,
            width,
            # He initialisation by fan-out, as the official convolution has it.
            kernel_init=jax.nn.initializers.normal((2 / (patch * patch * width)) ** 0.5),
            dtype=jnp.dtype(config.dtype),
            rngs=rngs,
        )
        self.class_token = nnx.Param(_table(rngs.params(), (width,)))
        image_positions, text_positions = _positions(config, rngs.params())
        self.image_positions = nnx.Param(image_positions)
        # One type vector for EACH position: the published parameter count needs it.
        self.image_types = nnx.Param(_table(rngs.params(), (config.image_tokens, width)))
        self.word_table = nnx.Param(_table(rngs.params(), (config.vocabulary_size, width)))
        self.position_table = nnx.Param(text_positions)
        self.type_table = nnx.Param(_table(rngs.params(), (2, width)))
        self.text_norm = nnx.LayerNorm(width, epsilon=1e-12, use_fast_variance=False, rngs=rngs)
        block_keys = jax.random.split(rngs.params(), config.depth)
        self.blocks = jax.vmap(lambda key: Block(config, rngs=nnx.Rngs(key)))(block_keys)
        self.norm = nnx.LayerNorm(width, epsilon=1e-6, use_fast_variance=False, rngs=rngs)

    def embed_image(self, images) -> jax.Array:
        """Normalised images (B, H, W, 3) -> tokens (B, N, D), the class token first (Eq. 1)."""
        tokens = self._patches(images.astype(self.config.dtype))  # (B, N - 1, D)
        first = (images.shape[0], 1, self.config.width)  # len() would need a known number
        class_token = jnp.broadcast_to(self.class_token[...], first)
        places = self.image_positions[...] + self.image_types[...]
        tokens = jnp.concatenate([class_token.astype(tokens.dtype), tokens], axis=1)
        return batch_sharded(tokens + places.astype(tokens.dtype))

    def _patches(self, images):
        size, stride = self.config.patch_size, self.config.patch_stride
        kernel, bias = _parameters(self.patch)
        if size != stride:
            kernel = gathered(kernel.astype(images.dtype))
            kernel = einops.rearrange(kernel, "(p q c) d -> p q c d", p=size, q=size)
            maps = jax.lax.conv_general_dilated(
                images,
                kernel,
                (stride, stride),
                "VALID",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            return einops.rearrange(maps, "b y x d -> b (y x) d") + bias.astype(maps.dtype)
        rows, columns = self.config.grid
        images = images[:, : rows * size, : columns * size]
        windows = einops.rearrange(images, "b (y p) (x q) c -> b (y x) (p q c)", p=size, q=size)
        return dense(windows, kernel, bias)

    def embed_text(self, token_ids, *, key=None, views: Views = _ALL) -> jax.Array:
        """Token ids (B, L) int -> tokens (B, L, D); the text's class token is its [CLS] word.

        Word, position and type (row 0) tables are added, normalised (epsilon 1e-12) and dropped
        out, as BERT does and the official code keeps. ValueError if L exceeds the position table.
        """
        length = token_ids.shape[1]
        if length > self.config.max_text_positions:
            raise ValueError(
                f"a text of {length} tokens exceeds max_text_positions="
                f"{self.config.max_text_positions}"
            )
        words, positions = gathered((self.word_table[...], self.position_table[...]))
        rounded = isinstance(words, Int8)
        rows = words.rows(token_ids) if rounded else jnp.take(words, token_ids, axis=0)
        tokens = rows + positions[:length] + self.type_table[0]
        tokens = _norm_of(self.text_norm, tokens)  # (B, L, D)
        if key is not None and self.config.text_dropout:
            share, shape = 1 - self.config.text_dropout, (views.length or length, tokens.shape[-1])
            kept = views.kept(key, share, len(tokens), *shape)[:, :length]
            tokens = jnp.where(kept, tokens / share, 0)
        return batch_sharded(tokens.astype(self.config.dtype))

    def encode(self, tokens, mask=None, *, modality: str, key=None, output: str = "class"):
        """Runs the blocks and the final norm.

        Args:
          tokens: (B, T, D) from `embed_image` or `embed_text`, possibly with tokens dropped.
          mask: the tokens that may be attended to, as `attend` takes it; None = all.
          modality: "image" | "text", which MLP the blocks use.
          key: randomness of stochastic depth; None = deterministic.
          output: "class" -> features (B, D); "tokens" -> all tokens (B, T, D). Float32 both.
        """
        part = Part(tokens, mask, modality, key)
        return self.encode_together([part], output=output)[0]

    def encode_together(self, parts: Sequence[Part], *, output: str = "class") -> list[jax.Array]:
        """What `encode` gives for each part, in one pass: every block's weights are fetched once.

        On several devices their gradients are also summed up once, not once a part.
        """
        run = self._scan if self.config.layers == "scan" else self._unroll
        found = run(parts, output)
        if output == "class":
            found = [tokens[:, 0] for tokens in found]
        return [_norm_of(self.norm, tokens.astype(jnp.float32)) for tokens in found]

    def image_features(self, images, *, key=None) -> jax.Array:
        """Normalised images (B, H, W, 3) -> features (B, D) float32, not L2-normalised."""
        return self.encode(self.embed_image(images), modality="image", key=key)

    def text_features(self, token_ids, token_mask, *, key=None) -> jax.Array:
        """Token ids (B, L), real tokens (B, L) bool -> features (B, D) float32, not normalised."""
        keys = (None, None) if key is None else jax.random.split(key)
        tokens = self.embed_text(token_ids, key=keys[0])
        return self.encode(tokens, token_mask.astype(bool), modality="text", key=keys[1])

    def _layer(self, parts: Sequence[Part], queries: int | None = None):
        """One block on the tokens of all parts: (tokens, block, keys, drop rate) -> tokens."""

        def layer_of(part: Part):
            def layer(tokens, block, key, drop_rate):
                options = {"modality": part.modality, "views": part.views, "queries": queries}
                tokens = block(tokens, part.mask, key=key, drop_rate=drop_rate, **options)
                return batch_sharded(tokens)

            if self.config.remat == "block":
                return jax.checkpoint(layer, prevent_cse=self.config.layers != "scan")
            return layer

        def layers(tokens, block, keys, drop_rate):
            each = zip(parts, tokens, keys, strict=True)
            return [layer_of(part)(x, block, key, drop_rate) for part, x, key in each]

        return layers

    def _drop_rates(self):
        return jnp.linspace(0.0, self.config.drop_path, self.config.depth)

    def _keys(self, part: Part):
        return None if part.key is None else jax.random.split(part.key, self.config.depth)

    def _scan(self, parts: Sequence[Part], output: str):
        del output  # every layer of a scan is the same
        layer = self._layer(parts)

        def step(tokens, scanned):
            return layer(tokens, *scanned), None

        keys = [self._keys(part) for part in parts]
        tokens = [part.tokens for part in parts]
        tokens, _ = jax.lax.scan(step, tokens, (self.blocks, keys, self._drop_rates()))
        return tokens

    def _unroll(self, parts: Sequence[Part], output: str):
        depth, rates = self.config.depth, self._drop_rates()
        keys = [self._keys(part) for part in parts]
        tokens = [part.tokens for part in parts]
        leaves, structure = jax.tree.flatten(self.blocks)
        layers = zip(*map(apart, leaves), strict=True)
        for index, block in enumerate(jax.tree.unflatten(structure, each) for each in layers):
            # Only the class token leaves the last block, so only its row is computed there.
            queries = 1 if output == "class" and index == depth - 1 else None
            own = [None if key is None else key[index] for key in keys]
            tokens = self._layer(parts, queries)(tokens, block, own, rates[index])
        return tokens


def _positions(config: IVTConfig, key):
    """First values of the position tables of images (N, D) and texts (max_text_positions, D).

    "normal" draws noise, as the official code does. "sincos" gives each row the sines and cosines
    of its place, with the same deviation, so that neighbours are alike from the first step.
    """
    shapes = [(rows, config.width) for rows in (config.image_tokens, config.max_text_positions)]
    if config.position_init == "normal":
        return [_table(k, shape) for k, shape in zip(jax.random.split(key), shapes, strict=True)]
    rows, columns = jnp.divmod(jnp.arange(config.image_tokens - 1), config.grid[1])
    half = config.width // 2
    patches = jnp.concatenate([_waves(rows, half), _waves(columns, half)], axis=1)
    class_token = jnp.zeros((1, config.width))
    texts = _waves(jnp.arange(config.max_text_positions), config.width)
    return jnp.concatenate([class_token, patches]), texts


def _waves(places, width: int):
    """Sines and cosines (P, width) of places (P,) at wavelengths of 2 pi to 20,000 pi."""
    rates = 10_000.0 ** -(jnp.arange(width // 2) / (width // 2))
    angles = places[:, None] * rates
    return 0.02 * 2**0.5 * jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


def _linear(config: IVTConfig, inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(
        inputs,
        outputs,
        kernel_init=jax.nn.initializers.normal(config.kernel_deviation),
        dtype=jnp.dtype(config.dtype),
        rngs=rngs,
    )


def _parameters(linear: nnx.Linear):
    assert linear.bias is not None  # for type checkers: `_linear` always makes one
    return linear.kernel[...], linear.bias[...]


def _norm_of(norm: nnx.LayerNorm, tokens) -> Any:
    assert norm.scale is not None and norm.bias is not None  # for type checkers: both are made
    return normalised(tokens, norm.scale[...], norm.bias[...], norm.epsilon)


def _norm(config: IVTConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    dtype = jnp.dtype(config.dtype)
    return nnx.LayerNorm(
        config.width, epsilon=1e-6, use_fast_variance=False, dtype=dtype, rngs=rngs
    )


def _drop_path(branch, key, rate, views: Views = _ALL):
    """Zeroes a residual branch for whole samples and scales the others up (stochastic depth)."""
    if key is None:
        return branch
    kept = views.kept(key, 1 - rate, len(branch), 1, 1)
    return jnp.where(kept, (branch / (1 - rate)).astype(branch.dtype), 0)
