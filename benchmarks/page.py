"""Prints how quickly the search page is up, and how long its visitors wait.

`python -m benchmarks.page GALLERY` starts `python -m ivt_jax serve` on a gallery, as a user does,
and asks it over HTTP: until the page and until the model are there, the words of a photo, a photo
as an example, and 32 different sentences at once, each compared with the same sentence alone.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import signal
import statistics
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

COLOURS = ("red", "blue", "green", "yellow", "black", "white", "gray", "purple")
THINGS = ("coat", "hat", "shirt", "bag")
PATIENCE = 600  # seconds


def ask(url: str, data: bytes | None = None) -> bytes:
    """The answer to a request."""
    with urllib.request.urlopen(url, data, timeout=PATIENCE) as answer:
        return answer.read()


def search(url: str, sentence: str) -> tuple[list[int], float]:
    """Ids of the photos found, and seconds."""
    began = time.monotonic()
    found = json.loads(ask(f"{url}/api/search?{urllib.parse.urlencode({'q': sentence})}"))
    return [result["id"] for result in found["results"]], time.monotonic() - began


def answered(url: str) -> None:
    """Waits until the server answers."""
    while True:
        try:
            ask(url)
            return
        except OSError:
            time.sleep(0.05)


def ready(url: str) -> int:
    """Waits until the model is loaded; returns the number of photos."""
    while True:
        status = json.loads(ask(f"{url}/api/status"))
        if status["state"] == "ready":
            return status["photos"]
        if status["state"] == "failed":
            raise SystemExit(status["message"])
        time.sleep(0.05)


def together(url: str, repeat: int) -> tuple[float, bool]:
    """95th percentile in seconds of 32 new sentences at once; whether all answers are right."""
    sentences = [f"person {repeat} in a {colour} {thing}" for colour in COLOURS for thing in THINGS]
    with concurrent.futures.ThreadPoolExecutor(len(sentences)) as pool:
        found = list(pool.map(lambda sentence: search(url, sentence), sentences))
    alone = [search(url, sentence)[0] for sentence in sentences]
    slow = statistics.quantiles([seconds for _, seconds in found], n=20)[-1]
    return slow, [ids for ids, _ in found] == alone


def timed(url: str, data: bytes | None = None, *, repeats: int = 5) -> float:
    """Median seconds of a request."""
    seconds = []
    for _ in range(repeats):
        began = time.monotonic()
        ask(url, data)
        seconds.append(time.monotonic() - began)
    return statistics.median(seconds)


def measure(url: str, began: float) -> list[tuple[str, str]]:
    """The rows of the table."""
    answered(url)
    rows = [("page up after", f"{time.monotonic() - began:.1f} s")]
    photos = ready(url)
    rows.append(("model ready after", f"{time.monotonic() - began:.1f} s"))
    ids, first = search(url, "a man in a red shirt")
    rows.append((f"first search of {photos:,} photos", f"{first:.2f} s"))
    photo = ask(f"{url}/api/photos/{ids[0]}/large")
    rows.append(("words of a photo", f"{timed(f'{url}/api/words/{ids[0]}?q=a+red+shirt'):.2f} s"))
    rows.append(("a photo as an example", f"{timed(f'{url}/api/search', photo):.2f} s"))
    for repeat in range(3):
        slow, right = together(url, repeat)
        rows.append(
            ("32 searches at once, p95", f"{slow:.2f} s, {'all' if right else 'NOT'} right")
        )
    return rows


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gallery", type=Path)
    began = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "ivt_jax",
        "serve",
        str(parser.parse_args().gallery),
        "--port=0",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    url = process.stdout.readline().partition(" ")[0]
    try:
        for name, value in measure(url, began):
            print(f"{name:<32}{value}", flush=True)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


if __name__ == "__main__":
    main()
