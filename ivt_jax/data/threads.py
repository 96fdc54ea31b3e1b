"""Work done ahead in threads and handed out in order."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int
) -> Iterator[tuple[Item, Result]]:
    """Each item with `function` of it, in order; at most `ahead` items are begun in advance.

    What the function raises is raised when its item's turn comes.
    """
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    pending: collections.deque = collections.deque()
    try:
        for item in items:
            pending.append((item, pool.submit(function, item)))
            if len(pending) > ahead:
                first, future = pending.popleft()
                yield first, future.result()
        for item, future in pending:
            yield item, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
