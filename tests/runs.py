"""Runs in real processes, as a user starts them: one process each, or several that are one run."""

import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np

from ivt_jax.data import synthetic
from ivt_jax.data.builders.dataset import write_dataset
from ivt_jax.data.builders.ingest import Split
from ivt_jax.training.checkpoint import FOLDER
from ivt_jax.training.telemetry import read_metrics

ROOT = Path(__file__).parent.parent
SIZES = {"train": 24, "val": 8, "test": 10}  # identities
SMALL = [
    "--config.model.width=32",
    "--config.model.depth=2",
    "--config.model.heads=2",
    "--config.model.patch_size=16",
    "--config.model.patch_stride=16",
    "--config.training.batch_size=8",
    "--config.training.log_steps=1",
    "--config.evaluation.batch_size=32",
    "--config.schedule.warmup_epochs=0.1",
    "--config.optimizer.learning_rate=0.001",
]
COMPARED = ("step", "kind", "loss", "learning_rate", "gradient_norm", "R1", "mAP")
STEPS = 60
LONG = (f"--config.training.steps={STEPS}", "--config.training.save_epochs=0.4")  # each 4 steps
PATIENCE = 300  # seconds until a process counts as hung, on a loaded machine


def write_data(folder: Path) -> Path:
    """Small drawn datasets: people with three splits, 60 scenes to pretrain on."""
    people = {s: synthetic.people_records(s, identities=n) for s, n in SIZES.items()}
    scenes = {"train": synthetic.scene_records("train", scenes=60)}
    for name, splits in (("synthetic_people", people), ("synthetic_scenes", scenes)):
        write_dataset(
            name,
            {s: Split(range(len(r)), r.__getitem__) for s, r in splits.items()},
            out=folder,
            vocabulary=synthetic.vocabulary(),
        )
    return folder


def command(stage: str, data: Path, workdir: Path, *options: str) -> list[str]:
    """The command of a small run: "pretrain" or "finetune"."""
    return [
        *(sys.executable, "-m", f"{stage}.main", f"--config=configs/demo.py:{stage}"),
        *(f"--workdir={workdir}", f"--config.data.directory={data}", *SMALL, *options),
    ]


def environment(*, devices: int = 1, **more: str) -> dict[str, str]:
    """That of a user's own process, with so many CPU devices; IVT_FAULT goes into `more`."""
    flags = "--xla_backend_optimization_level=0"
    if devices > 1:
        flags += f" --xla_force_host_platform_device_count={devices}"
    return os.environ | {"XLA_FLAGS": flags} | more


def start(stage, data, workdir, *options, devices: int = 1, **variables) -> subprocess.Popen:
    """Starts one process; its two outputs are one."""
    return subprocess.Popen(
        command(stage, data, workdir, *options),
        cwd=ROOT,
        env=environment(devices=devices, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_many(
    *arguments, processes: int, devices: int = 1, heartbeat: int = 60, **variables
) -> list[subprocess.Popen]:
    """Starts one run of so many processes, each with so many devices; arguments as of `start`."""
    place = (f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={processes}")
    place += (f"--heartbeat_timeout={heartbeat}", "--join_timeout=120")
    return [
        start(*arguments, *place, f"--process_id={number}", devices=devices, **variables)
        for number in range(processes)
    ]


def outputs(started: list[subprocess.Popen], *, patience: float = PATIENCE) -> list[str]:
    """What each process printed, after all have ended; kills them and fails after `patience`."""
    deadline = time.monotonic() + patience
    with ThreadPoolExecutor(len(started)) as readers:
        reading = [readers.submit(process.communicate) for process in started]
        for process in started:
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                for one in started:
                    one.kill()
        texts = [read.result()[0] for read in reading]
    assert time.monotonic() < deadline, f"not ended within {patience} s:\n" + "\n---\n".join(texts)
    return texts


def finish_many(*arguments, codes: int = 0, **options) -> list[str]:
    """Runs several processes to the end; returns what each printed; all must leave with `codes`."""
    started = start_many(*arguments, **options)
    texts = outputs(started)
    left = [process.returncode for process in started]
    assert left == [codes] * len(started), f"{left}\n" + "\n---\n".join(texts)
    return texts


def finish(*arguments, code: int = 0, **options) -> str:
    """Runs to the end and returns what was printed; the exit code must be `code`."""
    process = start(*arguments, **options)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, output
    return output


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for_step(workdir: Path, step: int, process: subprocess.Popen) -> None:
    """Returns when the run has logged so many lines; fails if the process ends before."""
    file = workdir / "metrics.jsonl"
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        if file.exists() and len(file.read_text().splitlines()) >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was not reached: {process.communicate()[0]}")


def wait_for_text(process: subprocess.Popen, text: str) -> str:
    """Reads what a process prints until `text` comes; returns it, that line included."""
    assert process.stdout is not None
    read = []
    for line in process.stdout:
        read.append(line)
        if text in line:
            return "".join(read)
    raise AssertionError(f"{text!r} was not said:\n{''.join(read)}")


def compared_metrics(workdir: Path) -> list[dict]:
    """The lines of a run's metrics without what depends on the clock."""
    return [{k: line[k] for k in COMPARED if k in line} for line in read_metrics(workdir)]


def arrays(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint by their path."""
    import orbax.checkpoint as ocp

    folder = (workdir / FOLDER / str(step)).absolute()

    def read(reader, item: Path):
        tree = reader.metadata(item).item_metadata.tree
        numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return reader.restore(item, restore_args=numpy)

    with ocp.PyTreeCheckpointer() as reader:
        items = {name: read(reader, folder / name) for name in ("params", "optimizer")}
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(items)
    }


def assert_same_run(workdir: Path, reference: Path) -> None:
    """Two finished runs of STEPS steps have equal metrics and equal arrays, bit for bit."""
    assert compared_metrics(workdir) == compared_metrics(reference)
    ours, theirs = arrays(workdir, STEPS), arrays(reference, STEPS)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
