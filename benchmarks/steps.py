"""Fine-tuning steps of the base model on a CPU, ours and PyTorch's, in turns.

python -m benchmarks.steps --cases=pytorch,none,drop,short
prints the median seconds of each case and the median of its ratio to the first one, repetition by
repetition. A step has three images and three texts a pair, CMPM over them all, and SGD.

  pytorch  the official way: every text padded to the longest allowed, no token dropped
  none     ours with the same tokens
  drop     and 30 % of the tokens dropped (BMM)
  official and the random number of the official code, up to 20 %
  short    `drop`, and words and phrases at a length of their own, 32
"""

import argparse
import statistics
import time

import jax
import numpy as np
import torch

from configs import base
from finetune.objective import make_objective
from ivt_jax.convert.pytorch import modeling_ivt
from ivt_jax.data.texts import LEVELS
from ivt_jax.training.program import make_program
from ivt_jax.training.sharding import make_mesh, to_global
from ivt_jax.training.state import create_state

LENGTH = 80  # of the official batches: the longest caption, as their tokenizer pads
CASES = {
    "none": {"masking.strategy": "none"},
    "drop": {"masking.strategy": "drop"},
    "official": {
        "masking.strategy": "official",
        "masking.draws": "batch",
        "masking.image_ratio": 0.2,
        "masking.text_ratio": 0.2,
    },
    "short": {"masking.strategy": "drop", "data.word_length": 32, "data.phrase_length": 32},
}


def main() -> None:
    """Prints one row a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default="pytorch,none,drop,short")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args()
    batch = make_batch(options.pairs)
    made = {
        name: (make_theirs if name == "pytorch" else make_ours)(name, batch, options)
        for name in options.cases.split(",")
    }
    for step in made.values():
        step()
    seconds = {name: [] for name in made}
    for _ in range(options.repetitions):
        for name, step in made.items():
            began = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - began)
    first = next(iter(seconds.values()))
    print(f"{options.pairs} pairs, {options.depth} blocks, {options.dtype}")
    for name, found in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(first, found, strict=True))
        print(f"| {name} | {statistics.median(found):.2f} s | {ratio:.2f} times as fast |")


def make_batch(pairs: int) -> dict[str, np.ndarray]:
    """A batch of drawn numbers: three images and three texts of lengths like the official ones."""
    rng = np.random.default_rng(0)
    real = rng.integers([8, 8, 24], [32, 32, LENGTH], (pairs, 3))
    mask = np.arange(LENGTH) < real[..., None]
    ids = np.where(mask, rng.integers(1000, 30522, mask.shape), 0)
    return {
        "images": rng.integers(0, 256, (pairs, 3, 384, 128, 3), np.uint8),
        "token_ids": ids.astype(np.int32),
        "token_mask": mask,
        "identities": np.arange(pairs, dtype=np.int32),
    }


def make_ours(case: str, batch: dict, options):
    """A function that runs one step of our base model; `options` has dtype, depth and pairs."""
    config = base.get_config()
    config.model.update(layers="unroll", dtype=options.dtype, depth=options.depth)
    config.data.text_length = LENGTH
    config.training.batch_size = options.pairs
    config.update_from_flattened_dict(CASES[case])
    mesh = make_mesh(data=1, fsdp=1)
    program = make_program(
        config,
        mesh=mesh,
        make_objective=make_objective,
        views=LEVELS,
        total_steps=100,
        epoch_steps=10,
    )
    held = [create_state(program.model, program.optimizer, shardings=program.shardings, seed=0)]
    key = jax.random.key(0)

    def step() -> None:
        with jax.set_mesh(mesh):
            held[0], metrics = program.step(held[0], to_global(mesh, batch), key)
        assert np.isfinite(float(metrics["loss"]))

    return step


def make_theirs(case: str, batch: dict, options):
    """The same of PyTorch's, which has one case."""
    del case
    model = modeling_ivt.IVTModel(modeling_ivt.IVTConfig(depth=options.depth))
    for parameter in model.parameters():
        torch.nn.init.trunc_normal_(parameter, std=0.02)
    groups = [
        {
            "params": [x for name, x in model.named_parameters() if ("bias" in name) == bias],
            "lr": lr,
        }
        for bias, lr in ((False, 1e-4), (True, 2e-4))
    ]
    optimizer = torch.optim.SGD(groups, lr=1e-4, momentum=0.9, weight_decay=1e-4)
    images = torch.from_numpy(batch["images"]).flatten(0, 1).permute(0, 3, 1, 2)
    ids, mask = (
        torch.from_numpy(batch[name]).flatten(0, 1) for name in ("token_ids", "token_mask")
    )
    same = torch.from_numpy(batch["identities"]).repeat_interleave(3)
    same = (same[:, None] == same).float()
    narrow = options.dtype == "bfloat16"

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            image = model.image_features(images / 127.5 - 1.0)
            text = model.text_features(ids.long(), mask)
        _cmpm(image.float(), text.float(), same).backward()
        optimizer.step()

    return step


def _cmpm(image, text, same):
    target = torch.log(same / same.norm(dim=1, keepdim=True) + 1e-8)
    total = 0.0
    for rows, columns in ((image, text), (text, image)):
        logits = rows @ torch.nn.functional.normalize(columns).T
        total += (logits.softmax(1) * (logits.log_softmax(1) - target)).sum(1).mean()
    return total


if __name__ == "__main__":
    main()
