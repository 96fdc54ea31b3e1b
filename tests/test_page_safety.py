"""The server of the search page has nothing for those who ask what they may not."""

import asyncio
import concurrent.futures
import io
import os
import shutil
import threading
import time
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.version import Version
from page_clients import client, client_of, copy, first, gallery, photo  # noqa: F401
from page_stand_in import open_engine, write_index
from PIL import Image
from starlette.exceptions import HTTPException

from ivt_jax.retrieval.gallery import Gallery
from ivt_jax.retrieval.page import app, decoder, desk, safety, server, thumbnails

PAGE = Path(app.__file__).parent / "static"


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def test_ids_are_numbers_of_photos_and_nothing_else(client, gallery):
    for id in ("../gallery.json", "%2e%2e%2fgallery.json", "..%5c", "/etc/passwd", "first.jpg"):
        answer = client.get(f"/api/photos/{id}/small")
        assert answer.status_code in (404, 422), id
        assert answer.headers["content-type"] == "application/json"
    for id in ("-1", "9999", "99999999999999999999999", "0x1", "1e1", "7.5"):
        assert client.get(f"/api/photos/{id}/small").status_code in (404, 422), id
        assert client.get(f"/api/words/{id}?q=red").status_code in (404, 422), id
        assert client.get(f"/api/search?like={id}").status_code in (404, 422), id
    assert client.get(f"/api/photos/{photo(gallery, first(gallery).name)}/huge").status_code == 422
    for path in ("/page.css/../app.py", "/%2e%2e/app.py", "/static/page.css", "/gallery.json"):
        assert client.get(path).status_code == 404


def test_links_and_pipes_are_not_followed_out_of_the_folder(copy, tmp_path):
    target, name = first(copy), first(copy).name
    outside = shutil.copy(target, tmp_path / "secret.jpg")
    id = photo(copy, name)
    with client_of(copy) as one:
        assert one.get(f"/api/photos/{id}/small").status_code == 200
        target.unlink()
        target.symlink_to(outside)
        assert one.get(f"/api/photos/{id}/small").status_code == 410
        assert one.get(f"/api/words/{id}?q=red").status_code == 410
        target.unlink()
        target.symlink_to(sorted(target.parent.iterdir())[5].name)
        assert one.get(f"/api/photos/{id}/small").status_code == 200
        target.unlink()
        os.mkfifo(target)
        assert thumbnails.aspect(Gallery.open(copy)) == pytest.approx(0.375)
        assert one.get(f"/api/photos/{id}/small").status_code == 410
        target.unlink()
        target.write_text("<html>")
        answer = one.get(f"/api/photos/{id}/small")
        assert answer.status_code == 410 and "not-an-image" in answer.json()["error"]


def test_photos_are_served_small_upright_and_without_metadata(copy):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "taken at home"  # turned by 90 degrees; a description
    exif.get_ifd(0x8825)[1] = "N"
    first(copy).write_bytes(encoded(Image.new("RGB", (1600, 800), "red"), "JPEG", exif=exif))
    with client_of(copy) as one:
        for size, longest in thumbnails.SIDES.items():
            answer = one.get(f"/api/photos/{photo(copy, first(copy).name)}/{size}")
            assert answer.headers["content-type"] == "image/jpeg"
            with Image.open(io.BytesIO(answer.content)) as image:
                assert image.size == (longest // 2, longest) and not image.getexif()
            assert b"taken at home" not in answer.content and b"Exif" not in answer.content


def test_thumbnails_stay_within_their_memory_and_follow_the_file(copy):
    kept = thumbnails.Thumbnails(Gallery.open(copy), cache_bytes=30_000)
    made = [kept.jpeg(row, "small") for row in range(12)]
    assert kept._bytes == sum(map(len, kept._cache.values())) <= 30_000 < sum(map(len, made))
    assert kept.jpeg(11, "small") is made[11]
    file = copy.parent / "photos" / kept.gallery.paths[11]
    shutil.copy(copy.parent / "photos" / kept.gallery.paths[0], file)
    assert kept.jpeg(11, "small") == made[0]


@pytest.mark.parametrize(
    "data, told",
    [
        (b"", "no bytes"),
        (b"<html><script>alert(1)</script></html>", "first bytes"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "first bytes"),
        (encoded(Image.new("RGB", (64, 64)), "TIFF"), "TIFF"),
        (encoded(Image.new("RGB", (64, 64)), "GIF"), "GIF"),
        (encoded(Image.new("1", (9000, 9000))), "50,000,000"),
        (encoded(Image.new("1", (20_000, 20_000))), "could be decompression bomb"),
        (encoded(Image.new("RGB", (64, 64)))[:60], "end is missing"),
    ],
    ids=["empty", "html", "svg", "tiff", "gif", "bomb", "large bomb", "cut"],
)
def test_what_is_no_photo_is_refused(client, data, told):
    answer = client.post("/api/search", content=data, headers={"content-type": "image/jpeg"})
    assert answer.status_code == 422 and told in answer.json()["error"]


def test_uploads_stop_at_ten_megabytes_however_they_come(client):
    assert client.post("/api/search", content=b"0" * (app.UPLOAD_BYTES + 1)).status_code == 413
    announced = {"content-length": str(50 * 2**20)}
    assert client.post("/api/search", content=b"0", headers=announced).status_code == 413
    taken = []

    async def stream():
        for _ in range(50):
            taken.append(2**20)
            yield b"0" * 2**20

    endless = SimpleNamespace(headers={}, stream=stream)
    with pytest.raises(HTTPException) as refused:
        asyncio.run(app._receive(endless))  # pyright: ignore[reportArgumentType]
    assert refused.value.status_code == 413 and sum(taken) == 11 * 2**20


def test_slow_uploads_are_ended(monkeypatch):
    monkeypatch.setattr(app, "UPLOAD_SECONDS", 0.05)

    async def stream():
        yield b"0"
        await asyncio.sleep(3600)

    slow = SimpleNamespace(headers={"content-length": "x"}, stream=stream)
    with pytest.raises(HTTPException) as refused:
        asyncio.run(app._receive(slow))  # pyright: ignore[reportArgumentType]
    assert refused.value.status_code == 408


def test_decoding_has_little_time_and_memory(monkeypatch):
    photo = encoded(Image.new("RGB", (64, 64)))
    with pytest.raises(decoder.UploadError, match="too long"):
        decoder.decode_upload(photo, (8, 8), seconds=0.001)
    code = "from ivt_jax.retrieval.page import decoder; import resource; decoder._limit(); "
    code += "print(*(resource.getrlimit(getattr(resource, n))[1] for n in "
    code += "('RLIMIT_AS', 'RLIMIT_CPU', 'RLIMIT_FSIZE')))"
    from subprocess import run as call
    from sys import executable

    done = call([executable, "-c", code], capture_output=True, text=True, cwd=Path.cwd())
    assert done.stdout.split() == [str(decoder.MEMORY), str(decoder.SECONDS), "0"]


def test_uploads_leave_no_trace(client, gallery, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = sorted(path for path in gallery.parent.rglob("*"))
    answer = client.post("/api/search", content=first(gallery).read_bytes())
    assert answer.status_code == 200
    assert sorted(path for path in gallery.parent.rglob("*")) == before
    assert not list(tmp_path.iterdir())


def test_every_answer_carries_the_headers(client, gallery):
    id = photo(gallery, first(gallery).name)
    paths = [
        "/",
        "/docs",
        "/page.js",
        "/api/status",
        "/api/search?q=red",
        "/nothing",
        "/api/search",
    ]
    answers = [client.get(path) for path in [*paths, f"/api/photos/{id}/small", "/openapi.json"]]
    answers.append(client.get("/", headers={"host": "evil.example"}))
    for answer in answers:
        for name, value in safety.HEADERS.items():
            assert answer.headers[name] == value, answer.url
    policy = safety.HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'self';") and "unsafe" not in policy


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil", ""])
def test_other_hosts_are_refused(client, host):
    assert client.get("/", headers={"host": host}).status_code == 400
    assert client.get("/api/search?q=red", headers={"host": f"{host}:8000"}).status_code == 400


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1", "[::1]:8000"])
def test_names_of_this_machine_are_answered(client, host):
    assert client.get("/api/status", headers={"host": host}).status_code == 200


def test_pages_of_other_sites_cannot_ask(client, gallery):
    for site in ("cross-site", "same-site"):
        headers = {"sec-fetch-site": site}
        assert client.get("/api/search?q=red", headers=headers).status_code == 403
        sent = client.post("/api/search", content=first(gallery).read_bytes(), headers=headers)
        assert sent.status_code == 403
        assert client.get("/?q=red", headers=headers).status_code == 200  # a link to a search
    assert client.get("/api/status", headers={"sec-fetch-site": "same-origin"}).status_code == 200


def test_limits_of_a_search(client):
    for query in (
        {"q": "x" * 501},
        {"q": "red", "k": 201},
        {"q": "red", "k": 0},
        {"q": " "},
        {},
        {"q": "red", "like": 7},
        {"q": "red", "without": ["a"] * 6},
        {"q": "red", "without": "x" * 501},
    ):
        answer = client.get("/api/search", params=query)
        assert answer.status_code == 422 and answer.json()["error"], query
    assert client.get("/api/search", params={"q": "x" * 500, "k": 200}).status_code == 200


@pytest.mark.parametrize(
    "words", ["<script>alert(1)</script>", "🧥", "אדום", "\x00\x1b", "%00", "'\"--"]
)
def test_any_sentence_is_only_a_sentence(client, words):
    answer = client.get("/api/search", params={"q": words})
    assert answer.status_code in (200, 422)
    assert answer.headers["content-type"] == "application/json"


def test_file_names_that_are_no_text_are_shown_somehow(copy):
    odd = first(copy).rename(first(copy).with_name("a\udcff <img>.jpg"))
    write_index(copy.parent, sorted(path.name for path in (copy.parent / "photos").iterdir()))
    with client_of(copy) as one:
        found = one.get("/api/search", params={"q": "red", "k": 24}).json()["results"]
        id = photo(copy, odd.name)
        assert next(r["path"] for r in found if r["id"] == id) == "a? <img>.jpg"
        assert one.get(f"/api/photos/{id}/small").status_code == 200


def test_a_full_queue_refuses_and_those_who_leave_make_room(gallery):
    async def fill():
        opened = desk.Desk(lambda: open_engine(gallery), queue=3)
        go = threading.Event()
        done = []
        waiting = [asyncio.create_task(opened.work(go.wait, 60))]
        waiting += [asyncio.create_task(opened.work(done.append, i)) for i in (1, 2)]
        await asyncio.sleep(0.01)
        with pytest.raises(desk.Busy):
            await opened.work(done.append, 3)
        waiting[1].cancel()
        await asyncio.sleep(0.01)
        last = asyncio.create_task(opened.work(done.append, 4))
        await asyncio.sleep(0.01)
        go.set()
        await asyncio.gather(waiting[0], waiting[2], last)
        opened.close()
        return done

    assert asyncio.run(fill()) == [2, 4]


def test_busy_is_told_with_a_time_to_come_back(gallery):
    with client_of(gallery, queue=0) as one:
        answer = one.get("/api/search?q=red")
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"


def test_thirty_two_at_once_get_their_own_answers(client):
    texts = [f"{colour} {i}" for i in range(8) for colour in ("red", "blue", "green", "black")]
    alone = {
        text: client.get("/api/search", params={"q": text}).json()["results"] for text in texts
    }
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda t: client.get("/api/search", params={"q": t}).json(), texts))
    assert [one["results"] for one in found] == [alone[text] for text in texts]


def test_ranges_are_ignored(client):
    header = {"range": "bytes=" + ",".join(f"{i}-{i}" for i in range(5000))}
    began = time.monotonic()
    assert client.get("/page.js", headers=header).status_code == 200
    assert time.monotonic() - began < 5
    assert Version(metadata.version("starlette")) >= Version("1.3.1")


def test_nothing_is_loaded_from_elsewhere_and_nothing_is_reported(client):
    for file in PAGE.iterdir():
        text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text and "https:" not in text and "//cdn" not in text, file
        if file.suffix == ".html":
            assert "<style" not in text and " style=" not in text and " on" + "click=" not in text
    assert sum(file.stat().st_size for file in PAGE.iterdir()) <= 100_000
    assert not client.app._native_telemetry.enabled()  # pyright: ignore


def test_the_api_describes_itself(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        "/api/status",
        "/api/search",
        "/api/folders",
        "/api/photos/{id}/{size}",
        "/api/words/{id}",
    }
    assert "10 MB" in paths["/api/search"]["post"]["description"]


def test_who_leaves_is_not_waited_for(gallery):
    async def ask_and_leave():
        opened = desk.Desk(lambda: open_engine(gallery))
        application = app.create_app(opened, hosts=server.LOCAL)
        while opened.state == "loading":
            await asyncio.sleep(0.01)
        go, sent = threading.Event(), []
        blocked = asyncio.create_task(opened.work(go.wait, 60))
        messages = iter([{"type": "http.request", "body": b""}, {"type": "http.disconnect"}])

        async def receive():
            return next(messages)

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/api/search", "query_string": b"q=red"}
        scope |= {"headers": [(b"host", b"localhost")], "http_version": "1.1", "scheme": "http"}
        await asyncio.wait_for(application(scope, receive, send), 30)
        waiting = opened._waiting
        go.set()
        await blocked
        opened.close()
        return waiting, sent[0]["status"]

    assert asyncio.run(ask_and_leave()) == (1, 499)
