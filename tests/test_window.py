"""What a line of metrics says of pace, utilisation and waiting, with a clock that is told."""

from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from ivt_jax.model.ivt import IVTConfig
from ivt_jax.training import window as module
from ivt_jax.training.chips import CHIPS, chip_of
from ivt_jax.training.flops import Work, step_flops
from ivt_jax.training.goodput import Goodput

MODEL = IVTConfig(image_size=(32, 32), width=32, depth=2, heads=4)
MASKING = {"strategy": "none", "image_ratio": 0.0, "text_ratio": 0.0, "draws": "sample"}
WORK = Work(MODEL, batch_size=4, views=1, masking=MASKING)


class Bench:
    """A window on a clock, with devices that end a step when told."""

    def __init__(self, tmp_path, monkeypatch):
        self.now = 100.0
        self.ended = True
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        spent = Goodput(tmp_path, quiet=True, began=100.0, clock=lambda: self.now)
        health = SimpleNamespace(skipped=0)
        state: Any = SimpleNamespace(step=0, opt_state=SimpleNamespace(health=health))
        data: Any = SimpleNamespace(epochs=lambda samples: {"epochs_people": samples / 8})
        self.window = module.Window(WORK, data, spent, state=state)
        self.spent = spent

    def batches(self, wait, real):
        while True:
            self.now += wait
            yield {"token_mask": np.arange(10) < np.full((4, 1, 1), real)}

    def step(self, *, wait=0.0, dispatch=0.0, real=5):
        self.window.next(self.batches(wait, real))
        with self.spent.span(self.window.kind):
            self.now += dispatch
        self.window.count({"loss": SimpleNamespace(is_ready=lambda: self.ended)})


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


def test_pace_is_that_of_steps_that_ended_without_compiling(bench):
    bench.step(dispatch=60.0)  # the first step compiles, and may run inside
    for _ in range(4):
        bench.step()
    bench.now += 8.0  # ends step 5; step 6 is already given to the devices
    bench.step()
    line = bench.window.read(5)
    assert line["pairs_per_second"] == pytest.approx(4 * 4 / 8.0)
    bench.step()
    bench.now += 1.0
    line = bench.window.read(7)
    assert line["pairs_per_second"] == pytest.approx(2 * 4 / 1.0)
    assert line["epochs_people"] == 3.5


def test_waiting_counts_while_the_devices_have_nothing_to_do(bench):
    bench.step(dispatch=1.0)
    bench.window.read(1)
    bench.step(wait=2.0)  # they had ended
    bench.ended = False
    bench.step(wait=3.0)  # they were at work
    bench.now += 5.0
    assert bench.window.read(3)["data_wait_percent"] == pytest.approx(20.0)
    assert bench.spent.total["data"] == 2.0 and bench.spent.total["step"] >= 3.0


@pytest.mark.parametrize("chip", [None, CHIPS["v5e"]])
def test_utilisation_counts_real_tokens_on_each_device(bench, chip):
    bench.window.chip = chip
    bench.step(dispatch=1.0)
    bench.window.read(1)
    for real in (4, 8):
        bench.step(real=real)
    bench.now += 2.0
    line = bench.window.read(3)
    flops = step_flops(MODEL, batch_size=4, views=1, image_tokens=5, text_tokens=6).model
    rate = flops / jax.device_count()  # a step a second
    assert line["tflops_per_second"] == pytest.approx(rate / 1e12)
    if chip is None:
        assert "mfu_percent" not in line
    else:
        assert line["mfu_percent"] == pytest.approx(100 * rate / 197e12)


def test_a_line_just_after_another_tells_no_pace(bench):
    bench.step()
    assert "pairs_per_second" not in bench.window.read(0)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-40GB", "A100-40"),
        ("NVIDIA A100-SXM4-80GB", "A100-80"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
    ],
)
def test_a_chip_is_found_by_what_jax_calls_it(kind, name):
    assert chip_of(kind) == CHIPS[name]


def test_an_unknown_chip_has_no_peak():
    assert chip_of("cpu") is None and chip_of("TPU v2") is None


@pytest.mark.parametrize(
    "kind",
    [
        "NVIDIA H100 NVL",
        "NVIDIA H200 NVL",
        "NVIDIA GB200",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
    ],
)
def test_a_slower_sister_or_a_slice_of_a_chip_has_not_its_peak(kind):
    assert chip_of(kind) is None
