"""Clients of the search page's application, in this process."""

from pathlib import Path

from browsing import until
from fastapi.testclient import TestClient
from page_stand_in import open_engine

from ivt_jax.retrieval.gallery import Gallery
from ivt_jax.retrieval.page import app, desk, server

HOME = "http://127.0.0.1:8000"


def client_of(out, **options) -> TestClient:
    opened = desk.Desk(lambda: open_engine(out), **options)
    until(lambda: opened.state != "loading", "the gallery is open")
    return TestClient(app.create_app(opened, hosts=server.LOCAL), base_url=HOME)


def photo(out, name: str) -> int:
    """The id of a photo."""
    opened = Gallery.open(out)
    return int(opened.ids[opened.paths.index(name)])


def first(out) -> Path:
    return sorted((out.parent / "photos").iterdir())[0]
