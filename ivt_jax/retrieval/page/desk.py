"""The state of an open gallery, and who works for visitors: queues with an end."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from PIL import Image

from ivt_jax.errors import UserError
from ivt_jax.retrieval.page.engine import Answers, Engine
from ivt_jax.retrieval.page.thumbnails import Thumbnails, aspect, differences

QUEUE = 64  # searches that may wait; 32 people at once are half of it
RETRY = 3.0  # seconds until a gallery that could not be opened is tried again
CHECK = 120.0  # seconds until the folder is compared with the gallery again


class Busy(Exception):
    """More people are waiting than the queue holds."""


class NotReady(Exception):
    """There is no gallery to search, yet or at all; the text says why."""


class Desk:
    """Opens a gallery in the background; makes one search and one explanation at a time.

    `state` is "loading", "ready" or "failed" (then `message` is a sentence). A gallery that was
    indexed anew is opened anew; until it is, the one before answers.
    """

    def __init__(self, open_engine: Callable[[], Engine], *, queue: int = QUEUE):
        self.state: Literal["loading", "ready", "failed"] = "loading"
        self.message = ""
        self.aspect = 0.5
        self.differences = (0, 0)  # photos gone, photos new
        self._opened: tuple[Answers, Thumbnails] | None = None
        self._open, self._queue, self._waiting = open_engine, queue, 0
        # An explanation takes as long as hundreds of searches, which shall not wait for it.
        self._workers = {name: ThreadPoolExecutor(1, name) for name in ("search", "explain")}
        self._checked = self._failed = float("-inf")
        self._workers["search"].submit(self._load)

    @property
    def engine(self) -> Engine | None:
        """The gallery and its model, once they are there."""
        return self._opened[0].engine if self._opened else None

    def opened(self) -> tuple[Answers, Thumbnails]:
        """What searches need; raises NotReady."""
        if self._opened is None:
            raise NotReady(self.message or "The model is loading.")
        return self._opened

    async def work(self, task: Callable[..., Any], *arguments, by: str = "search") -> Any:
        """Runs a task after those before it: by "search" or "explain"; raises Busy if many wait.

        The task of a caller who has left before its turn is dropped.
        """
        if self._waiting >= self._queue:
            raise Busy
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._workers[by], task, *arguments)
        finally:
            self._waiting -= 1

    def look_again(self) -> None:
        """Tries a failed gallery anew, or compares the folder with the gallery; not too often."""
        now = time.monotonic()
        if self.state == "failed" and now - self._failed > RETRY:
            self.state = "loading"
            self._workers["search"].submit(self._load)
        elif self._opened and self._opened[0].gallery.stale and now - self._failed > RETRY:
            self._failed = now
            self._workers["search"].submit(self._load)
        elif self._opened and now - self._checked > CHECK:
            self._checked = now
            threading.Thread(target=self._compare, args=self._opened[:1], daemon=True).start()

    def close(self) -> None:
        """Drops what waits."""
        for worker in self._workers.values():
            worker.shutdown(wait=False, cancel_futures=True)

    def _load(self) -> None:
        try:
            answers = Answers(self._open())
            self.aspect = aspect(answers.gallery)
            self._opened = answers, Thumbnails(answers.gallery)
            self.state, self.message, self._checked = "ready", "", float("-inf")
            self._workers["explain"].submit(self._warm, answers)
        except Exception as error:
            known = isinstance(error, UserError)
            self.message = str(error) if known else f"The gallery cannot be opened: {error}"
            self._failed, self._opened, self.state = time.monotonic(), None, "failed"
            logging.error("%s", self.message, exc_info=not known)

    def _warm(self, answers: Answers) -> None:
        """Compiles what first examples and first explanations would wait for."""
        height, width = answers.engine.image_size
        blank = Image.new("RGB", (width, height))
        try:
            answers.image(blank, ())
            answers.engine.explain(blank, "a person")
        except Exception as error:
            logging.warning("examples and explanations will not work: %s", error)

    def _compare(self, answers: Answers) -> None:
        try:
            self.differences = differences(answers.gallery)
        except OSError as error:
            logging.warning("the folder of the photos cannot be read: %s", error)
