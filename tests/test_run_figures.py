"""Figures show what brute force counts, choose examples as they say, and are never overwritten."""

import json
import xml.etree.ElementTree as ET
from collections import Counter

import numpy as np
import pytest
import scipy.stats
from PIL import Image
from scored_runs import STEPS, options, write_runs

from ivt_jax.__main__ import main
from ivt_jax.data.records import open_dataset
from ivt_jax.errors import UserError
from ivt_jax.evaluate import photo
from ivt_jax.figures import INDEX, check_place, write_figures
from ivt_jax.inference import load
from ivt_jax.reporting import figure as figures_on_disk
from ivt_jax.reporting import numbers, photos
from ivt_jax.reporting.gather import gather
from ivt_jax.reporting.recorded import read_record
from ivt_jax.reporting.scored import names_of
from ivt_jax.reporting.scores import masking

LEGIBLE = 8 / 0.75  # pixels of a sheet that are 8 points


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp("figures"))


@pytest.fixture(scope="module")
def gathered(runs):
    _, ours, base = runs
    return gather(options(ours, base=base))


@pytest.fixture
def written(gathered, tmp_path, monkeypatch):
    monkeypatch.setattr(figures_on_disk, "SCALE", 1)
    write_figures(gathered, tmp_path / "out")
    return tmp_path / "out"


def similarities(run, data):
    """Cosines in float64, and the identities of captions and photos."""
    source, model = open_dataset(data, "synthetic_people", "test"), load(run)
    records = [source[i] for i in range(len(source))]
    texts = [caption for record in records for caption in record["captions"]]
    owners = [record["identity"] for record in records for _ in record["captions"]]
    images = [photo(source, i) for i in range(len(source))]
    scores = model.encode_text(texts).astype(np.float64) @ model.encode_image(images).T
    return scores, np.array(owners), np.array([record["identity"] for record in records])


@pytest.mark.filterwarnings("ignore:.*were cut to")
def test_recall_is_what_sorting_all_scores_counts(gathered, runs):
    data, ours, base = runs
    found = next(figure for figure in gathered.figures if figure.name == "recall").numbers
    for path in (ours, base):
        scores, queries, gallery = similarities(path, data)
        right = gallery[np.argsort(-scores, axis=1)] == queries[:, None]
        expected = 100 * np.maximum.accumulate(right, axis=1).mean(axis=0)
        most = min(50, len(gallery))
        assert found[path.name]["k"] == list(range(1, most + 1))
        np.testing.assert_allclose(found[path.name]["percent"], expected[:most])


@pytest.mark.filterwarnings("ignore:.*were cut to")
def test_strips_show_the_best_photos(gathered, runs):
    data, ours, base = runs
    sheets = [one for one in gathered.figures if one.name.startswith("ranking-random")]
    shown = [query for sheet in sheets for query in sheet.numbers["queries"]]
    tables = {path.name: similarities(path, data) for path in (ours, base)}
    assert len(sheets) == 2 and len(shown) == 4
    for one in shown:
        for name, row in one["runs"].items():
            scores, queries, gallery = tables[name]
            order = np.argsort(-scores[one["query"]], kind="stable")
            right = gallery[order] == queries[one["query"]]
            np.testing.assert_allclose(row["scores"], scores[one["query"]][order][:10], atol=1e-5)
            assert row["right"] == right[:10].tolist()
            assert row["first_right_rank"] == 1 + int(np.argmax(right))


def test_a_rank_that_does_not_exist_is_none():
    ranks, valid = np.array([[0, 4], [3, 9], [9, 9]]), np.array([[1, 1], [1, 0], [0, 0]], bool)
    first = numbers.first_ranks(ranks, valid)
    assert first.tolist() == [1, 4, 0]
    curve = numbers.recall_curve(first, gallery=9)
    assert curve["k"] == [*range(1, 10)]
    np.testing.assert_allclose(curve["percent"], 100 / 3 * np.array([1, 1, 1, 2, 2, 2, 2, 2, 2]))


def test_random_queries_are_a_function_of_the_number_of_captions():
    chosen = numbers.random_queries(1000, 6)
    assert chosen == numbers.random_queries(1000, 6) == sorted(set(chosen))
    assert len(chosen) == 6 and max(chosen) > 500 > min(chosen)
    assert numbers.random_queries(4, 6) == [0, 1, 2, 3]


def test_differences_are_shown_in_both_directions():
    rng = np.random.default_rng(3)
    ours, base = rng.integers(1, 40, (2, 200))

    def gain(query, one, two):
        return 1 / one[query] - 1 / two[query]

    for one, two in ((ours, base), (base, ours)):
        chosen = numbers.differing_queries(one, two, 5)
        rest = set(range(200)) - set(chosen)
        assert len(chosen) == 5
        least = min(gain(query, one, two) for query in chosen)
        assert 0 < least >= max(gain(query, one, two) for query in rest)
    assert numbers.differing_queries(ours, ours, 5) == []
    assert numbers.differing_queries(np.array([1, 1, 0]), np.array([9, 30, 3]), 5) == [1, 0]


def test_worst_queries_come_last():
    assert numbers.worst_queries(np.array([3, 1, 9, 9, 1]), 4) == [2, 3, 0]


def test_attributes_are_counted():
    rng = np.random.default_rng(0)
    notes = [
        {
            "attributes": {"hat": str(rng.integers(3)), "bag": str(rng.integers(2))},
            "mentioned": [[n for n in ("hat", "bag") if rng.random() < 0.7] for _ in range(2)],
        }
        for _ in range(40)
    ]
    told = [(photo, caption) for photo in range(40) for caption in range(2)]
    hits, shown = rng.random(80) < 0.5, rng.integers(0, 40, 80)
    rows = numbers.by_attribute(notes, told, hits=hits, photos=shown)
    counted, right, wrong = Counter(), Counter(), Counter()
    for query, (photo_row, caption) in enumerate(told):
        for name in notes[photo_row]["mentioned"][caption]:
            counted[name] += 1
            right[name] += bool(hits[query])
            other = notes[shown[query]]["attributes"][name]
            wrong[name] += other != notes[photo_row]["attributes"][name]
    assert {row["attribute"] for row in rows} == {"hat", "bag"}
    assert rows[0]["other_value"] >= rows[1]["other_value"]
    for row in rows:
        name = row["attribute"]
        assert row["captions"] == counted[name]
        assert row["R1"] == pytest.approx(100 * right[name] / counted[name])
        assert row["other_value"] == pytest.approx(100 * wrong[name] / counted[name])


def test_lengths_and_words_are_counted():
    rng = np.random.default_rng(1)
    texts = [["red"] * rng.integers(1, 9) + ["hat"] * rng.integers(0, 2) for _ in range(90)]
    hits = rng.random(90) < 0.4
    rows = numbers.by_length([" ".join(words) for words in texts], hits)
    assert sum(row["captions"] for row in rows) == 90
    for row in rows:
        members = [
            h for w, h in zip(texts, hits, strict=True) if row["least"] <= len(w) <= row["most"]
        ]
        assert row["captions"] == len(members)
        assert row["R1"] == pytest.approx(100 * np.mean(members))
    (hat,) = numbers.by_word(texts, hits)  # all have red
    members = [h for words, h in zip(texts, hits, strict=True) if "hat" in words]
    assert (hat["word"], hat["captions"]) == ("hat", len(members))
    assert hat["R1"] == pytest.approx(100 * np.mean(members))


@pytest.mark.parametrize(("hits", "total"), [(0, 10), (3, 11), (500, 618), (7, 7)])
def test_intervals_are_those_of_wilson(hits, total):
    expected = scipy.stats.binomtest(hits, total).proportion_ci(method="wilson")
    np.testing.assert_allclose(
        numbers.interval(hits, total), [100 * x for x in expected], atol=1e-6
    )


def test_thinning_keeps_extremes_and_gaps():
    steps, values = list(range(5000)), list(np.sin(np.arange(5000)) * 0.1)
    values[1234], values[4321], values[2500] = 9.0, -9.0, None
    xs, ys = numbers.thinned(steps, values)
    assert len(xs) < 500 and xs == sorted(xs)
    assert (ys[xs.index(1234)], ys[xs.index(4321)], ys[xs.index(2500)]) == (9.0, -9.0, None)
    assert numbers.thinned([1, 2], [None, 3.0]) == ([1, 2], [None, 3.0])


def test_heat_is_dark_where_it_is_warm():
    grey = Image.new("RGB", (40, 80), (200, 200, 200))
    heat = np.array([[0.0, -5.0], [0.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    pixels = np.asarray(photos.warmed(grey, heat, most=2.0), float)
    brightness = pixels @ [0.299, 0.587, 0.114]
    assert brightness[-5:, -5:].max() < 100 < brightness[:5].min()
    assert np.ptp(pixels[:5, :5], axis=-1).max() == 0  # no heat: grey
    np.testing.assert_array_equal(
        photos.warmed(grey, heat, most=0.0), photos.warmed(grey, 0 * heat, most=1.0)
    )


def test_all_is_written_and_equal_each_time(written, gathered, tmp_path):
    facts = json.loads((written / INDEX).read_text())
    assert facts["scores"]["ours"]["metrics"] == gathered.runs[0].evaluation.metrics
    drawn = {name for name, figure in facts["figures"].items() if figure["files"]}
    assert {"training", "recall", "ranking-random-1", "sentences", "words"} <= drawn
    assert "not_drawn" in facts["figures"]["masking"]
    expected = {INDEX, *(f for figure in facts["figures"].values() for f in figure["files"])}
    assert {path.name for path in written.iterdir()} == expected
    for name in drawn:
        with Image.open(written / f"{name}-dark.png") as picture:
            assert picture.width == 640
    write_figures(gathered, tmp_path / "again")
    for path in written.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_every_svg_is_whole_and_legible(written):
    found = list(written.glob("*.svg"))
    assert found
    for path in found:
        for element in ET.parse(path).iter():
            tag = element.tag.rpartition("}")[2]
            if tag == "image":
                assert element.attrib["href"].startswith("data:image/jpeg;base64,")
            if tag == "text":
                assert float(element.attrib["font-size"]) >= LEGIBLE
                assert 0 <= float(element.attrib["x"]) <= 640


def test_nothing_is_overwritten_unasked(written, runs, capsys):
    _, ours, _ = runs
    assert main(["figures", str(ours), f"--out={written}"]) == 2
    assert "is there already" in capsys.readouterr().err
    check_place(written, replace=True)
    (written / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"also holds notes\.txt"):
        check_place(written, replace=True)
    (written / "notes.txt").unlink()
    (written / INDEX).write_text("[]")
    with pytest.raises(UserError, match="is damaged"):
        check_place(written, replace=True)
    (written / INDEX).unlink()
    with pytest.raises(UserError, match="is no folder of figures"):
        check_place(written, replace=True)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["nowhere"], "is no run folder"),
        (["{ours}", "--base={ours}"], "named twice"),
        (["{ours}", "--compare", *"abcdef"], "7 runs"),
        (["{ours}", "--base=nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_sentences(runs, tmp_path, capsys, argv, words):
    given = [word.format(ours=runs[1]) for word in argv]
    assert main(["figures", *given, f"--out={tmp_path / 'x'}"]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_run_without_scores_has_its_curves(runs, tmp_path, capsys, monkeypatch):
    """Data that is gone: what can be drawn is, and the rest has its reason."""
    monkeypatch.setattr(figures_on_disk, "SCALE", 1)
    _, ours, _ = runs
    out = tmp_path / "x"
    assert main(["figures", str(ours), "--data=gone", f"--out={out}"]) == 0
    said = capsys.readouterr().out
    assert "not drawn: Where a sentence is seen: dataset synthetic_people is not in gone" in said
    assert sorted(path.stem for path in out.glob("*.png")) == ["training-dark", "training-light"]
    numbers_shown = json.loads((out / INDEX).read_text())["figures"]["training"]["numbers"]
    assert numbers_shown["Gradient norm"]["gradient_norm"]["value"][2] is None
    assert numbers_shown["Retrieval (percent)"]["val R1"] == {"step": [STEPS], "value": [12.5]}


def test_masking_takes_finished_runs_of_two_ratios(gathered, runs):
    """Points are drawn from two ratios on; unfinished runs are named and left out."""
    both = masking(gathered.runs)
    assert both.canvas is None and "ours is not finished; base is not finished" in both.missing
    configs = [path / "config.json" for path in runs[1:]]
    before = [file.read_text() for file in configs]
    try:
        for file, ratio in zip(configs, (0.2, 0.4), strict=True):
            config = json.loads(file.read_text())
            config["training"]["steps"] = STEPS
            config["masking"] |= {"image_ratio": ratio, "text_ratio": ratio}
            file.write_text(json.dumps(config))
        assert read_record(runs[1]).finished
        drawn = masking(gathered.runs)
        assert drawn.canvas is not None
        for point, run in zip(drawn.numbers["points"], gathered.runs, strict=True):
            assert point["R1"] == run.evaluation.metrics["R1"]
        assert [point["ratio"] for point in drawn.numbers["points"]] == [0.2, 0.4]
        assert drawn.numbers["other_differences"] == ["model.mlp_ratio"]
        assert "model.mlp_ratio" in drawn.note
        alone = masking(gathered.runs[:1])
        assert alone.canvas is None and "only 0.2 is among them" in alone.missing
    finally:
        for file, text in zip(configs, before, strict=True):
            file.write_text(text)


def test_an_exported_folder_is_no_run(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "ivt"}')
    assert main(["figures", str(tmp_path)]) == 2
    assert "is not that of a training" in capsys.readouterr().err


def test_runs_are_named_by_what_tells_them_apart(tmp_path):
    paths = [tmp_path / "a" / "finetune", tmp_path / "b" / "finetune"]
    assert names_of(paths) == ["a/finetune", "b/finetune"]
    assert names_of(paths[:1]) == ["finetune"]
