"""Blocks of the model against their PyTorch twin: same weights, same tokens, in turns.

python -m benchmarks.layers --depth=12 --batch=8 --dtype=bfloat16
prints one row a pass: medians in seconds, and the median ratio of the pairs of repetitions. Both
compute every token of every block. `--repetitions=0` only compiles, into JAX's cache if it has one.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from ivt_jax.convert.exported import to_pytorch
from ivt_jax.convert.pytorch import modeling_ivt
from ivt_jax.model.ivt import IVTConfig
from ivt_jax.model.products import compiler_options
from ivt_jax.training.state import random_params, split_model


def main() -> None:
    """Prints the table."""
    options = _options()
    tokens = np.random.default_rng(0).normal(size=(options.batch, options.tokens, 768))
    config = IVTConfig(dtype=options.dtype, depth=options.depth, layers="unroll")
    params = random_params(config, jax.random.key(0))
    print(
        f"{options.depth} blocks, {options.dtype}, batch {options.batch}, {options.tokens} tokens"
    )
    for name in ("forward", "forward and backward"):
        ours = _ours(config, params, tokens, backward="backward" in name)
        theirs = _theirs(config, params, tokens, backward="backward" in name)
        if not options.repetitions:
            ours()
            continue
        np.testing.assert_allclose(ours(), theirs(), rtol=0.02 if "16" in options.dtype else 1e-3)
        pairs = [(_seconds(ours), _seconds(theirs)) for _ in range(options.repetitions)]
        first, second = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"| {name} | {first:.3f} s | PyTorch {second:.3f} s | {ratio:.2f} |", flush=True)


def _options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=193)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repetitions", type=int, default=7)
    return parser.parse_args()


def _seconds(function) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def _ours(config: IVTConfig, params, tokens, *, backward: bool):
    graphdef, _ = split_model(config)
    # Weights in the dtype of the computation, as PyTorch has them here.
    blocks = jax.tree.map(lambda x: x.astype(config.dtype), params["blocks"])
    tokens = jnp.asarray(tokens, config.dtype)

    def value(blocks, tokens):
        model = nnx.merge(graphdef, params | {"blocks": blocks})
        features = model.encode(tokens, modality="image", output="tokens")[:, 0]
        return jnp.mean(features**2)

    function = jax.value_and_grad(value) if backward else value
    function = jax.jit(function, compiler_options=compiler_options("cpu", config.dtype))

    def run() -> float:
        found = jax.block_until_ready(function(blocks, tokens))
        return float(found[0] if backward else found)

    return run


def _theirs(config: IVTConfig, params, tokens, *, backward: bool):
    dtype = getattr(torch, config.dtype)
    model = modeling_ivt.IVTModel(modeling_ivt.IVTConfig(depth=config.depth))
    model.load_state_dict({k: torch.tensor(v) for k, v in to_pytorch(params, config).items()})
    model = model.to(dtype)
    tokens = torch.from_numpy(tokens).to(dtype)

    def run() -> float:
        model.zero_grad(set_to_none=True)
        with torch.set_grad_enabled(backward):
            value = (model._encode(tokens, None, "image").float() ** 2).mean()
            if backward:
                value.backward()
        return value.item()

    return run


if __name__ == "__main__":
    main()
