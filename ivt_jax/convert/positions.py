"""Position tables for another image size or patch stride."""

import jax
import numpy as np


def resize_positions(table, *, source: tuple[int, int], target: tuple[int, int]) -> np.ndarray:
    """Resizes the patch rows of a position table between grids; the class row stays.

    Bilinear with half-pixel centres and no antialiasing, as the official code resizes ImageNet's
    14 x 14 table.

    Args:
      table: (1 + rows * columns, D), the class token first.
      source, target: (rows, columns) of patches.

    Raises:
      ValueError: the table does not have the rows of `source`.
    """
    table = np.asarray(table, np.float32)
    if len(table) != 1 + source[0] * source[1]:
        raise ValueError(
            f"a position table of {len(table)} rows does not hold a class token and "
            f"{source[0]} x {source[1]} patches"
        )
    if source == target:
        return table
    grid = table[1:].reshape(*source, -1)  # (rows, columns, D)
    resized = jax.image.resize(grid, (*target, grid.shape[-1]), "bilinear", antialias=False)
    return np.concatenate([table[:1], np.asarray(resized).reshape(-1, grid.shape[-1])])


def guess_grid(rows: int, candidates: list[tuple[int, int]]) -> tuple[int, int]:
    """The grid a table of `rows` rows belongs to: the first fitting candidate, else a square.

    Raises ValueError when nothing fits.
    """
    patches = rows - 1
    side = round(patches**0.5)
    for grid in [*candidates, (side, side)]:
        if grid[0] * grid[1] == patches:
            return grid
    raise ValueError(f"a position table of {rows} rows fits none of the grids {candidates}")
