"""A run of one process that hangs before its first step: row 11 of the faults."""

import pytest
from runs import LONG, finish

DEADLINES = ("--config.watchdog.startup=20",)


@pytest.mark.chaos
def test_a_start_that_hangs_leaves_with_the_stacks_of_its_threads(data, tmp_path):
    fault = {"IVT_FAULT": "sleep@startup.restore"}
    output = finish("pretrain", data, tmp_path, *LONG, *DEADLINES, code=75, **fault)
    assert "no progress for" in output and "in startup" in output
    stacks = (tmp_path / "stalls" / "process-0.txt").read_text()
    assert "in strike" in stacks and "in strike" in output and "loop.py" in stacks
