"""Set before JAX is imported: eight CPU devices, cheap compilation, a cache that outlives runs."""

import os
from pathlib import Path

import pytest
from absl import flags

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
    ]
)
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".cache" / "jax")
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags


def pytest_collection_modifyitems(config, items):
    """Leaves the tests marked chaos out, unless -m speaks of them."""
    if "chaos" in config.option.markexpr:
        return
    config.hook.pytest_deselected(
        items=[item for item in items if item.get_closest_marker("chaos")]
    )
    items[:] = [item for item in items if not item.get_closest_marker("chaos")]


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Prepared datasets for runs in processes; see tests/runs.py."""
    from runs import write_data

    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def undisturbed(data, tmp_path_factory):
    """The folder of a pretraining that nothing happened to: what every disturbed one must equal."""
    from runs import LONG, STEPS, finish

    workdir = tmp_path_factory.mktemp("undisturbed")
    output = finish("pretrain", data, workdir, *LONG)
    assert f"step {STEPS} of {STEPS} is saved" in output
    return workdir
