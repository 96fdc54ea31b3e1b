"""Prints how fast a folder is indexed, next to the encoder's own rate on decoded photos.

`python -m benchmarks.index --photos=10000` draws a thousand people, writes each several times (with
other bytes behind the picture, so that no two files are equal) and adds them to a gallery folder by
folder. Before and after each round it also encodes decoded photos, a fifth as many altogether,
with the same code, so both meet the same load of the machine; CPU seconds of all threads do not
depend on it. The last line is a run in which nothing has changed. The models are untrained: "tiny"
(12 blocks, 384 x 128 pixels) and "demo" (2 blocks, 96 x 48 pixels).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from configs import base, demo
from ivt_jax.data import synthetic
from ivt_jax.data.images import decode, evaluation_image
from ivt_jax.data.texts import load_tokenizer
from ivt_jax.inference import Retriever
from ivt_jax.model.ivt import IVTConfig
from ivt_jax.retrieval.encoding import encode_images, make_encoders
from ivt_jax.retrieval.indexing import build_gallery
from ivt_jax.training.sharding import make_mesh
from ivt_jax.training.state import random_params, split_model

ROUNDS = 10


def untrained(name: str, folder: Path) -> Retriever:
    """The "tiny" or "demo" model with random parameters."""
    config = demo.get_config("finetune") if name == "demo" else base.get_config("tiny")
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(synthetic.vocabulary()))
    sizes = IVTConfig(**config.model)
    encoders = make_encoders(split_model(sizes)[0], make_mesh(data=-1, fsdp=1))
    params = random_params(sizes, jax.random.key(0))
    return Retriever(config, 0, params, encoders, load_tokenizer(vocabulary))


def timed(call) -> np.ndarray:
    """Seconds by the clock, and of CPU over all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return np.array([time.perf_counter() - wall, time.process_time() - cpu])


def main() -> None:
    """Prints the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=("tiny", "demo"), default="tiny")
    parser.add_argument("--photos", type=int, default=10_000)
    arguments = parser.parse_args()
    share = arguments.photos // ROUNDS
    people = synthetic.people_records("train")
    drawn = [people[i]["image"] for i in range(min(1000, share))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = untrained(arguments.model, folder)
        size = tuple(model.config.model.image_size)
        pixels = [evaluation_image(decode(data, key=i), size) for i, data in enumerate(drawn)]
        alone = -(-share // 10 // model.batch_size) * model.batch_size  # whole batches, as `index`
        pixels = [pixels[i % len(pixels)] for i in range(alone)]

        def encode():
            batches = (model.encoders, model.params)
            encode_images(*batches, iter(pixels), batch_size=model.batch_size)

        def index():
            build_gallery(model, folder / "photos", folder / "gallery")

        encode_images(model.encoders, model.params, iter(pixels[:1]), batch_size=model.batch_size)
        encoding, indexing = np.zeros(2), np.zeros(2)
        for number in range(ROUNDS):
            part = folder / "photos" / str(number)
            part.mkdir(parents=True)
            for i in range(share):
                data = drawn[i % len(drawn)] + f"{number} {i}".encode()
                (part / f"{i}.jpg").write_bytes(data)
            encoding += timed(encode)
            indexing += timed(index)
            encoding += timed(encode)
        again = timed(index)
    total, encoded = ROUNDS * share, 2 * ROUNDS * alone
    print(f"{arguments.model}, {total:,} photos in {ROUNDS} rounds, batches of {model.batch_size}")
    print(f"{'':<26}{'photos/s':>10}{'CPU ms a photo':>16}")
    rates = encoded / encoding, total / indexing
    for what, (wall, cpu) in zip(("encoder alone", "index"), rates, strict=True):
        print(f"{what:<26}{wall:>10.1f}{1000 / cpu:>16.2f}")
    by_clock, by_cpu = 100 * rates[1] / rates[0]
    print(f"index / encoder alone: {by_clock:.0f} % by the clock, {by_cpu:.0f} % by CPU time")
    print(f"nothing changed: {again[0]:.1f} s for {total:,} photos")


if __name__ == "__main__":
    main()
