"""The front door, the errors a person sees, and the doctor."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ivt_jax
from ivt_jax import __main__, doctor
from ivt_jax.errors import EXIT_CANNOT_WRITE, UserError, run

ROOT = Path(__file__).parent.parent


def command(*argv: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *argv],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_help_names_every_command_and_loads_nothing_heavy():
    done = command("-X", "importtime", "-m", "ivt_jax", "--help")
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in __main__.COMMANDS)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "ivt_jax.errors" in loaded
    assert not loaded & {"jax", "numpy", "ml_collections", "tensorflow_datasets", "transformers"}


def test_unknown_command_names_the_nearest(capsys):
    assert __main__.main(["evalute"]) == 2
    assert "did you mean evaluate?" in capsys.readouterr().err
    assert __main__.main(["sing"]) == 2
    assert f"known are {', '.join(__main__.COMMANDS)}." in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_faulty_configuration_ends_with_one_list_before_jax(stage):
    flags = ["--config=configs/base.py", "--config.training.batch_size=-5", "--config.seeed=1"]
    done = command("-X", "importtime", "-m", f"{stage}.main", *flags)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert lines == [
        "error: 3 faults in the configuration:",
        "  seeed: is no key of configs/base.py; did you mean seed?",
        "  training.batch_size: must be at least 1 (got -5)",
        "  --workdir: is missing; a folder for checkpoints and logs",
    ]
    assert "| jax\n" not in done.stderr


def test_user_errors_are_sentences_and_others_are_not_hidden(capsys):
    def fails(argv):
        raise UserError(f"no {argv[0]}", exit_code=5)

    def breaks(argv):
        raise KeyError("bug")

    assert run(fails, ["photo"]) == 5
    assert capsys.readouterr().err == "error: no photo\n"
    assert run(lambda argv: None, []) == 0
    with pytest.raises(KeyError):
        run(breaks, [])


def test_files_out_of_reach_are_a_sentence_and_other_faults_are_not(capsys):
    def full(argv):
        error = OSError(errno.ENOSPC, "No space left on device", "runs/a")
        error.add_note("the run goes on from its last checkpoint")
        raise error

    def absent(argv):
        raise FileNotFoundError(errno.ENOENT, "No such file", "a.jpg")

    assert run(full, []) == EXIT_CANNOT_WRITE == 73
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("error: cannot read or write: ") and "runs/a" in told[0]
    assert told[1] == "the run goes on from its last checkpoint"
    with pytest.raises(FileNotFoundError):
        run(absent, [])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_sentence_that_cannot_be_said_changes_no_exit_code():
    with open("/dev/full", "w") as full:
        script = [sys.executable, "-m", "ivt_jax", "verify", "--run=/nowhere"]
        done = subprocess.run(script, cwd=ROOT, stderr=full, stdout=subprocess.PIPE, check=False)
    assert done.returncode == 4


@pytest.mark.parametrize(("thread", "ends"), [("time.sleep(600)", "gave up"), ("0", "in order")])
def test_a_thread_that_hangs_keeps_nobody_from_leaving(thread, ends):
    lines = (
        "import atexit, concurrent.futures, time; from ivt_jax.errors import end",
        f"concurrent.futures.ThreadPoolExecutor().submit(lambda: {thread})",
        "atexit.register(lambda: (time.sleep(1.0), print('in order')))",
        "print('gave up', end=' ')",
        "end(75, patience=0.5)",
    )
    done = command("-c", "\n".join(lines))
    assert done.returncode == 75 and done.stdout.strip().endswith(ends), done


def test_output_may_be_cut_by_its_reader():
    script = f"{sys.executable} -m ivt_jax --help | true"
    done = subprocess.run(script, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in done.stderr


def test_public_names_are_lazy():
    assert ivt_jax.__all__ == ["Gallery", "load"]
    with pytest.raises(AttributeError, match="has no attribute 'save'"):
        _ = ivt_jax.save


def test_doctor_finds_no_fault_here(capsys):
    assert doctor.main([]) == 0
    text = capsys.readouterr().out
    assert "JAX computes on 8 x cpu" in text
    assert "a JPEG that was cut short is refused" in text


def test_doctor_names_faults_and_cures(monkeypatch, capsys):
    def broken():
        raise OSError("no such device")
        yield

    Requirement = pytest.importorskip("packaging.requirements").Requirement
    wanted = [Requirement("numpy<1"), Requirement("no-such-package-here>=2")]
    monkeypatch.setattr(doctor, "requirements", lambda: wanted)
    monkeypatch.setattr(doctor, "devices", broken)
    assert doctor.main([]) == 1
    text = capsys.readouterr().out
    assert "is outside <1" in text
    assert "-> python -m pip install 'no-such-package-here>=2'" in text
    assert "broken: OSError: no such device" in text
    assert "3 to mend" in text


def test_doctor_writes_plain_marks_to_plain_terminals(monkeypatch):
    latin = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", latin)
    doctor.main([])
    latin.flush()
    assert b"\nok    Python 3" in latin.buffer.getvalue()


def test_doctor_reads_every_run_time_requirement():
    from packaging.requirements import Requirement

    names = {requirement.name for requirement in doctor.requirements()}
    wanted = {"jax", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "transformers"}
    assert wanted | {"ml_collections", "einops", "grain", "absl-py", "pytest"} <= names
    bounded = [wanted for wanted in doctor.requirements() if "<" in str(wanted.specifier)]
    assert len(bounded) == len(names)
    assert "0.11.1" not in Requirement("jax>=0.10.2,!=0.11.*,<0.13").specifier


def test_development_requirements_agree():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    lines = (ROOT / "requirements-dev.txt").read_text("utf-8").splitlines()
    packages = {line for line in lines if line and line[0] not in "#-"}
    assert packages == set(project["project"]["optional-dependencies"]["dev"])
