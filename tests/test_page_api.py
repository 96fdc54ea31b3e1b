"""The server of the search page: right answers, and nothing for those who ask what they may not."""

import asyncio
import concurrent.futures
import io
import json
import os
import shutil
import threading
import time
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from browsing import until
from fastapi.testclient import TestClient
from packaging.version import Version
from page_stand_in import ColourModel, open_engine, write, write_index
from PIL import Image
from starlette.exceptions import HTTPException

from ivt_jax.errors import UserError, run
from ivt_jax.retrieval.gallery import Gallery
from ivt_jax.retrieval.page import app, decoder, desk, safety, server, thumbnails
from ivt_jax.retrieval.page.engine import BINS

HOME = "http://127.0.0.1:8000"
PAGE = Path(app.__file__).parent / "static"


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    return write(tmp_path_factory.mktemp("page"), 24)


@pytest.fixture
def copy(gallery, tmp_path):
    """A gallery that a test may change."""
    shutil.copytree(gallery.parent / "photos", tmp_path / "photos")
    return write_index(tmp_path, sorted(path.name for path in (tmp_path / "photos").iterdir()))


def client_of(out, **options) -> TestClient:
    opened = desk.Desk(lambda: open_engine(out), **options)
    until(lambda: opened.state != "loading", "the gallery is open")
    return TestClient(app.create_app(opened, hosts=server.LOCAL), base_url=HOME)


@pytest.fixture(scope="module")
def client(gallery):
    with client_of(gallery) as one:
        yield one


def photo(out, name: str) -> int:
    """The id of a photo."""
    opened = Gallery.open(out)
    return int(opened.ids[opened.paths.index(name)])


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def first(out) -> Path:
    return sorted((out.parent / "photos").iterdir())[0]


# ---- answers


def test_a_sentence_ranks_photos_as_brute_force_does(client, gallery):
    opened, text = Gallery.open(gallery), "a red shirt"
    scores = opened.embeddings.astype(np.float64) @ ColourModel().encode_text([text])[0]
    order = np.argsort(-scores, kind="stable")
    found = client.get("/api/search", params={"q": f"  {text} ", "k": 10}).json()
    assert [one["id"] for one in found["results"]] == opened.ids[order[:10]].tolist()
    assert [one["path"] for one in found["results"]] == [opened.paths[i] for i in order[:10]]
    np.testing.assert_allclose(
        [one["score"] for one in found["results"]], scores[order[:10]], atol=1e-5
    )
    counts, _ = np.histogram(scores, BINS)
    assert found["total"] == 24 and sum(found["histogram"]["counts"]) == 24
    assert found["histogram"]["low"] == pytest.approx(scores.min(), abs=1e-6)
    assert np.abs(np.array(found["histogram"]["counts"]) - counts).sum() <= 2  # at float32's edges


def test_floor_is_what_unrelated_sentences_reach(client):
    red = client.get("/api/search", params={"q": "red"}).json()
    nothing = client.get("/api/search", params={"q": "a giraffe"}).json()
    assert red["results"][0]["score"] > red["floor"] >= nothing["results"][0]["score"] - 0.05
    assert not red["notes"] and "giraffe" in nothing["notes"][0]


def test_examples_find_themselves_and_exclusions_move_away(client, gallery):
    id = photo(gallery, first(gallery).name)
    found = client.get("/api/search", params={"like": id, "k": 3}).json()
    assert found["results"][0]["id"] == id and found["floor"] is None
    assert found["results"][0]["score"] == pytest.approx(1, abs=1e-4)
    sent = client.post("/api/search", params={"k": 3}, content=first(gallery).read_bytes())
    assert sent.status_code == 200 and len(sent.json()["results"]) == 3
    plain = client.get("/api/search", params={"q": "red blue", "k": 24}).json()["results"]
    less = client.get("/api/search", params={"q": "red blue", "without": "blue", "k": 24}).json()
    scores = {one["id"]: one["score"] for one in less["results"]}
    blue = next(one for one in plain if one["path"].endswith(" blue.jpg"))
    assert scores[blue["id"]] < blue["score"]


def test_an_upload_is_read_as_its_file_in_the_gallery(gallery):
    pixels = decoder.decode_upload(first(gallery).read_bytes(), (96, 48))
    with Image.open(first(gallery)) as image:
        expected = np.asarray(image.convert("RGB").resize((48, 96), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(pixels, expected)


def test_words_come_with_maps_and_what_they_add(client, gallery):
    id = photo(gallery, first(gallery).name)
    found = client.get(f"/api/words/{id}", params={"q": "a  red shirt"}).json()
    assert found["words"] == ["a", "red", "shirt"] and found["spans"] == [[0, 1], [3, 6], [7, 12]]
    assert found["adds"] == [-0.05, 0.3, -0.05]
    maps = np.array(found["maps"])
    assert maps.shape == (3, found["rows"] * found["columns"]) and maps.max() == 1


def test_the_real_model_answers_the_page(tmp_path):
    from galleries import memory_model, write_photos

    from ivt_jax.retrieval.page.opening import open_engine as open_real

    (tmp_path / "model").mkdir()
    model = memory_model(tmp_path / "model")
    Gallery.build(model, write_photos(tmp_path / "photos", 6), tmp_path / "gallery")
    opened = desk.Desk(lambda: open_real(tmp_path / "gallery", model))
    until(lambda: opened.state != "loading", "the gallery is open")
    with TestClient(app.create_app(opened, hosts=server.LOCAL), base_url=HOME) as one:
        found = one.get("/api/search", params={"q": "a red coat, please"}).json()
        expected = Gallery.open(tmp_path / "gallery", model=model).search("a red coat, please", 6)
        paths = [str(tmp_path / "photos" / result["path"]) for result in found["results"]]
        assert paths == [path for path, _ in expected]
        assert found["notes"] == ["The model does not know “,”, “please”."]
        id = found["results"][0]["id"]
        words = one.get(f"/api/words/{id}", params={"q": "a red coat"}).json()
        assert words["words"] == ["a", "red", "coat"]
        assert words["score"] == pytest.approx(
            one.get("/api/search", params={"q": "a red coat", "k": 1}).json()["results"][0][
                "score"
            ],
            abs=1e-4,
        )
        unread = one.get(f"/api/words/{id}", params={"q": "!"})
        assert unread.status_code == 422 and "no word" in unread.json()["error"]
        long = one.get("/api/search", params={"q": "a red coat with a red back"}).json()
        assert not long["notes"]
        assert (
            "first 10 tokens"
            in one.get("/api/search", params={"q": "red " * 12}).json()["notes"][0]
        )


# ---- states


def test_loading_failing_and_coming_back(gallery, tmp_path, monkeypatch):
    monkeypatch.setattr(desk, "RETRY", 0.0)
    may_open, place = threading.Event(), tmp_path / "gallery"

    def slow():
        may_open.wait(60)
        return open_engine(place)

    opened = desk.Desk(slow)
    with TestClient(app.create_app(opened, hosts=server.LOCAL), base_url=HOME) as one:
        assert one.get("/api/status").json()["state"] == "loading"
        early = one.get("/api/search", params={"q": "red"})
        assert early.status_code == 503 and early.json()["error"] == "The model is loading."
        may_open.set()
        until(lambda: opened.state == "failed", "there is no gallery")
        assert "python -m ivt_jax index" in one.get("/api/search?q=red").json()["error"]
        shutil.copytree(gallery, place)
        until(lambda: one.get("/api/status").json()["state"] == "ready", "it is opened")
        assert one.get("/api/search?q=red").status_code == 200


def test_a_gallery_indexed_anew_is_opened_anew(copy, monkeypatch):
    monkeypatch.setattr(desk, "RETRY", 0.0)
    with client_of(copy) as one:
        assert one.get("/api/status").json()["photos"] == 24
        names = sorted(path.name for path in (copy.parent / "photos").iterdir())[:20]
        state = json.loads((copy / "gallery.json").read_text())
        shutil.rmtree(copy)
        write_index(copy.parent, names)
        now = json.loads((copy / "gallery.json").read_text()) | {
            "generation": state["generation"] + 1
        }
        (copy / "gallery.json").write_text(json.dumps(now))
        until(lambda: one.get("/api/status").json()["photos"] == 20, "the new gallery")


def test_new_and_missing_photos_are_counted(copy):
    photos = copy.parent / "photos"
    first(copy).rename(photos / "renamed.jpg")
    shutil.copy(photos / "renamed.jpg", photos / "broken.jpg")
    (copy / "skipped.jsonl").write_text('{"path": "broken.jpg", "reason": "broken"}\n')
    (photos / "notes.txt").write_text("no photo")
    assert thumbnails.differences(Gallery.open(copy)) == (1, 1)


# ---- images


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


# ---- uploads


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


# ---- the web


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
        "/api/photos/{id}/{size}",
        "/api/words/{id}",
    }
    assert "10 MB" in paths["/api/search"]["post"]["description"]


# ---- the command


def test_other_machines_need_a_decision(gallery, capsys):
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        assert run(server.main, [str(gallery), f"--host={host}"]) == 2
        assert "--allow-remote" in capsys.readouterr().err
    assert server.allowed_hosts("127.0.0.1", remote=False) == [*server.LOCAL, "127.0.0.1"]
    remote = server.allowed_hosts("0.0.0.0", remote=True)
    assert "*" not in remote and set(server.LOCAL) < set(remote)


def test_faults_of_the_command_are_sentences(gallery, tmp_path):
    with pytest.raises(UserError, match="python -m ivt_jax index"):
        server.main([str(tmp_path / "none")])
    with server.listen("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(UserError, match="choose another port"):
            server.main([str(gallery), f"--port={taken.getsockname()[1]}"])
    with pytest.raises(UserError, match="cannot listen"):
        server.main([str(gallery), "--port=99999999"])
