"""What processes tell each other, in two real ones that train nothing."""

import subprocess
import sys

import pytest
from runs import ROOT, environment, free_port, outputs

START = """
import sys
from ivt_jax.errors import UserError, run
from ivt_jax.training import cluster
from ivt_jax.training.rollcall import Place

def main(argv):
    number, port = int(argv[0]), argv[1]
    with cluster.joined(Place(f"127.0.0.1:{port}", 2, number, heartbeat_timeout=60)):
        work(number)
    print("left in order")

"""
TALK = """
def work(number):
    assert cluster.exchange("names", f"I am {number}") == ["I am 0", "I am 1"]
    assert cluster.from_first("word", f"of {number}") == "of 0"
    got = []
    for turn in range(2):
        got += cluster.to_first("lines", [f"{turn} from {number}"] if number or not turn else [])
        cluster.exchange(f"turn {turn}", "")
        got += cluster.to_first("lines", [])
    print(got)  # a line may come a turn early, never late
    try:
        with cluster.together("chores"):
            if number:
                raise UserError("the cupboard is bare", exit_code=5)
    except UserError as error:
        print(error.exit_code, error)
    try:
        cluster.exchange(f"only {number}", "", seconds=1)
    except UserError as error:
        print(error.exit_code, "not all processes came" in str(error))
    try:
        with cluster.together(f"chores of {number}", seconds=1):
            raise UserError("my own fault", exit_code=4)
    except UserError as error:
        print(error.exit_code, error)
    assert cluster.parting() is None
"""
FAIL = """
import time

def work(number):
    if number:
        raise UserError("this disk is broken", exit_code=73)
    while not cluster.parting():
        time.sleep(0.1)
    gone, text, code = cluster.parting()
    cluster.part(f"process {gone} says: {text}", code)
"""


def pair(work: str) -> list[subprocess.Popen]:
    """Two processes that run `work(number)` inside a joined run."""
    port = str(free_port())
    script = START + work + "\nsys.exit(run(main, sys.argv[1:]))"
    return [
        subprocess.Popen(
            [sys.executable, "-c", script, str(number), port],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]


def test_words_reach_whom_they_are_for():
    processes = pair(TALK)
    first, second = outputs(processes)
    assert [process.returncode for process in processes] == [0, 0], first + second
    assert "['0 from 0', '0 from 1', '1 from 1']" in first
    assert "[]" in second
    assert "5 process 1: the cupboard is bare" in first and "5 the cupboard is bare" in second
    assert "75 True" in first and "75 True" in second
    assert "4 my own fault" in first and "4 my own fault" in second, "though no other came"
    assert "left in order" in first and "left in order" in second


def test_who_fails_tells_the_others_and_all_leave_with_its_code():
    processes = pair(FAIL)
    first, second = outputs(processes)
    assert [process.returncode for process in processes] == [73, 73], first + second
    assert "error: this disk is broken" in second and "Traceback" not in second
    assert "left in order" not in first + second


def alone(script: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """One process, with environment variables that a cluster would set."""
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment() | variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("variables", [{}, {"SLURM_NTASKS": "1"}])
def test_an_ordinary_machine_starts_nothing(variables):
    script = (
        "from ivt_jax.training import cluster; from ivt_jax.training.rollcall import Place; import"
        " jax\nwith cluster.joined(Place()):\n    print(jax.distributed.is_initialized(),"
        " cluster.processes(), cluster.exchange('a', 'b'))"
    )
    done = alone(script, variables)
    assert done.stdout == "False 1 ['b']\n", done.stderr


def test_slurm_is_found_out():
    variables = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "node[3-4]", "SLURM_NTASKS": "2"}
    variables |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    script = (
        "from ivt_jax.training import cluster; from ivt_jax.training.rollcall import Place\n"
        "print(cluster._detect(Place(heartbeat_timeout=9)))"
    )
    done = alone(script, variables)
    assert "coordinator='node3:61447', processes=2, process=0" in done.stdout, done.stderr
    assert "heartbeat_timeout=9" in done.stdout and done.stdout.endswith("[0])\n")
