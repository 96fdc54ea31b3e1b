"""The lock of a work directory: who has it, and who is gone."""

import json
import os
import subprocess
import sys
import threading

import pytest

from ivt_jax.errors import UserError
from ivt_jax.training import lock as lock_module
from ivt_jax.training.lock import FILE, Lock


@pytest.fixture
def other():
    """A process that lives while a test runs."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def write(folder, **holder) -> None:
    (folder / FILE).write_text(json.dumps(holder))


def held_by(pid: int, host: str | None = None) -> dict:
    host = host or os.uname().nodename
    holder = {"host": host, "pid": pid, "born": lock_module._born(pid), "started": "today"}
    return holder | {"space": lock_module._process_space()}


def test_a_lock_is_taken_beaten_and_released(tmp_path):
    lock = Lock(tmp_path / "new")
    assert lock.note == ""
    assert lock.beat() and lock.beat()
    assert json.loads(lock.file.read_text())["beats"] == 2
    lock.release()
    lock.release()
    assert list((tmp_path / "new").iterdir()) == []


def test_a_living_holder_on_this_host_is_named(tmp_path, other):
    write(tmp_path, **held_by(other.pid))
    with pytest.raises(UserError, match=f"process {other.pid} on .*, started today"):
        Lock(tmp_path)


def test_a_dead_holder_is_replaced_with_a_note(tmp_path, other):
    write(tmp_path, **held_by(other.pid))
    other.kill()
    other.wait()
    assert f"left behind by process {other.pid}" in Lock(tmp_path).note


def test_a_container_on_a_host_of_this_name_is_watched_and_not_looked_up(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "SILENCE", 0.5)
    holder = held_by(os.getpid()) | {"space": "pid:[1]"}
    write(tmp_path, **holder, beats=0)
    thread = threading.Timer(0.2, write, [tmp_path], {**holder, "beats": 1})
    thread.start()
    with pytest.raises(UserError, match="is in use"):
        Lock(tmp_path)
    thread.join()


def test_another_process_of_the_same_number_is_not_the_holder(tmp_path, other):
    write(tmp_path, **held_by(other.pid) | {"born": "1"})
    assert "left behind" in Lock(tmp_path).note


def test_a_silent_holder_on_another_host_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "SILENCE", 0.3)
    write(tmp_path, **held_by(1, host="elsewhere"), beats=7)
    assert "process 1 on elsewhere" in Lock(tmp_path).note


def test_a_beating_holder_on_another_host_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "SILENCE", 20.0)
    write(tmp_path, **held_by(1, host="elsewhere"), beats=7)
    beat = f"import json,pathlib,time; f=pathlib.Path({str(tmp_path / FILE)!r}); time.sleep(1); "
    beat += "t=f.with_suffix('.x'); t.write_text(f.read_text().replace('7','8')); t.replace(f)"
    with (
        subprocess.Popen([sys.executable, "-c", beat]),
        pytest.raises(UserError, match="elsewhere"),
    ):
        Lock(tmp_path)


def test_a_holder_that_lost_its_lock_knows(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "SILENCE", 0.3)
    first = Lock(tmp_path)
    first.file.write_text(json.dumps(held_by(1, host="elsewhere")))
    assert not first.beat()
    first.release()
    assert json.loads(first.file.read_text())["host"] == "elsewhere"


def test_a_torn_lock_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "SILENCE", 0.3)
    (tmp_path / FILE).write_text("")
    assert "left behind" in Lock(tmp_path).note
