"""Prints how long a search takes: exact and FAISS over a million embeddings, and a small gallery.

`python -m benchmarks.search` draws unit vectors around 20,000 centres (people), so that FAISS meets
clusters as a gallery has them; single queries are the median of several. The small gallery is
searched through `Gallery` with an untrained model of the demo's size: opening it in a warm
process, the first answer to a sentence (text encoder compiled on the way), the following ones,
and 32 threads at once compared with the same searches one after the other.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import ivt_jax
from ivt_jax.retrieval import approximate
from ivt_jax.retrieval.fingerprint import fingerprint
from ivt_jax.retrieval.gallery import Gallery
from ivt_jax.retrieval.gallery_files import Facts, Photos, write_gallery
from ivt_jax.retrieval.nearest import nearest

CENTRES = 20_000
K = 10


def draw(file: Path, rows: int, width: int) -> np.ndarray:
    """Unit vectors float32 (rows, width) around centres, in a memory-mapped file."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CENTRES, width), np.float32)
    found = np.lib.format.open_memmap(file, "w+", np.float32, (rows, width))
    for start in range(0, rows, 50_000):
        part = found[start : start + 50_000]
        part[:] = rng.standard_normal(part.shape, np.float32)
        part += centres[rng.integers(0, CENTRES, len(part))]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return found


def timed(call, *, times: int) -> str:
    """Milliseconds of a call after one that warms up: median, fastest, and CPU of all threads."""
    call()
    taken, cpu = [], time.process_time()
    for _ in range(times):
        began = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - began))
    cpu = 1000 * (time.process_time() - cpu) / times
    return f"{statistics.median(taken):.1f} ms (fastest {min(taken):.1f}, CPU {cpu:.1f})"


def large(rows: int, width: int, engine: str) -> None:
    """Exact search next to FAISS."""
    with tempfile.TemporaryDirectory() as folder:
        embeddings = draw(Path(folder) / "a.npy", rows, width)
        queries = embeddings[:: rows // 8][:8] + 0.02
        name = f"{rows:,} x {width}"
        print(f"exact, {name}: {timed(lambda: nearest(embeddings, queries[0], k=K), times=9)}")
        if engine == "exact":
            return
        began, cpu = time.perf_counter(), time.process_time()
        recall, lists = approximate.build(embeddings, Path(folder) / "a.faiss")
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        index = approximate.open_index(Path(folder) / "a.faiss")
        found = timed(lambda: approximate.search(index, embeddings, queries[0], k=K), times=9)
        print(
            f"FAISS, {name}: {found}, recall@10 {recall:.3f} with {lists} lists searched; "
            f"built in {took:.0f} s (CPU {cpu:.0f} s)"
        )


def small(run: str, rows: int) -> None:
    """A gallery of so many drawn embeddings, searched by sentences."""
    model = ivt_jax.load(run)
    width = model.config.model.width
    rng = np.random.default_rng(0)
    new = rng.standard_normal((rows, width), np.float32)
    new /= np.linalg.norm(new, axis=1, keepdims=True)
    numbers = np.arange(rows)
    photos = Photos(
        numbers, [f"{i}.jpg" for i in numbers], numbers, numbers, np.zeros((rows, 32), np.uint8)
    )
    facts = Facts("/photos", fingerprint(model), run, model.step, "", width, "", "", rows, 0)
    with tempfile.TemporaryDirectory() as folder:
        old = np.zeros((0, width), np.float32)
        write_gallery(Path(folder), facts, photos, old=old, new=new, rows=numbers)
        began = time.perf_counter()
        gallery = Gallery.open(folder, model=model)
        opened = time.perf_counter() - began
        began = time.perf_counter()
        cpu = time.process_time()
        gallery.search("a woman in a red coat", K)
        first, compiling = time.perf_counter() - began, time.process_time() - cpu
        queries = [f"a person with {i} bags" for i in range(64)]
        serial, alone, cpu = [], [], [time.process_time()]
        for query in queries:
            began = time.perf_counter()
            serial.append(gallery.search(query, K))
            alone.append(time.perf_counter() - began)
        cpu.append(time.process_time())
        parallel: list = [None] * len(queries)
        taken: list[float] = []

        def work(start: int) -> None:
            for i in range(start, len(queries), 32):
                began = time.perf_counter()
                parallel[i] = gallery.search(queries[i], K)
                taken.append(time.perf_counter() - began)

        threads = [threading.Thread(target=work, args=(start,)) for start in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        cpu.append(time.process_time())
    print(f"gallery of {rows:,} x {width}: opened in {1000 * opened:.0f} ms with a loaded model")
    print(f"  first answer {1000 * first:.0f} ms (CPU {1000 * compiling:.0f}), it compiles")
    each = 1000 * np.diff(cpu) / len(queries)
    print(f"  then {1000 * statistics.median(alone):.0f} ms (CPU {each[0]:.1f})")
    same = "equal to" if parallel == serial else "DIFFERENT FROM"
    p95 = 1000 * np.percentile(taken, 95)
    print(f"  32 threads: p95 {p95:.0f} ms (CPU {each[1]:.1f} a search), {same} one by one")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="runs/demo/finetune", help="model of the small gallery")
    parser.add_argument("--rows", type=int, default=1_000_000, help="0: the small gallery alone")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--engine", choices=("exact", "faiss"), default="faiss")
    arguments = parser.parse_args()
    small(arguments.run, 10_000)
    if arguments.rows:
        large(arguments.rows, arguments.width, arguments.engine)


if __name__ == "__main__":
    main()
