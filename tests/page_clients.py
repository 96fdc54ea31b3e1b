"""Clients of the search page's application, in this process; fixtures for modules to import."""

import shutil
from pathlib import Path

import pytest
from browsing import until
from fastapi.testclient import TestClient
from page_stand_in import open_engine, write, write_index

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


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    return write(tmp_path_factory.mktemp("page"), 24)


@pytest.fixture
def copy(gallery, tmp_path):
    """A gallery that a test may change."""
    shutil.copytree(gallery.parent / "photos", tmp_path / "photos")
    return write_index(tmp_path, sorted(path.name for path in (tmp_path / "photos").iterdir()))


@pytest.fixture(scope="module")
def client(gallery):
    with client_of(gallery) as one:
        yield one
