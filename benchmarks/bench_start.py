"""How long a run takes from the command line to its first step, without and with compiled code."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
PATIENCE = 900.0  # seconds for one run


def first_step(data: Path, workdir: Path, *, cache: Path) -> float:
    """Seconds from the start of `python -m finetune.main` to its first step, of the tiny model.

    Raises RuntimeError with the last lines of a run that ended before.
    """
    command = [sys.executable, "-u", "-m", "finetune.main", "--config=configs/base.py:tiny"]
    command += [f"--workdir={workdir}", f"--config.data.directory={data}"]
    command += ["--config.training.batch_size=8", "--config.training.steps=1"]
    command += ["--config.training.log_steps=1", "--config.training.eval_epochs=0"]
    variables = {"JAX_COMPILATION_CACHE_DIR": str(cache), "TF_CPP_MIN_LOG_LEVEL": "2"}
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said, seconds = [], 0.0
    assert process.stdout
    for line in process.stdout:
        said.append(line)
        if line.startswith("step 1/") and not seconds:
            seconds = time.monotonic() - began
    process.wait(PATIENCE)
    process.stdout.close()
    if not seconds:
        raise RuntimeError(f"no first step: {''.join(said[-5:])}")
    return seconds


def imports() -> float:
    """Seconds that an interpreter takes to import what a training run imports."""
    code = "import ivt_jax.training.loop"
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    return time.monotonic() - began
