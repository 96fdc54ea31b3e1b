"""What libtpu is told where there is no TPU: it would look for one, and complain at every start."""

import os

_ALONE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def look_for_no_tpu() -> None:
    """Sets the environment so that libtpu compiles without a TPU; what is set already stays."""
    for name, value in _ALONE.items():
        os.environ.setdefault(name, value)


def be_quiet_without_tpu() -> None:
    """The same if JAX found no TPU; to be called after it is imported and before it computes."""
    if "TPU_SKIP_MDS_QUERY" in os.environ:  # JAX sets it when it is imported and finds none
        look_for_no_tpu()
