"""The profiler records its window and nothing else; the compilation cache never costs a run."""

import logging
import os

import jax
import jax.numpy as jnp
import pytest

from ivt_jax.training.compilation_cache import use_compilation_cache
from ivt_jax.training.profiler import Profiler


def recorded(folder):
    return list(folder.rglob("*.xplane.pb"))


def run(folder, *, window, steps):
    said = []
    with Profiler(folder, steps=window) as profiler:
        for step in steps:
            profiler.before(step)
            result = jnp.ones(4) * step
            before = recorded(folder)
            said.append((profiler.after(step, result), len(recorded(folder)) - len(before)))
    return said


def test_the_window_is_recorded_once(tmp_path):
    said = run(tmp_path, window=(2, 3), steps=range(1, 6))
    assert [new for _, new in said] == [0, 0, 1, 0, 0]
    assert [bool(note) for note, _ in said] == [False, False, True, False, False]
    assert str(tmp_path) in said[2][0]


def test_a_resumed_or_stopped_run_records_its_part(tmp_path):
    assert [new for _, new in run(tmp_path / "resumed", window=(2, 3), steps=[3, 4])] == [1, 0]
    assert run(tmp_path / "stopped", window=(2, 9), steps=[1, 2, 3])
    assert len(recorded(tmp_path / "stopped")) == 1, "written when the run ends"
    run(tmp_path / "past", window=(2, 3), steps=[7, 8])
    run(tmp_path / "none", window=(0, 0), steps=[1, 2])
    assert not recorded(tmp_path / "past") + recorded(tmp_path / "none")


@pytest.fixture
def no_cache():
    chosen = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", chosen)


def test_programs_are_kept_in_the_users_cache(no_cache, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    use_compilation_cache()
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "ivt_jax" / "xla")
    assert (tmp_path / "ivt_jax" / "xla").is_dir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    use_compilation_cache()
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "ivt_jax" / "xla"), (
        "as chosen"
    )


def test_a_cache_that_cannot_be_written_costs_a_warning(no_cache, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        use_compilation_cache()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda *_: False)
    use_compilation_cache()
    assert jax.config.values["jax_compilation_cache_dir"] is None
    assert caplog.text.count("cannot be written") == 2


def test_a_cache_switched_off_stays_off(no_cache, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        use_compilation_cache()
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert jax.config.values["jax_compilation_cache_dir"] is None and not list(tmp_path.iterdir())
