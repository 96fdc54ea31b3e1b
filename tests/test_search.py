"""Search finds what brute force finds; re-ranking is the paper's; FAISS answers like exact."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from galleries import memory_model, write_photo, write_photos
from PIL import Image
from runs import ROOT

from ivt_jax.errors import UserError
from ivt_jax.retrieval import approximate, gallery_files
from ivt_jax.retrieval import nearest as exact
from ivt_jax.retrieval.folders import folders_of, rows_below
from ivt_jax.retrieval.gallery import EXCLUSION, Gallery
from ivt_jax.retrieval.gallery_files import faiss_name
from ivt_jax.retrieval.nearest import nearest
from ivt_jax.retrieval.rerank import k_reciprocal
from ivt_jax.search import main, printable


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    model = memory_model(folder)
    return Gallery.build(model, write_photos(folder / "photos", 13), folder / "gallery")


def unit_rows(rng, count: int, width: int) -> np.ndarray:
    rows = rng.normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("block", [7, 1000])
@pytest.mark.parametrize("k", [1, 10, 99, 500])
def test_exact_search_is_a_stable_sort_of_all_scores(monkeypatch, block, k):
    monkeypatch.setattr(exact, "_BLOCK_ROWS", block)
    rng = np.random.default_rng(k)
    rows = rng.integers(-1, 2, (100, 5)).astype(np.float32)  # many equal scores, and zeros
    query = rng.integers(-2, 3, 5).astype(np.float32)
    scores = rows.astype(np.float64) @ query
    order = np.argsort(-scores, kind="stable")[:k]
    found, values = nearest(rows, query, k=k)
    np.testing.assert_array_equal(found, order)
    np.testing.assert_array_equal(values, scores[order])
    some = np.flatnonzero(rng.random(100) < 0.4)
    order = some[np.argsort(-scores[some], kind="stable")][:k]
    found, values = nearest(rows, query, k=k, rows=some)
    np.testing.assert_array_equal(found, order)
    np.testing.assert_array_equal(values, scores[order])


@pytest.mark.parametrize(
    ("query", "k"), [(np.zeros(4), 1), (np.zeros(5), 0), (np.full(5, np.nan), 1)]
)
def test_wrong_arguments_of_exact_search(query, k):
    with pytest.raises(ValueError, match="query"):
        nearest(np.zeros((3, 5), np.float32), query, k=k)


def test_a_sentence_is_ranked_by_its_cosine(gallery):
    text = gallery.model.encode_text(["a man"])[0].astype(np.float64)
    scores = gallery.embeddings.astype(np.float64) @ text
    order = np.argsort(-scores, kind="stable")
    found = gallery.search("a man", k=5)
    assert [path for path, _ in found] == [str(gallery.root / gallery.paths[i]) for i in order[:5]]
    np.testing.assert_allclose([score for _, score in found], scores[order[:5]], atol=1e-6)
    assert len(gallery.search("a man", k=50)) == 13


def test_examples_embeddings_and_several_queries(gallery):
    path = gallery.root / gallery.paths[4]
    assert gallery.search(path, 1)[0][0] == str(path)
    with Image.open(path) as example:
        assert gallery.search(example, 1)[0][0] == str(path)
    assert gallery.search(gallery.embeddings[4], 1)[0] == pytest.approx((str(path), 1.0))
    both = gallery.embed(["a man", "a woman"])
    one, other = gallery.model.encode_text(["a man", "a woman"]).astype(np.float64)
    np.testing.assert_allclose(both, (one + other) / np.linalg.norm(one + other), atol=1e-6)
    less = gallery.embed("a man", without=["a woman"])
    expected = one - EXCLUSION * other
    np.testing.assert_allclose(less, expected / np.linalg.norm(expected), atol=1e-6)
    assert less @ other < one @ other


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"query": "  "}, "sentence to search for is empty"),
        ({"query": []}, "nothing to search for"),
        ({"query": np.zeros(3)}, "not of shape"),
        ({"query": "a man", "k": 0}, "k is 0"),
        ({"query": "a man", "rerank": "yes"}, "choose one of none, reciprocal"),
        ({"query": "a man", "engine": "fast"}, "choose one of auto, exact, faiss"),
        ({"query": "a man", "engine": "faiss"}, "has no FAISS index"),
        ({"query": "a man", "folder": "c"}, "no photo in a folder 'c'; its 1 folders: b"),
        ({"query": "a man", "folder": "../photos/b"}, "no photo in a folder"),
    ],
)
def test_wrong_queries_are_sentences(gallery, arguments, words):
    with pytest.raises(UserError, match=words):
        gallery.search(**arguments)


def test_a_folder_limits_a_search_to_what_is_below_it(gallery):
    assert gallery.folders == ["b"]
    everywhere = gallery.search("a man", k=13)
    inside = [pair for pair in everywhere if Path(pair[0]).parent.name == "b"]
    assert len(inside) == 6 and inside != everywhere[:6]
    for folder, k in (("b", 50), ("b/", 6), ("b", 3)):
        found = gallery.search("a man", k, folder=folder, engine="auto")
        assert [path for path, _ in found] == [path for path, _ in inside[:k]]
        assert [score for _, score in found] == pytest.approx([score for _, score in inside[:k]])
    again = gallery.search("a man", 13, folder="b", rerank="reciprocal")
    assert {path for path, _ in again} == {path for path, _ in inside}


def test_folders_are_those_of_the_photos_and_nothing_is_looked_up():
    paths = ["z.jpg", "a/b/1.jpg", "a/b/2.jpg", "a/c/d/3.jpg", "ab/4.jpg", "../up/5.jpg"]
    assert folders_of(paths) == ["..", "../up", "a", "a/b", "a/c", "a/c/d", "ab"]
    assert rows_below(paths, "a").tolist() == [1, 2, 3]
    assert rows_below(paths, "a/b/").tolist() == [1, 2]
    for wrong in ("", "/", "z.jpg", "b", "a/b/1.jpg", "a//b", "."):
        with pytest.raises(UserError, match="has no photo in a folder"):
            rows_below(paths, wrong)
    with pytest.raises(UserError, match="it has no folders"):
        rows_below(["1.jpg"], "a")


def test_parallel_searches_answer_like_serial_ones(gallery):
    queries = [f"a {a} {b} with {c}" for a in ("red", "man") for b in WORDS for c in WORDS]
    serial = [gallery.search(query, 5) for query in queries]
    parallel = [None] * len(queries)

    def work(first):
        for i in range(first, len(queries), 32):
            parallel[i] = gallery.search(queries[i], 5)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert parallel == serial


WORDS = ("man", "woman", "coat", "backpack")


def slow_reciprocal(distances: np.ndarray, k1: int, k2: int, weight: float) -> np.ndarray:
    """Section 3.2 to 3.4 of Zhong et al., with Python sets; row 0 is the query."""
    size = len(distances)
    near = [sorted(range(size), key=lambda j, i=i: (distances[i, j], j)) for i in range(size)]

    def reciprocal(i, k):
        return {j for j in near[i][: k + 1] if i in near[j][: k + 1]}

    vectors = []
    for i in range(size):
        grown = set(reciprocal(i, k1))
        for j in reciprocal(i, k1):
            candidate = reciprocal(j, round(k1 / 2))
            if len(candidate & reciprocal(i, k1)) > 2 / 3 * len(candidate):
                grown |= candidate
        total = sum(np.exp(-distances[i, j]) for j in grown)
        vectors.append({j: np.exp(-distances[i, j]) / total for j in grown})
    mixed = [
        {g: sum(vectors[j].get(g, 0) for j in near[i][:k2]) / k2 for g in range(size)}
        for i in range(size)
    ]
    result = []
    for i in range(1, size):
        least = sum(min(mixed[0][g], mixed[i][g]) for g in range(size))
        most = sum(max(mixed[0][g], mixed[i][g]) for g in range(size))
        result.append((1 - weight) * (1 - least / most) + weight * distances[0, i])
    return np.array(result)


def test_re_ranking_is_that_of_the_paper():
    rng = np.random.default_rng(0)
    photos = unit_rows(rng, 30, 6)
    photos[:8] = unit_rows(rng, 1, 6) + 0.2 * rng.normal(size=(8, 6))
    photos /= np.linalg.norm(photos, axis=1, keepdims=True)
    query = photos[0] + 0.3 * rng.normal(size=6)
    query /= np.linalg.norm(query)
    similarities, scores = photos @ photos.T, photos @ query
    between = 2 - 2 * similarities.astype(np.float64)
    others = between[~np.eye(30, dtype=bool)]
    own = 2 - 2 * scores.astype(np.float64)
    share = (own - own.min()) / np.ptp(own)  # onto the range of distances between photos
    whole = np.zeros((31, 31))
    whole[1:, 1:] = between
    whole[0, 1:] = whole[1:, 0] = others.min() + share * np.ptp(others)
    np.fill_diagonal(whole, 0)
    whole /= whole.max(axis=1, keepdims=True)
    expected = 1 - slow_reciprocal(whole, 8, 3, 0.3)
    found = k_reciprocal(similarities, scores, neighbours=8, expansion=3, weight=0.3)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_re_ranked_searches_hold_the_same_photos(gallery):
    plain, better = (gallery.search("a man", 13, rerank=how) for how in ("none", "reciprocal"))
    assert {path for path, _ in plain} == {path for path, _ in better}
    scores = [score for _, score in better]
    assert scores == sorted(scores, reverse=True)
    assert len(gallery.search("a man", 1, rerank="reciprocal")) == 1


def test_faiss_finds_what_exact_search_finds(tmp_path):
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    centres = unit_rows(rng, 50, 16)
    rows = centres[rng.integers(0, 50, 3000)] + 0.2 * rng.normal(size=(3000, 16))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    rows[10] = rows[2000]  # equal scores
    recall, lists = approximate.build(rows, tmp_path / "a.faiss")
    assert recall >= approximate.RECALL and lists < 55  # not all of the 55 lists
    index = approximate.open_index(tmp_path / "a.faiss")
    shares = []
    for query in rows[::300]:
        found, scores = approximate.search(index, rows, query, k=10)
        right, best = nearest(rows, query, k=10)
        np.testing.assert_allclose(scores, rows[found] @ query, atol=1e-6)
        shares.append(len(np.intersect1d(found, right)) / 10)
    assert np.mean(shares) >= 0.9
    assert approximate.search(index, rows, rows[10], k=2)[0].tolist() == [10, 2000]


def test_the_engine_of_a_gallery(gallery, monkeypatch):
    pytest.importorskip("faiss")
    recall, _ = gallery.index_faiss()
    assert recall == 1
    file = gallery.folder / faiss_name(gallery.facts)
    asked = []
    monkeypatch.setattr(
        "ivt_jax.retrieval.approximate.search",
        lambda *a, search=approximate.search, **b: asked.append(1) or search(*a, **b),
    )
    expected = gallery.search("a man", 5, engine="exact")
    assert gallery.search("a man", 5) == expected and not asked
    found = gallery.search("a man", 5, engine="faiss")
    assert dict(found) == pytest.approx(dict(expected)) and asked
    monkeypatch.setattr("ivt_jax.retrieval.approximate.FEWEST", 10)
    gallery.search("a man", 5)
    assert len(asked) == 2
    file.unlink()
    monkeypatch.setattr("ivt_jax.retrieval.approximate.installed", lambda: False)
    with pytest.raises(UserError, match="pip install faiss-cpu"):
        gallery.index_faiss()


def test_the_index_of_an_older_state_is_removed(tmp_path):
    folder = write_photos(tmp_path / "photos", 3)
    model = memory_model(tmp_path)
    gallery = Gallery.build(model, folder, tmp_path / "gallery")
    file = gallery.folder / faiss_name(gallery.facts)
    file.touch()
    write_photo(folder / "new.png", 9)
    new = Gallery.build(model, folder, tmp_path / "gallery")
    assert not file.exists() and not (new.folder / faiss_name(new.facts)).exists()
    kept = {gallery_files.POINTER, "skipped.jsonl", ".lock", new.facts.photos, new.facts.embeddings}
    assert {file.name for file in new.folder.iterdir()} == kept


@pytest.fixture
def opened(gallery, monkeypatch):
    """The command meets the gallery with its model, which is only in memory."""
    monkeypatch.setattr(Gallery, "open", lambda folder, *, model: gallery)


def test_the_command_prints_ranked_paths(gallery, opened, capsys):
    assert main([str(gallery.folder), "a man", "-k", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = gallery.search("a man", 3)
    assert lines == [f"{i:>4}  {s:.4f}  {path}" for i, (path, s) in enumerate(expected, 1)]
    assert main([str(gallery.folder), "a man", "--folder=b", "-k", "50"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and all(str(gallery.root / "b") in line for line in lines)


def test_the_command_prints_json_and_draws_a_strip(gallery, opened, capsys, tmp_path):
    example = gallery.root / gallery.paths[2]
    strip = tmp_path / "out.png"
    argv = [str(gallery.folder), f"--image={example}", "--without=a man", "--json", "--k=4"]
    assert main([*argv, "--rerank=reciprocal"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = gallery.search(example, 4, without="a man", rerank="reciprocal")
    assert [(one["path"], one["score"]) for one in found] == [
        (path, pytest.approx(score, abs=1e-6)) for path, score in expected
    ]
    assert main([*argv[:2], f"--strip={strip}"]) == 0
    assert f"wrote {strip}" in capsys.readouterr().out
    with Image.open(strip) as drawn:
        assert drawn.size[0] == 1600


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "give a sentence or --image"),
        (["--image=nowhere.jpg"], "nowhere.jpg"),
        (["--k=0", "a man"], "k is 0"),
    ],
)
def test_the_command_refuses_with_a_sentence(gallery, opened, argv, words):
    with pytest.raises(UserError, match=words):
        main([str(gallery.folder), *argv])


def test_a_cut_sentence_is_told_beside_the_answer(gallery, opened, capsys):
    assert main([str(gallery.folder), " ".join(["red"] * 30), "--json"]) == 0
    printed = capsys.readouterr()
    assert "note: 1 of 1 captions were cut to data.text_length=10" in printed.err
    assert len(json.loads(printed.out)) == 10


@pytest.mark.parametrize("name", ["index", "search", "serve"])
def test_help_imports_neither_jax_nor_numpy(name):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ivt_jax", name, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    module = {"serve": "ivt_jax.retrieval.page.server"}.get(name, f"ivt_jax.{name}")
    assert module in loaded and not loaded & {"jax", "numpy", "PIL"}


def test_names_of_files_stay_one_line_of_text():
    assert printable("a\nb\x1b[31m\udce9 ü.jpg") == r"a\nb\x1b[31m\udce9 ü.jpg"
