"""Arithmetic of one training step, counted from the model: 2 FLOPs a multiply-add, matmuls only.

A compiler's own count cannot serve: it counts the body of a scan over layers once.
"""

import dataclasses

from ivt_jax.model.ivt import IVTConfig


@dataclasses.dataclass(frozen=True)
class StepFlops:
    """FLOPs of a step over all devices."""

    model: float  # forward and backward, each once: what MFU is measured by
    executed: float  # with what is computed again to save memory
    once: float  # executed, with one block of a scanned stack and one micro-batch


def step_flops(
    config: IVTConfig,
    *,
    batch_size: int,
    views: int,
    image_tokens: int,
    text_tokens: int,
    accumulate: int = 1,
    accumulate_negatives: str = "all",
) -> StepFlops:
    """FLOPs of a step on `batch_size` pairs of `views` images and texts each.

    image_tokens, text_tokens: what the blocks see of a sample, after masking. The loss counts as
    one matrix of products (B V, B V), its gradient as two.
    """
    again = (config.remat == "block") + (accumulate > 1 and accumulate_negatives == "all")
    samples = batch_size * views
    rows, columns = config.grid
    patches = samples * 2 * rows * columns * config.patch_size**2 * 3 * config.width
    loss = 2 * samples**2 * config.width
    blocks = [
        sum(samples * _block(config, tokens, layer) for tokens in (image_tokens, text_tokens))
        for layer in range(config.depth)
    ]
    patches *= 2 + (again > (config.remat == "block"))  # images need no gradient
    scanned = blocks[:1] if config.layers == "scan" else blocks
    return StepFlops(
        model=patches + 3 * (loss + sum(blocks)),
        executed=patches + 3 * loss + (3 + again) * sum(blocks),
        once=3 * loss + (patches + (3 + again) * sum(scanned)) / accumulate,
    )


def _block(config: IVTConfig, tokens: int, layer: int) -> int:
    """One block's forward on one sample; the last unrolled one computes the class token alone."""
    width = config.width
    alone = config.layers == "unroll" and layer == config.depth - 1
    queries = 1 if alone else tokens
    weights = queries * width**2 * (2 + 2 * config.mlp_ratio) + tokens * 2 * width**2
    return 2 * (weights + 2 * queries * tokens * width)
