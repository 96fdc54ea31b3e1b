"""The benchmark compares like with like: both sides compute the same, and the report is whole."""

import io
import json
from typing import Any

import numpy as np
import pytest

from benchmarks import bench_ranking
from benchmarks import bench_report as report
from benchmarks.bench_case import cuhk_sized, plain_pairs, read_batch, write_case
from benchmarks.bench_sections import NOTHING, PLAIN

torch = pytest.importorskip("torch")

SMALL = {"width": 32, "depth": 3, "heads": 4, "image_size": (48, 32), "vocabulary_size": 2048}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench") / "case"
    write_case(folder, model=SMALL, batch=8, photos=5)
    return folder


def ours(case, **config):
    from benchmarks.bench_ours import functions

    return functions(case, {"dtype": "float32", "config": config})


def theirs(case, attention="plain", views=3):
    from benchmarks.bench_torch import functions

    spec = {"dtype": "float32", "attention": attention, "official": NOTHING, "views": views}
    return functions(case, spec)


def same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_allclose(np.asarray(value), np.asarray(other[name]), atol=1e-4)


def test_all_sides_encode_alike(case):
    reference = ours(case)
    for attention in ("plain", "sdpa"):
        for name in ("images", "captions"):
            same(reference[name](), theirs(case, attention)[name]())


@pytest.mark.parametrize(("levels", "views"), [("joint", 3), ("sentence", 1)])
def test_both_sides_take_the_same_step(case, levels, views):
    one = ours(case, **PLAIN | {"objective.levels": levels, "data.text_length": 60})["step"]
    other = theirs(case, views=views)["step"]
    for _ in range(3):  # the second and third loss show that the update was the same, too
        assert float(one()["loss"]) == pytest.approx(float(other()["loss"]), abs=1e-4)


def test_both_sides_encode_the_same_files(case):
    """Their photos repeat, one for each caption; ours come once."""
    one, other = ours(case)["encode"](), theirs(case)["encode"]()
    owners = json.loads((case / "captions.json").read_text())["photos"]
    same({**one, "images": one["images"][owners]}, other)


def test_the_official_way_drops_up_to_a_fifth_of_the_tokens(case):
    from benchmarks.bench_torch import OFFICIAL, Twin, _tensors

    twin = Twin(case, attention="plain", dtype="bfloat16")
    pairs = _tensors(twin, plain_pairs(read_batch(case, rows=2)))
    clean = twin.image_features(pairs["images"])
    twin.rates = OFFICIAL
    lengths = {twin._dropped(torch.zeros(1, 50, 1), None)[0].shape[1] for _ in range(200)}
    assert lengths == set(range(40, 51)), "any number of tokens up to a fifth"
    assert not torch.allclose(clean, twin.image_features(pairs["images"]))


def test_the_three_rankings_agree():
    given: Any = cuhk_sized(images=200, captions=400, width=32)
    found = bench_ranking.ours(*given)
    assert 20 < found["R1"] < 99, "neither trivial nor hopeless"
    assert bench_ranking.plain(*given) == pytest.approx(found, abs=1e-4)
    official = bench_ranking.official(*given)
    assert official == pytest.approx({name: found[name] for name in official}, abs=1e-3)


def test_the_report_holds_every_time_and_what_was_left_out(tmp_path):
    slow, quick = [2.0, 4.0, 3.0], [1.0, 2.0, 1.0]
    rows = [
        report.Row("plain", "encode images", "ours", quick, rate=8.0, unit="images/s"),
        report.Row("plain", "encode images", "PyTorch", slow, times=report.paired(slow, quick)),
    ]
    bars = [report.Bar("one", 1.3, "<=", 1.2), report.Bar("two", 21.0, ">=", 20)]
    about = {"machine": report.machine({"ours": {"device": "cpu"}}), "rounds": 3}
    file = report.write(
        tmp_path / "results", "tiny", rows=rows, bars=bars, left_out=["fits"], about=about
    )
    found = json.loads(file.read_text())
    assert [row["seconds"] for row in found["rows"]] == [quick, slow]
    assert [row["median_seconds"] for row in found["rows"]] == [1.0, 3.0]
    assert found["rows"][1]["times"] == 2.0, "the median of 2, 2 and 3"
    assert [bar["passed"] for bar in found["bars"]] == [False, True]
    assert found["left_out"] == ["fits"] and found["rounds"] == 3
    machine = found["machine"]
    assert machine["cores"] >= 1 and machine["accelerator"] == {"ours": "cpu"}
    release = torch.__version__.split("+")[0]  # its build follows
    assert machine["versions"]["torch"].startswith(release) and machine["commit"]
    assert file.name.startswith("tiny-20") and not list(file.parent.glob("*.tmp"))


def test_the_table_has_a_line_a_row_and_bars_say_whether_they_hold():
    rows = [report.Row("plain", "encode", "ours", [0.25], rate=32.0, unit="images/s", share=0.5)]
    lines = report.table(rows)
    assert len(lines) == 3 and len({line.count("|") for line in lines}) == 1
    for cell in ("plain: encode", "ours", "250 ms", "32 images/s", "50 %"):
        assert f"| {cell} |" in lines[2]
    assert str(report.Bar("ranking", 0.1, "<=", 1.0, "s")) == "pass  ranking: 0.10 <= 1 s"
    assert str(report.Bar("masking", 1.2, ">=", 1.35)).startswith("MISS")


def test_a_worker_does_what_it_is_told_and_says_what_fails():
    """Without processes: the loop of a worker on lists of lines."""
    from benchmarks import bench_workers

    commands = [
        {"do": "ranking", "share": 0.02},
        {"do": "run", "name": "plain", "times": 2},
        {"do": "run", "name": "missing"},
        {"do": "machine"},
    ]
    answers = io.StringIO()
    bench_workers.serve("torch", [json.dumps(command) for command in commands], answers)
    done, ran, failed, machine = (json.loads(line) for line in answers.getvalue().splitlines())
    assert done == {} and machine["torch"] == torch.__version__
    assert ran["seconds"] > 0 and ran["peak"] > 2**20 and 0 < ran["values"]["R1"] <= 100
    assert failed == {"error": "KeyError: 'missing'"}


@pytest.mark.slow
def test_a_quick_run_from_the_command_line(tmp_path, capfd):
    from benchmarks.bench import main

    assert main(["--quick", "--sections", "ranking", "--rounds=1", f"--out={tmp_path}"]) == 0
    (file,) = tmp_path.glob("tiny-*.json")
    found = json.loads(file.read_text())
    assert [row["contestant"] for row in found["rows"]] == [
        "ours",
        "official loop",
        "plain PyTorch",
    ]
    assert "step: not asked for" in found["left_out"]
    assert "| ranking: 615 captions, 307 photos | ours |" in capfd.readouterr().out
