"""How fast a caption corpus is prepared: `python -m benchmarks.prepare`.

Draws tiny JPEGs and captions in the form of ALBEF's JSON into a temporary folder, prepares them
as a user would, and prints one table: seconds, pairs a second (by the clock, and by the
workers' CPU time, which a busy machine blurs less), peak memory. Then it reads the corpus as 1, 2
and 4 processes would, in one piece and resumed at random steps, and compares the batches.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from ivt_jax.data import synthetic
from ivt_jax.data.pipeline import TrainingEntries, ViewOptions, training_batches
from ivt_jax.data.records import RecordSource, open_dataset
from ivt_jax.data.texts import Tokenizer, load_tokenizer
from ivt_jax.prepare import prepare

_COLORS = ("red", "blue", "green", "black", "white", "yellow", "brown", "grey", "pink")
_THINGS = ("bus", "dog", "horse", "table", "kitchen", "street", "bridge", "jacket", "umbrella")
_PLACES = ("a wet road", "the old harbour", "a crowded market", "tall trees")
_SIDE = 32  # pixels
_BATCH, _RESUMES, _RUN = 64, 20, 4


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser("python -m benchmarks.prepare", description=__doc__)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = write_corpus(Path(folder), arguments.pairs)
        start = time.perf_counter()
        out = Path(folder) / "out"
        prepare("cc3m", out=out, source=source, workers=arguments.workers)
        seconds = time.perf_counter() - start
        parent = resource.getrusage(resource.RUSAGE_SELF)
        workers = resource.getrusage(resource.RUSAGE_CHILDREN)
        vocabulary = Path(folder) / "vocab.txt"
        vocabulary.write_text("\n".join(synthetic.vocabulary()))
        compare_batches(open_dataset(out, "cc3m", "train"), load_tokenizer(vocabulary))
    values = {
        "pairs": f"{arguments.pairs:,}",
        "workers": arguments.workers,
        "seconds": f"{seconds:.1f}",
        "pairs/s": f"{arguments.pairs / seconds:,.0f}",
        "pairs/CPU-s": f"{arguments.pairs / (workers.ru_utime + workers.ru_stime or 1):,.0f}",
        "parent MB": f"{parent.ru_maxrss / 1e3:,.0f}",
        "largest worker MB": f"{workers.ru_maxrss / 1e3:,.0f}",
    }
    print("  ".join(values))
    print("  ".join(f"{value:>{len(name)}}" for name, value in values.items()))


def compare_batches(source: RecordSource, tokenizer: Tokenizer) -> None:
    """Prints how many of the batches at random steps are the same, however they are read."""
    entries = TrainingEntries(source, kind="captions", sampler="shuffle", group=1, seed=0)
    options = ViewOptions(
        views=("word", "phrase", "sentence"),
        image_size=(_SIDE, _SIDE),
        text_length=50,
        separator="none",
        decode="exact",
        resize="bicubic",
        pad=4,
        flip=0.5,
        word_level="words",
        phrase_level="pieces",
        image_views="level",
    )

    def read(start: int, count: int, process: int, processes: int) -> list[dict[str, np.ndarray]]:
        stream = training_batches(
            [entries],
            [1.0],
            tokenizer=tokenizer,
            options=options,
            batch_size=_BATCH,
            seed=0,
            start_step=start,
            process=process,
            processes=processes,
        )
        batches = [next(stream) for _ in range(count)]
        stream.close()
        return batches

    last = 2 * len(entries.order) // _BATCH  # into the second epoch
    same = compared = 0
    for start in np.random.default_rng(1).integers(0, last, _RESUMES):
        whole = read(int(start), _RUN, 0, 1)
        resumed = read(int(start) + _RUN - 1, 1, 0, 1)[0]
        for processes in (2, 4):
            shares = [read(int(start), _RUN, process, processes) for process in range(processes)]
            for step, batch in enumerate(whole):
                joined = {
                    name: np.concatenate([share[step][name] for share in shares]) for name in batch
                }
                compared += 1
                same += _equal(batch, joined)
        compared += 1
        same += _equal(whole[-1], resumed)
    print(
        f"batches of {_BATCH} at {_RESUMES} random steps, on 1, 2 and 4 processes and "
        f"resumed: {same} of {compared} are equal"
    )


def _equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


def write_corpus(folder: Path, pairs: int) -> Path:
    """Draws `pairs` images below `folder` and names them in its cc3m.json; returns that file."""
    rng = np.random.default_rng(0)
    entries = []
    for number in range(pairs):
        path = folder / "images" / f"{number // 1000:05}" / f"{number:08}.jpg"
        if number % 1000 == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(_photo(rng))
        entries.append({"image": str(path.relative_to(folder)), "caption": _caption(rng)})
    source = folder / "cc3m.json"
    source.write_text(json.dumps(entries))
    return source


def _photo(rng: np.random.Generator) -> bytes:
    stream = io.BytesIO()
    coarse = rng.integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(coarse).resize((_SIDE, _SIDE)).save(stream, "JPEG")
    return stream.getvalue()


def _caption(rng: np.random.Generator) -> str:
    one, other = rng.choice(_COLORS, 2)
    first, second = rng.choice(_THINGS, 2)
    # The number makes every caption another one, so no tagged caption is met twice.
    number = rng.integers(1_000_000)
    return f"a {one} {first} number {number} beside {other} {second}s near {rng.choice(_PLACES)}"


if __name__ == "__main__":
    main()
