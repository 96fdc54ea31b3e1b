"""Runs the application on a socket until it is told to stop."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence

import uvicorn

from ivt_jax.retrieval.page.app import create_app
from ivt_jax.retrieval.page.desk import Desk
from ivt_jax.retrieval.page.engine import Engine

CONNECTIONS = 500  # at the same time; more are answered with 503


def run_server(
    open_engine: Callable[[], Engine], listener: socket.socket, *, hosts: Sequence[str]
) -> None:
    """Serves the page until SIGINT or SIGTERM. What visitors search for is not logged."""
    desk = Desk(open_engine)
    config = uvicorn.Config(
        create_app(desk, hosts=hosts),
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=20,
        timeout_graceful_shutdown=2,
        ws="none",
    )
    try:
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how it is meant to end
            asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))
    finally:
        desk.close()
