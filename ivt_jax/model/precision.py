"""How the parameters of an encoder are held: in float32, in bfloat16, or as int8 with a scale."""

import dataclasses

import jax
import jax.numpy as jnp

from ivt_jax.training.sharding import path_name

_LARGEST = 127  # -128 is left out, so that a number and its negative are rounded alike


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8:
    """A matrix as whole numbers, and what one of them is worth.

    Attributes:
      values: int8 (..., I, O), from -127 to 127.
      scale: float32, (..., 1, O) of a kernel: one for each output; (V, 1) of a table of rows.
      tokens: what a kernel is multiplied with: "float" | "int8", rounded token by token.
    """

    values: jax.Array
    scale: jax.Array
    tokens: str = dataclasses.field(default="float", metadata={"static": True})

    def __getitem__(self, index) -> "Int8":
        """A part, which has all inputs: [...] or [:, outputs]."""
        return Int8(self.values[index], self.scale[index], self.tokens)

    def times(self, tokens) -> jax.Array:
        """tokens (B, T, I) times the kernel (I, O) -> float32 (B, T, O)."""
        if self.tokens == "float":
            kernel = self.values.astype(tokens.dtype)  # bfloat16 holds every int8
            sums = jnp.einsum("bti,io->bto", tokens, kernel, preferred_element_type=jnp.float32)
            return sums * self.scale
        whole = rounded(tokens.astype(jnp.float32), axis=-1)
        sums = jnp.einsum(
            "bti,io->bto", whole.values, self.values, preferred_element_type=jnp.int32
        )
        return sums.astype(jnp.float32) * whole.scale * self.scale

    def rows(self, numbers) -> jax.Array:
        """Rows (n, D) float32 of a table, by their numbers (n,)."""
        found = jnp.take(self.values, numbers, axis=0).astype(jnp.float32)
        return found * jnp.take(self.scale, numbers, axis=0)


def rounded(matrix, *, axis: int, tokens: str = "float") -> Int8:
    """The nearest int8 matrix with one scale for all that lies along `axis`.

    The largest number becomes 127, halves go to the even neighbour, zeros stay zeros. What
    is not finite makes its scale so, and every product with it.
    """
    largest = jnp.max(jnp.abs(matrix), axis=axis, keepdims=True)
    scale = jnp.where(largest == 0, 1.0, largest) / _LARGEST
    return Int8(jnp.round(matrix / scale).astype(jnp.int8), scale, tokens)


def held_as(params: dict, dtype: str) -> dict:
    """Float32 parameters as an encoder holds them; `dtype` is one of dtypes.DTYPES.

    "bfloat16" rounds the kernels, which a bfloat16 model rounds at each use: no embedding changes.
    "int8" rounds the kernels of the blocks, one scale an output, and the word table, one a row;
    "int8_dynamic" also rounds the tokens that these kernels are multiplied with, one scale each.
    """

    def one(path, leaf):
        name = path_name(path)
        kernel = name.endswith("/kernel")
        if dtype == "bfloat16":
            return leaf.astype(jnp.bfloat16) if kernel else leaf
        if dtype.startswith("int8") and kernel and name.startswith("blocks/"):
            tokens = "int8" if dtype == "int8_dynamic" else "float"
            return _round(leaf, axis=-2, tokens=tokens)
        if dtype.startswith("int8") and name == "word_table":
            return _round(leaf, axis=-1, tokens="float")
        return leaf

    return jax.tree_util.tree_map_with_path(one, params)


_round = jax.jit(rounded, static_argnames=("axis", "tokens"))
