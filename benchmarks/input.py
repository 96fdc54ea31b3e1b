"""Prints how fast images are read: decoding, augmenting, and the whole input pipeline.

`python -m benchmarks.input` draws JPEGs of 500 x 375 pixels at
quality 90, and times this project, Pillow and OpenCV at the same work. Rates of one core are
images a second of CPU time, so a busy machine does not disturb them; rates of the pipeline are by
the clock, next to that of one core a moment before and to that of all cores when each decodes and
augments and does nothing else, which is less than their number times one core. Each figure is the
median of rounds in which all candidates take turns.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ivt_jax.data import synthetic
from ivt_jax.data.builders.dataset import write_dataset
from ivt_jax.data.builders.ingest import Split
from ivt_jax.data.images import augment, crop_and_flip, decode, decode_resized
from ivt_jax.data.pipeline import TrainingEntries, ViewOptions, training_batches
from ivt_jax.data.records import open_dataset, vocabulary_path
from ivt_jax.data.texts import load_tokenizer

SIZE = (384, 128)  # height, width
BATCH = 64
NAME = "synthetic_scenes"
OPTIONS = {
    "views": ("sentence",),
    "image_size": SIZE,
    "text_length": 50,
    "separator": "none",
    "resize": "bicubic",
    "pad": 10,
    "flip": 0.5,
    "word_level": "words",
    "phrase_level": "pieces",
    "image_views": "level",
}


def photo(number: int) -> bytes:
    """A JPEG of 500 x 375 pixels at quality 90, of noise with the spectrum of photos; 60 kB."""
    rng = np.random.default_rng(number)
    layers = [(64, 0.45), (16, 0.25), (4, 0.2), (1, 0.085)]  # pixels of a blob, share
    total = np.zeros((375, 500, 3))
    for blob, share in layers:
        noise = rng.integers(0, 256, (max(375 // blob, 2), max(500 // blob, 2), 3), np.uint8)
        layer = Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC)
        total += share * np.asarray(layer)
    stream = io.BytesIO()
    Image.fromarray(total.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def record(number: int) -> dict[str, Any]:
    """A record of the benchmark's dataset."""
    return {
        "image": photo(number),
        "captions": ["a woman in a red coat with a black bag walks across a wide grey street"],
        "identity": number,
        "source": NAME,
        "key": str(number),
    }


def single_core(photos: list[bytes]) -> dict[str, Callable[[bytes], Any]]:
    """What is timed on one core: name -> a function of encoded bytes."""
    rng = np.random.default_rng(0)
    ready = decode_resized(photos[0], size=SIZE, resize_filter="bicubic", mode="exact", key=0)

    def resized(mode: str) -> Callable[[bytes], np.ndarray]:
        return lambda data: decode_resized(
            data, size=SIZE, resize_filter="bicubic", mode=mode, key=0
        )

    def augmented(mode: str) -> Callable[[bytes], np.ndarray]:
        return lambda data: crop_and_flip(resized(mode)(data), pad=10, flip=0.5, rng=rng)

    timed = {
        "Pillow: decode": lambda data: np.asarray(Image.open(io.BytesIO(data))),
        "Pillow: decode + resize": pillow,
        "ours: decode": lambda data: decode(data, key=0),
        "ours: augment a resized image": lambda data: augment(
            ready, size=SIZE, resize_filter="bicubic", pad=10, flip=0.5, rng=rng
        ),
        "ours, exact: decode + resize": resized("exact"),
        "ours, exact: decode + augment": augmented("exact"),
    }
    try:
        import cv2
        import simplejpeg  # noqa: F401
    except ImportError:
        print("OpenCV and data.decode=scaled are left out: pip install -e '.[fast]'")
        return timed
    cv2.setNumThreads(0)

    def opencv(data: bytes) -> np.ndarray:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        return cv2.resize(np.asarray(image), (SIZE[1], SIZE[0]), interpolation=cv2.INTER_AREA)

    return timed | {
        "OpenCV: decode + resize": opencv,
        "ours, scaled: decode + resize": resized("scaled"),
        "ours, scaled: decode + augment": augmented("scaled"),
    }


def pillow(data: bytes) -> np.ndarray:
    """Plain Pillow: what data.decode=exact computes, without its checks."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return np.asarray(image.resize((SIZE[1], SIZE[0]), Image.Resampling.BICUBIC))


def whole(entries: TrainingEntries, tokenizer, *, mode: str, images: int, **feed) -> Callable:
    """A function that reads `images` images in batches: -> (by the clock, by CPU time) a second."""
    options = ViewOptions(**OPTIONS, decode=mode)

    def run() -> tuple[float, float]:
        stream = training_batches(
            [entries], [1.0], tokenizer=tokenizer, options=options, batch_size=BATCH, seed=0, **feed
        )
        for _ in range(len(entries.order) // BATCH):
            next(stream)  # what is ready ahead, the start of processes, the filling of a cache
        clock, cpu = time.perf_counter(), time.process_time()
        for _ in range(images // BATCH):
            next(stream)
        clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
        stream.close()
        return images / clock, images / cpu

    return run


def clocked(function: Callable[[bytes], Any], photos: list[bytes]) -> float:
    """Images a second of this thread's CPU time."""
    start = time.thread_time()
    for data in photos:
        function(data)
    return len(photos) / (time.thread_time() - start)


def main() -> int:
    """Times everything and prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of which the median is taken")
    parser.add_argument("--images", type=int, default=1024, help="read by a pipeline in a round")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    photos = [photo(number) for number in range(32)]
    size = statistics.mean(map(len, photos)) / 1e3
    print(f"{cores} cores; JPEGs of 500 x 375, {size:.0f} kB, to {SIZE[1]} x {SIZE[0]}")
    one_core(photos, arguments.rounds)
    with tempfile.TemporaryDirectory() as folder:
        splits = {"train": Split(range(64), record)}
        write_dataset(NAME, splits, out=Path(folder), vocabulary=synthetic.vocabulary())
        pipelines(
            Path(folder), photos, rounds=arguments.rounds, images=arguments.images, cores=cores
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of the main process: {peak:.2f} GiB")
    return 0


def one_core(photos: list[bytes], rounds: int):
    """Prints images per second of one core, medians."""
    timed = single_core(photos)
    rates: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, function in timed.items():
            rates[name].append(clocked(function, photos))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    plain = medians["Pillow: decode + resize"]
    print(f"\n{'one core':<34}{'images/s':>10}{'x Pillow decode + resize':>26}")
    for name, rate in medians.items():
        print(f"{name:<34}{rate:>10,.0f}{rate / plain:>26.2f}")


def at_once(function: Callable[[bytes], Any], photos: list[bytes], cores: int) -> float:
    """Images a second, by the clock, of as many threads as cores that do nothing else."""

    def work():
        for data in photos * 8:
            function(data)

    threads = [threading.Thread(target=work) for _ in range(cores)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 8 * len(photos) * cores / (time.perf_counter() - start)


def pipelines(folder: Path, photos: list[bytes], *, rounds: int, images: int, cores: int):
    """Prints images per second of the whole pipeline, next to what the cores can do."""
    source = open_dataset(folder, NAME, "train")
    entries = TrainingEntries(source, kind="captions", sampler="shuffle", group=1, seed=0)
    tokenizer = load_tokenizer(vocabulary_path(folder, NAME))
    timed = single_core(photos)
    modes = [mode for mode in ("exact", "scaled") if f"ours, {mode}: decode + augment" in timed]
    feeds = {f"{threads} threads": {"workers": 0, "threads": threads} for threads in (1, cores)}
    feeds |= {f"{workers} workers": {"workers": workers, "threads": 1} for workers in (1, cores)}
    feeds["cached"] = {"workers": 0, "threads": cores, "cache_gib": 1.0}
    runs = {
        (mode, name): whole(entries, tokenizer, mode=mode, images=images, **feed)
        for mode in modes
        for name, feed in feeds.items()
    }
    found: dict[tuple[str, str], list[tuple[float, ...]]] = {key: [] for key in runs}
    for _ in range(rounds):
        for (mode, name), run in runs.items():
            function = timed[f"ours, {mode}: decode + augment"]
            one, all_cores = clocked(function, photos * 4), at_once(function, photos, cores)
            clock, cpu = run()
            shares = cpu / one, clock / one / cores, clock / all_cores
            found[mode, name].append((clock, all_cores, *shares))
    print(f"\n{'whole pipeline':<20}{'images/s':>10}{'all cores':>11}", end="")
    print(f"{'CPU of one':>12}{'of cores x one':>16}{'of all cores':>14}")
    for (mode, name), values in found.items():
        clock, all_cores, cpu, single, ceiling = map(statistics.median, zip(*values, strict=True))
        inside = f"{cpu:.0%}" if "workers" not in name else ""  # others' time is not seen from here
        print(f"{f'{mode}, {name}':<20}{clock:>10,.0f}{all_cores:>11,.0f}", end="")
        print(f"{inside:>12}{single:>16.0%}{ceiling:>14.0%}")


if __name__ == "__main__":
    sys.exit(main())
