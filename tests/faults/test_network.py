"""The network between two processes is cut: row 14 of the faults. Needs root and `ip`."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from runs import (
    LONG,
    ROOT,
    command,
    environment,
    finish,
    outputs,
    read_metrics,
    wait_for_step,
)

HEARTBEAT = 10  # seconds
SLACK = 30  # seconds for a loaded machine
ADDRESSES = ("10.213.7.1", "10.213.7.2")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts():
    """Two network namespaces joined by a pair of virtual devices; their names."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("cutting a network needs root and the ip command")
    names = [f"ivt{os.getpid()}{letter}" for letter in "ab"]
    folders = [Path("/etc/netns", name) for name in names]
    try:
        for name, folder, address in zip(names, folders, ADDRESSES, strict=True):
            try:
                ip("netns", "add", name)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespace can be made here: {error.stderr}")
            folder.mkdir(parents=True)
            (folder / "hosts").write_text(
                f"127.0.0.1 localhost\n{address} {socket.gethostname()}\n"
            )
        ip("-n", names[0], "link", "add", "v0", "type", "veth", "peer", "name", "v1")
        ip("-n", names[0], "link", "set", "v1", "netns", names[1])
        for number, (name, address) in enumerate(zip(names, ADDRESSES, strict=True)):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", f"v{number}")
            ip("-n", name, "link", "set", f"v{number}", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name, folder in zip(names, folders, strict=True):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.chaos
def test_a_cut_network_ends_both_and_the_run_goes_on(data, undisturbed, tmp_path, hosts):
    place = (f"--coordinator={ADDRESSES[0]}:8476", "--num_processes=2")
    place += (f"--heartbeat_timeout={HEARTBEAT}", "--join_timeout=120")
    processes = [
        subprocess.Popen(
            [
                *("ip", "netns", "exec", name),
                *command("pretrain", data, tmp_path, *LONG, *place, f"--process_id={number}"),
            ],
            cwd=ROOT,
            env=environment(IVT_FAULT="slow@step"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number, name in enumerate(hosts)
    ]
    wait_for_step(tmp_path, 7, processes[0])
    ip("-n", hosts[0], "link", "set", "v0", "down")
    began = time.monotonic()
    said = outputs(processes)
    assert time.monotonic() - began < HEARTBEAT + 5 + SLACK
    left = [process.returncode for process in processes]
    assert set(left) <= {75, -signal.SIGABRT}, said
    assert "resumed at step" in finish("pretrain", data, tmp_path, *LONG)
    lines, references = read_metrics(tmp_path), read_metrics(undisturbed)
    assert [line["step"] for line in lines] == [line["step"] for line in references]
    for line, reference in zip(lines, references, strict=True):
        assert line["loss"] == pytest.approx(reference["loss"], rel=1e-5), line["step"]
