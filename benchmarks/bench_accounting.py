"""What a pair costs by component: `python -m benchmarks.bench_accounting`.

Prints arithmetic and memory traffic of the base model's training step from its sizes alone, and
the pairs a second that common chips reach at their published peak; docs/performance.md quotes it.
"""

from __future__ import annotations

import argparse

import jax

from ivt_jax.model.ivt import IVTConfig
from ivt_jax.training.chips import CHIPS
from ivt_jax.training.flops import Work, kept, step_costs
from ivt_jax.training.state import split_model


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=128, help="pairs that share the weights read")
    parser.add_argument("--views", type=int, default=3, help="texts of a pair: 1 or 3")
    parser.add_argument("--images", type=int, default=0, help="image views; 0 = one for each text")
    parser.add_argument("--text", type=int, default=32, help="real tokens of a text, on average")
    parser.add_argument("--stride", type=int, default=16, help="pixels between patches")
    parser.add_argument("--masked", type=float, default=0.3, help="share of the tokens dropped")
    parser.add_argument("--optimizer", default="sgd", choices=("sgd", "adamw"))
    arguments = parser.parse_args()
    config = IVTConfig(patch_stride=arguments.stride, dtype="bfloat16", layers="unroll")
    masking = {"strategy": "drop", "image_ratio": arguments.masked, "text_ratio": arguments.masked}
    print(*components(config, masking, arguments), sep="\n")
    print()
    print(*floors(config, arguments), sep="\n")


def components(config: IVTConfig, masking: dict, arguments: argparse.Namespace) -> list[str]:
    """A row a component, of one pair."""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(split_model(config)[1]))
    costs = step_costs(
        config,
        batch_size=arguments.batch,
        views=arguments.views,
        images=arguments.images,
        image_tokens=kept(config.image_tokens, "drop", masking["image_ratio"]),
        text_tokens=kept(arguments.text, "drop", masking["text_ratio"]),
        optimizer=arguments.optimizer,
        parameters=parameters,
    )
    total = sum(c.total.flops for c in costs.values())
    lines = ["| component | forward GFLOP | training GFLOP | share | training MB |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    for name, cost in costs.items():
        flops = [x.flops / arguments.batch / 1e9 for x in (cost.forward, cost.total)]
        shown = [f"{x:,.2f}" if cost.total.flops else "" for x in flops]
        share = f"{100 * cost.total.flops / total:.1f} %" if cost.total.flops else ""
        size = f"{cost.total.bytes / arguments.batch / 1e6:,.0f}"
        lines.append(f"| {name} | {' | '.join(shown)} | {share} | {size} |")
    flops = [sum(getattr(c, p).flops for c in costs.values()) for p in ("forward", "total")]
    size = sum(c.total.bytes for c in costs.values()) / arguments.batch / 1e6
    forward, whole = (f"{x / arguments.batch / 1e9:,.1f}" for x in flops)
    return [*lines, f"| **a pair** | **{forward}** | **{whole}** | | **{size:,.0f}** |"]


def floors(config: IVTConfig, arguments: argparse.Namespace) -> list[str]:
    """Pairs a second at the published peak, for pretraining and fine-tuning, masked and not."""
    cases = {
        "one caption": (1, 0.0, 1),
        "one caption, masked": (1, arguments.masked, 1),
        "three levels": (3, 0.0, 3),
        "three levels, masked": (3, arguments.masked, 3),
        "the same, one image": (3, arguments.masked, 1),
    }
    lines = [f"| chip | TFLOP/s | {' | '.join(cases)} |", f"| --- |{' ---: |' * (len(cases) + 1)}"]
    for name, chip in CHIPS.items():
        cells = [f"{chip.flops / 1e12:,.0f}"]
        for views, ratio, images in cases.values():
            masking = {"strategy": "drop", "image_ratio": ratio, "text_ratio": ratio}
            flops = Work(config, 1, views, masking, images).flops(arguments.text)
            cells.append(f"{chip.flops / flops:,.0f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
