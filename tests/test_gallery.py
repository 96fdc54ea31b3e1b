"""A gallery holds exactly the photos of a folder, through changes, kills and hostile files."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from exporting import write_people, write_run
from galleries import age, memory_model, write_photo, write_photos
from runs import ROOT, environment

from ivt_jax.disk import alone
from ivt_jax.errors import UserError
from ivt_jax.retrieval import indexing
from ivt_jax.retrieval.gallery import Gallery
from ivt_jax.retrieval.gallery_files import POINTER, SKIPPED
from ivt_jax.retrieval.indexing import build_gallery
from ivt_jax.retrieval.journal import Journal
from ivt_jax.retrieval.photos import File


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return memory_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos", 11)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "gallery"


def content(gallery: Gallery) -> dict[str, np.ndarray]:
    return dict(zip(gallery.paths, gallery.embeddings, strict=True))


def assert_holds(gallery: Gallery, model) -> None:
    """The gallery holds every photo of its folder with the embedding that the model gives it."""
    files = sorted(gallery.root.rglob("*.png"))
    names = [str(file.relative_to(gallery.root)) for file in files]
    assert sorted(gallery.paths) == names
    found = content(gallery)
    expected = model.encode_image(files)
    for name, embedding in zip(names, expected, strict=True):
        np.testing.assert_allclose(found[name], embedding, atol=1e-6, err_msg=name)
    assert (np.diff(gallery.ids) > 0).all()


def state_of(folder) -> dict:
    """Which files there are and which were written anew: a replaced file has another inode."""
    return {f.name: (f.stat().st_ino, f.stat().st_mtime_ns) for f in folder.iterdir()}


def test_every_photo_has_the_embedding_of_encode_image(model, photos, out):
    gallery = Gallery.build(model, photos, out)
    assert len(gallery) == 11 and not gallery.skipped()
    assert_holds(gallery, model)
    assert isinstance(gallery.embeddings, np.memmap) and gallery.embeddings.dtype == np.float32
    again = Gallery.open(out)
    assert again.paths == gallery.paths and not again.stale
    np.testing.assert_array_equal(again.embeddings, gallery.embeddings)
    assert again.read(0) == (photos / again.paths[0]).read_bytes()


def test_a_second_run_reads_and_writes_nothing(model, photos, out, monkeypatch):
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xffno")
    Gallery.build(model, photos, out)
    before = {name: found for name, found in state_of(out).items() if name.startswith(("p", "e"))}

    def refuse(root, path):
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr(indexing, "read", refuse)
    report = build_gallery(model, photos, out)
    assert (report.photos, report.encoded, report.kept, report.removed) == (11, 0, 11, 0)
    assert report.skipped == {"not-an-image": 1}
    after = state_of(out)
    assert {name: after[name] for name in before} == before


def test_only_what_changed_is_encoded(model, photos, out):
    for file in photos.rglob("*.png"):
        age(file, 0)
    old = Gallery.build(model, photos, out)
    (photos / "000.png").rename(photos / "renamed.png")  # same content: not encoded
    write_photo(photos / "002.png", 100)  # other content
    age(photos / "004.png", 5)  # other time alone
    (photos / "006.png").unlink()
    write_photo(photos / "c" / "new.png", 101)
    report = build_gallery(model, photos, out)
    assert (report.photos, report.encoded, report.kept, report.removed) == (11, 2, 9, 2)
    new = Gallery.open(out)
    assert_holds(new, model)
    assert old.stale and not new.stale
    numbers = [dict(zip(g.paths, g.ids.tolist(), strict=True)) for g in (old, new)]
    same = [path for path in numbers[0] if numbers[1].get(path) == numbers[0][path]]
    assert sorted(same) == sorted({*numbers[0]} - {"000.png", "002.png", "006.png"})
    fresh = {number for path, number in numbers[1].items() if path not in same}
    assert min(fresh) > max(numbers[0].values())  # an id is never given twice
    np.testing.assert_array_equal(content(old)["004.png"], content(new)["004.png"])


def test_what_cannot_be_in_a_gallery_is_listed(model, photos, out, tmp_path):
    secret = write_photo(tmp_path / "secret.png", 1)
    whole = (photos / "000.png").read_bytes()
    (photos / "cut.png").write_bytes(whole[:200])
    (photos / "empty.jpg").touch()
    (photos / "notes.txt").write_text("no photo")
    (photos / "html.jpg").write_text("<script>")
    (photos / ".hidden").mkdir()
    (photos / "outside.png").symlink_to(secret)
    (photos / "folder").symlink_to(tmp_path)
    (photos / "loop").symlink_to(photos)
    (photos / "gone.png").symlink_to(photos / "nothing.png")
    (photos / "self.png").symlink_to(photos / "self.png")
    (photos / "inside.png").symlink_to(photos / "002.png")
    os.mkfifo(photos / "pipe.jpg")
    gallery = Gallery.build(model, photos, out)
    assert {one["path"]: one["reason"] for one in gallery.skipped()} == {
        "cut.png": "truncated",
        "empty.jpg": "empty",
        "notes.txt": "name",
        "html.jpg": "not-an-image",
        ".hidden": "hidden",
        "outside.png": "outside",
        "folder": "outside",
        "loop": "link",
        "gone.png": "unreadable",
        "self.png": "unreadable",
        "pipe.jpg": "not-a-file",
    }
    assert len(gallery) == 12 and "inside.png" in gallery.paths


def test_the_gallery_may_lie_among_the_photos_and_names_may_be_any_bytes(model, photos):
    name = os.fsdecode(b"caf\xe9 \n.png")
    write_photo(photos / name, 50)
    gallery = Gallery.build(model, photos, photos / "gallery")
    assert len(gallery) == 12 and name in gallery.paths and not gallery.skipped()
    assert build_gallery(model, photos, photos / "gallery").encoded == 0


def test_another_model_or_folder_is_refused(model, photos, out, tmp_path):
    Gallery.build(model, photos, out)
    other = memory_model(tmp_path, scale=1.5)
    with pytest.raises(UserError, match="was made with another model"):
        build_gallery(other, photos, out)
    with pytest.raises(UserError, match="was made with another model"):
        Gallery.open(out, model=other)
    with pytest.raises(UserError, match="made with a model in memory"):
        Gallery.open(out).search("a man")
    elsewhere = write_photos(tmp_path / "elsewhere", 2)
    with pytest.raises(UserError, match="is that of .*photos, not of .*elsewhere"):
        build_gallery(model, elsewhere, out)
    photos.rename(tmp_path / "moved")
    assert build_gallery(model, tmp_path / "moved", out).encoded == 0
    assert Gallery.open(out).root == tmp_path / "moved"


def test_a_folder_without_photos_is_refused_and_leaves_the_gallery(model, photos, out, tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        build_gallery(model, tmp_path / "nowhere", out)
    Gallery.build(model, photos, out)
    for file in photos.rglob("*.png"):
        file.rename(file.with_suffix(".bmp"))
    with pytest.raises(UserError, match=r"no usable photo in .*: 11 name") as refused:
        build_gallery(model, photos, out)
    assert refused.value.exit_code == 5
    assert len(Gallery.open(out)) == 11


def test_one_process_writes_at_a_time(model, photos, out):
    with alone(out), pytest.raises(UserError, match="another process is writing"):
        build_gallery(model, photos, out)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (POINTER, lambda file: file.unlink(), "is no gallery"),
        (POINTER, lambda file: file.write_text("{"), "is damaged"),
        (POINTER, lambda file: file.write_text(file.read_text().replace("11", '"11"')), "damaged"),
        (POINTER, lambda file: file.write_text('{"format": 99}'), "has format 99"),
        (
            POINTER,
            lambda file: file.write_text(file.read_text().replace("embeddings-", "../embeddings-")),
            "is no name of a file",
        ),
        ("embeddings-000001.npy", lambda file: file.write_bytes(file.read_bytes()[:300]), "damage"),
        ("photos-000001.npz", lambda file: file.unlink(), "is damaged"),
        ("photos-000001.npz", lambda file: file.write_bytes(file.read_bytes()[:90]), "is damaged"),
    ],
)
def test_a_damaged_gallery_is_a_sentence(model, photos, out, name, change, words):
    Gallery.build(model, photos, out)
    change(out / name)
    with pytest.raises(UserError, match=words):
        Gallery.open(out)


def test_a_file_swapped_for_a_link_is_not_followed(model, photos, out, tmp_path):
    gallery = Gallery.build(model, photos, out)
    secret = write_photo(tmp_path / "secret.png", 1)
    (photos / "000.png").unlink()
    (photos / "000.png").symlink_to(secret)
    with pytest.raises(ValueError, match="outside"):
        gallery.read(gallery.paths.index("000.png"))
    for path in ("../secret.png", str(secret)):  # as a hostile list of photos may have them
        gallery.paths[1] = path
        with pytest.raises(ValueError, match="outside"):
            gallery.read(1)
    with pytest.raises(KeyError):
        gallery.row(10**12)
    assert gallery.row(int(gallery.ids[3])) == 3


def test_a_journal_drops_what_a_kill_left_half(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3, 4)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    files = [(File(f"{i}.png", i, i), bytes([i] * 32)) for i in range(3)]
    with Journal(tmp_path / "j", fingerprint="a", width=4) as journal:
        journal.append(files[:2], rows[:2])
        journal.append(files[2:], rows[2:])
    lines, data = tmp_path / "j" / "photos.jsonl", tmp_path / "j" / "embeddings.bin"
    lines.write_bytes(lines.read_bytes()[:-5])  # the third line is cut
    with Journal(tmp_path / "j", fingerprint="a", width=4) as journal:
        assert journal.files == files[:2]
        np.testing.assert_array_equal(journal.embeddings(), rows[:2])
        journal.append(files[2:], rows[2:])
        np.testing.assert_array_equal(journal.embeddings(), rows)
    data.write_bytes(data.read_bytes()[:32] + bytes(16))  # the last row was never on the disk
    with Journal(tmp_path / "j", fingerprint="a", width=4) as journal:
        assert journal.files == files[:2]
    with Journal(tmp_path / "j", fingerprint="b", width=4) as journal:
        assert not len(journal)


def test_an_interrupted_build_goes_on_where_it_was(model, photos, out, monkeypatch):
    def stop(point, number):
        if number == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(indexing, "strike", stop)
        with pytest.raises(KeyboardInterrupt):
            build_gallery(model, photos, out)
    assert not (out / POINTER).exists()
    report = build_gallery(model, photos, out)
    assert (report.encoded, report.resumed, report.kept) == (3, 8, 0)
    assert_holds(Gallery.open(out), model)


def test_a_journal_that_was_not_removed_changes_nothing(model, photos, out, monkeypatch):
    def stop(folder, *, ignore_errors=False):
        if not ignore_errors:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(indexing.shutil, "rmtree", stop)
        with pytest.raises(KeyboardInterrupt):
            build_gallery(model, photos, out)
    before = Gallery.open(out)
    report = build_gallery(model, photos, out)
    assert (report.encoded, report.resumed, report.kept) == (0, 0, 11)
    assert not before.stale and Gallery.open(out).ids.tolist() == before.ids.tolist()
    assert not (out / "unfinished").exists()


@pytest.mark.slow
@pytest.mark.parametrize("point", ["gallery-batch:2", "gallery-written"])
def test_kill_and_the_same_command_lose_nothing(tmp_path, point):
    data = write_people(tmp_path / "data", identities=2)
    run = write_run(tmp_path / "run", data)
    folder = write_photos(tmp_path / "photos", 40)
    argv = [sys.executable, "-m", "ivt_jax", "index", str(folder), f"--run={run}"]

    def index(out, **variables):
        return subprocess.run(
            [*argv, f"--out={out}"],
            cwd=ROOT,
            env=environment(**variables),
            capture_output=True,
            text=True,
            timeout=300,
        )

    killed = index(tmp_path / "killed", IVT_FAULT=f"kill@{point}")
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(UserError, match="is no gallery"):
        Gallery.open(tmp_path / "killed")
    again = index(tmp_path / "killed")
    assert again.returncode == 0, again.stderr
    done = 32 if point == "gallery-batch:2" else 40
    assert f"{40 - done} encoded, {done} by an interrupted run" in again.stdout
    whole = index(tmp_path / "whole")
    assert "40 encoded, 0 known before" in whole.stdout
    ours, theirs = Gallery.open(tmp_path / "killed"), Gallery.open(tmp_path / "whole")
    assert ours.paths == theirs.paths
    np.testing.assert_allclose(ours.embeddings, theirs.embeddings, atol=1e-6)
    assert json.loads((tmp_path / "killed" / POINTER).read_text())["model"] == str(run)
    assert (tmp_path / "killed" / SKIPPED).read_text() == ""
