"""The harness itself: what IVT_FAULT means."""

import os
import subprocess
import sys

import pytest
from runs import ROOT

from ivt_jax.training.faults import Fault, parse, strike


def test_faults_are_read():
    assert parse("kill@save.begin:3:1,spoil@batch:7") == (
        Fault("kill", "save.begin", 3, 1),
        Fault("spoil", "batch", 7, None),
    )
    assert parse("sleep@step::1") == (Fault("sleep", "step", None, 1),)


@pytest.mark.parametrize(
    "text", ["explode@step", "kill", "kill@", "kill@step:1:2:3", "kill@step:x"]
)
def test_what_is_no_fault_is_refused(text):
    with pytest.raises(ValueError):
        parse(text)


def test_nothing_strikes_without_the_variable():
    assert not strike("step", 1)


@pytest.mark.parametrize(("fault", "code"), [("kill@here:2", -9), ("kill@here:3", 0), ("", 0)])
def test_a_kill_strikes_at_its_step_only(fault, code):
    script = "from ivt_jax.training.faults import strike; strike('here', 2)"
    finished = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=os.environ | {"IVT_FAULT": fault}, check=False
    )
    assert finished.returncode == code
