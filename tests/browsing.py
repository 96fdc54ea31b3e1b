"""Servers of the search page in processes of their own, and a Chromium that looks at them."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome", "chrome")
        if (found := shutil.which(name))
    ),
    None,
)
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
ARGUMENTS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
PATIENCE = 60  # seconds, on a loaded machine


class Server:
    """The page for one gallery, on its own port; can be killed and started again."""

    def __init__(self, gallery: Path, port: int):
        self.gallery, self.port = gallery, port
        self.url = f"http://127.0.0.1:{port}"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.page_stand_in", str(self.port), str(self.gallery)],
            cwd=ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )

    def wait(self) -> "Server":
        """Returns when the server answers."""
        until(self._answers, "the server answers")
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        assert self.process.poll() is None, "the server has ended"
        try:
            with urllib.request.urlopen(f"{self.url}/api/status", timeout=5) as answer:
                return b'"loading"' not in answer.read()
        except OSError:
            return False


def until(holds: Callable[[], object], what: str) -> None:
    """Waits for something; the page's CSP forbids the driver's own way of waiting."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.02)


def faults(page) -> list[str]:
    """Texts with a contrast below AA, controls without a name, images without alt."""
    script = (ROOT / "tests" / "page_faults.js").read_text("utf-8")
    return page.evaluate(script.partition("\n")[2])  # without the comment, it is a function


def search(page, server, words: str) -> None:
    """Opens the page for a sentence and waits for its first photo."""
    page.goto(f"{server.url}/?q={urllib.parse.quote(words)}")
    page.wait_for_selector(".card")


def api(server, words: str, k: int = 48) -> list[dict]:
    """What the interface answers for a sentence."""
    line = urllib.parse.urlencode({"q": words, "k": k})
    with urllib.request.urlopen(f"{server.url}/api/search?{line}", timeout=60) as answer:
        return json.load(answer)["results"]


def names(page) -> list[str]:
    """The file names shown, in order."""
    return page.locator(".name").evaluate_all("all => all.map(one => one.title)")


def loaded(page) -> int:
    """How many photos have arrived."""
    return page.evaluate(
        "[...document.querySelectorAll('.card img')].filter(i => i.naturalWidth).length"
    )


def notice(page) -> str:
    """The line that tells what is wrong."""
    return page.locator("#notice").inner_text()
