"""The benchmark compares like with like: both sides compute the same, and the report is whole."""

import json

import numpy as np
import pytest

from benchmarks import bench_ranking
from benchmarks.bench_case import cuhk_sized, plain_pairs, read_batch, write_case

torch = pytest.importorskip("torch")

SMALL = {"width": 32, "depth": 3, "heads": 4, "image_size": (48, 32), "vocabulary_size": 2048}
NOTHING = {"drop_path": 0.0, "dropout": 0.0, "share": 0.0}
SAME = {
    "masking.strategy": "none",
    "data.erase": 0.0,
    "model.drop_path": 0.0,
    "model.text_dropout": 0.0,
    "schedule.name": "constant",
    "schedule.warmup_epochs": 0.0,
    "optimizer.learning_rate": 5e-5,
}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench") / "case"
    write_case(folder, model=SMALL, batch=8, photos=5)
    return folder


def ours(case):
    from benchmarks.bench_ours import functions

    return functions(case, {"dtype": "float32", "config": SAME})


def theirs(case, attention="plain"):
    from benchmarks.bench_torch import functions

    spec = {"dtype": "float32", "attention": attention, "official": NOTHING}
    return functions(case, spec)


def same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_allclose(np.asarray(value), np.asarray(other[name]), atol=1e-4)


def test_all_sides_encode_alike(case):
    reference = ours(case)
    for attention in ("plain", "sdpa"):
        for name in ("images", "captions", "gradient"):
            same(reference[name](), theirs(case, attention)[name]())


def test_both_sides_take_the_same_step(case):
    one, other = ours(case)["step"], theirs(case)["step"]
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
    given = cuhk_sized(images=200, captions=400, width=32)
    found = bench_ranking.ours(*given)
    assert 20 < found["R1"] < 99, "neither trivial nor hopeless"
    assert bench_ranking.plain(*given) == pytest.approx(found, abs=1e-4)
    official = bench_ranking.official(*given)
    assert official == pytest.approx({name: found[name] for name in official}, abs=1e-3)
