"""Memory and time of CMPM with its gradients: `python -m benchmarks.loss`.

Compiles the plain form (a whole matrix on every device) and the one of `objective.chunk` for
several batches on simulated CPU devices, and prints the temporaries of each device as the compiler
plans them. Batches up to --time_up_to are also run: the median of three by the clock, for which
the simulated devices share this computer's cores, so only the ratio of two times says something.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import time

FORM = {"logits": "projection", "target_norm": "l2", "epsilon": 1e-8, "negatives": "global"}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser("python -m benchmarks.loss", description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1024, 2048, 8192, 16384, 65536])
    parser.add_argument("--chunks", type=int, nargs="+", default=[0, 1024], help="0 = plain")
    parser.add_argument("--width", type=int, default=768, help="of the features")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--time_up_to", type=int, default=2048, help="largest batch that is run")
    arguments = parser.parse_args()
    # Read when JAX starts, hence before anything here imports it.
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={arguments.devices}"
    print(f"{arguments.devices} devices, features of width {arguments.width}, float32")
    print(f"{'batch':>7}{'chunk':>7}{'matrix MB':>11}{'temporaries MB/device':>23}{'seconds':>9}")
    for batch in arguments.batches:
        for chunk in arguments.chunks:
            timed = batch <= arguments.time_up_to
            temporaries, seconds = measure(batch, chunk, width=arguments.width, timed=timed)
            columns = f"{batch:>7}{chunk:>7}{batch * batch * 4 / 1e6:>11,.0f}"
            print(f"{columns}{temporaries / 1e6:>23,.1f}{seconds:>9}", flush=True)


def measure(batch: int, chunk: int, *, width: int, timed: bool) -> tuple[int, str]:
    """Bytes of temporaries on each device, and seconds as text; "-" where it is not run."""
    import jax
    import numpy as np
    from jax.sharding import NamedSharding

    from ivt_jax.training.matching import match
    from ivt_jax.training.sharding import BATCH, make_mesh

    mesh = make_mesh(data=-1, fsdp=1)
    spread = NamedSharding(mesh, BATCH)
    loss = functools.partial(match, chunk=chunk, **FORM)
    shapes = [
        jax.ShapeDtypeStruct((batch, 1, width), np.float32, sharding=spread),
        jax.ShapeDtypeStruct((batch, 1, width), np.float32, sharding=spread),
        jax.ShapeDtypeStruct((batch,), np.int32, sharding=spread),
    ]
    with jax.set_mesh(mesh):
        compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*shapes).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    if not timed:
        return memory.temp_size_in_bytes, "-"
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, batch, 1, width)).astype(np.float32)
    given = [jax.device_put(x, spread) for x in (*features, np.arange(batch, dtype=np.int32))]
    seconds = []
    for _ in range(4):  # the first is warm-up
        start = time.perf_counter()
        jax.block_until_ready(compiled(*given))
        seconds.append(time.perf_counter() - start)
    return memory.temp_size_in_bytes, f"{statistics.median(seconds[1:]):.2f}"


if __name__ == "__main__":
    main()
