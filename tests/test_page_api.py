"""The server of the search page: right answers, and nothing for those who ask what they may not."""

import concurrent.futures
import contextlib
import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
from browsing import PATIENCE, ROOT, until
from fastapi.testclient import TestClient
from page_clients import HOME, client, client_of, copy, first, gallery, photo  # noqa: F401
from page_stand_in import ColourModel, open_engine, write_index
from PIL import Image

from ivt_jax.errors import UserError, run
from ivt_jax.retrieval.folders import folders_of
from ivt_jax.retrieval.gallery import Gallery
from ivt_jax.retrieval.page import app, decoder, desk, server, thumbnails
from ivt_jax.retrieval.page.engine import BINS, Answers


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


def test_a_search_can_be_limited_to_a_folder_of_the_gallery(gallery, tmp_path):
    names = [path.name for path in sorted((gallery.parent / "photos").iterdir())]
    places = ["", "east", "east", "east/gate", "west"]
    for number, name in enumerate(names):
        folder = tmp_path / "photos" / places[number % 5]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(gallery.parent / "photos" / name, folder / name)
    files = sorted((tmp_path / "photos").rglob("*.jpg"))
    out = write_index(tmp_path, [str(file.relative_to(tmp_path / "photos")) for file in files])
    with client_of(out) as client:
        assert client.get("/api/folders").json() == ["east", "east/gate", "west"]
        every = client.get("/api/search", params={"q": "a red shirt", "k": 24}).json()["results"]
        found = client.get("/api/search", params={"q": "a red shirt", "folder": "east"}).json()
        assert found["results"] == [one for one in every if one["path"].startswith("east/")]
        assert found["total"] == len(found["results"]) == sum(found["histogram"]["counts"]) == 15
        body = files[0].read_bytes()
        sent = client.post("/api/search", params={"folder": "west"}, content=body).json()
        assert {one["path"].split("/")[0] for one in sent["results"]} == {"west"}
        for wrong in ("eas", "../photos", "/etc", "east/../west", "x" * 5000):
            refused = client.get("/api/search", params={"q": "red", "folder": wrong})
            assert refused.status_code == 422 and "error" in refused.json()


def test_the_uppermost_folders_are_named():
    paths = [f"{a}/{b}/{i}.jpg" for a in "xy" for b in range(3) for i in range(2)]
    paths += ["x/\udcff/1.jpg", "top.jpg"]  # a name that is no text cannot be asked for
    answers = Answers.__new__(Answers)  # opening one takes a model
    vars(answers)["gallery"] = SimpleNamespace(folders=folders_of(paths))
    assert answers.folders(most=8) == ["x", "x/0", "x/1", "x/2", "y", "y/0", "y/1", "y/2"]
    assert answers.folders(most=7) == ["x", "y"] and answers.folders(most=1) == []


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
        assert found["notes"] == ["The model does not know “please”."]
        id = found["results"][0]["id"]
        words = one.get(f"/api/words/{id}", params={"q": "a red coat"}).json()
        assert words["words"] == ["a", "red", "coat"]
        again = one.get("/api/search", params={"q": "a red coat"}).json()["results"]
        score = next(result["score"] for result in again if result["id"] == id)
        assert words["score"] == pytest.approx(score, abs=1e-4)
        unread = one.get(f"/api/words/{id}", params={"q": "!"})
        assert unread.status_code == 422 and "no word" in unread.json()["error"]
        assert not one.get("/api/search", params={"q": "a red coat."}).json()["notes"]
        long = one.get("/api/search", params={"q": "red " * 12}).json()
        assert "first 10 tokens" in long["notes"][0]


def test_searches_do_not_wait_for_explanations(gallery):
    go, begun = threading.Event(), threading.Event()
    engine = open_engine(gallery)

    def slow(image, sentence):
        begun.set()
        go.wait(60)
        return engine.explain(image, sentence)

    opened = desk.Desk(lambda: dataclasses.replace(engine, explain=slow))
    until(lambda: opened.state != "loading", "the gallery is open")
    with (
        TestClient(app.create_app(opened, hosts=server.LOCAL), base_url=HOME) as one,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        id = photo(gallery, first(gallery).name)
        words = pool.submit(one.get, f"/api/words/{id}?q=red")
        until(begun.is_set, "an explanation has begun")
        assert one.get("/api/search?q=red").status_code == 200 and not words.done()
        go.set()
        assert words.result().json()["words"] == ["red"]


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


def test_the_command_says_where_it_is_and_ends_with_ctrl_c(gallery):
    command = [sys.executable, "-m", "ivt_jax", "serve", str(gallery), "--port=0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    url = process.stdout.readline().split()[0]
    assert url.startswith("http://127.0.0.1:")

    def status() -> str:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/api/status") as answer:
            return json.load(answer)["message"]
        return ""

    until(status, "the server says what is wrong")
    assert "name the model" in status()  # the gallery of the colour model names none
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=PATIENCE)[0] == "stopped\n" and process.returncode == 0
