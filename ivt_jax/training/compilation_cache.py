"""Compiled programs kept on disk, so that a resumed run starts at once."""

import contextlib
import logging
import os
from pathlib import Path

import jax

_SHORTEST = "jax_persistent_cache_min_compile_time_secs"


def use_compilation_cache(*, shortest: float | None = None) -> None:
    """Keeps compiled programs in the user's cache folder; a folder already chosen stays.

    What took fewer than `shortest` seconds to compile is not kept; None = JAX's own limit. JAX's
    own variables rule: JAX_COMPILATION_CACHE_DIR is another folder,
    JAX_ENABLE_COMPILATION_CACHE=false is none. A folder that cannot be written costs a warning.
    """
    settings = jax.config.values
    if shortest is not None and _SHORTEST.upper() not in os.environ:
        jax.config.update(_SHORTEST, shortest)
    if settings["jax_compilation_cache_dir"] or not settings["jax_enable_compilation_cache"]:
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "ivt_jax", "xla")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if writable:
        jax.config.update("jax_compilation_cache_dir", str(folder))
    else:
        logging.warning("%s cannot be written: every start compiles anew", folder)


@contextlib.contextmanager
def nothing_kept():
    """Keeps no program compiled inside: one for a machine that is not here cannot be read back."""
    before = jax.config.values[_SHORTEST]
    jax.config.update(_SHORTEST, float("inf"))
    try:
        yield
    finally:
        jax.config.update(_SHORTEST, before)
