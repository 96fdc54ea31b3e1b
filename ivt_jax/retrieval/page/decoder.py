"""Decodes an upload in a process of its own that has little memory, little time and no files.

`python -m ivt_jax.retrieval.page.decoder HEIGHT WIDTH` reads an image from stdin and writes its
pixels, resized for the model, as HEIGHT * WIDTH * 3 bytes; exit code 3 = not an image, see stderr.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import ivt_jax

SECONDS = 15
MEMORY = 2 * 2**30  # bytes; 50 megapixels need about 600 MB
NOT_AN_IMAGE = 3

_NEEDED = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")  # of the environment
_QUIET = {"OPENBLAS_NUM_THREADS": "1"}  # each of its threads would reserve memory


class UploadError(ValueError):
    """An upload that is no usable image; the text says why."""


def decode_upload(data: bytes, size: tuple[int, int], *, seconds: float = SECONDS) -> np.ndarray:
    """Bytes from a stranger -> uint8 (H, W, 3) of the size (H, W).

    Raises UploadError: not a JPEG, PNG or WebP, more than 50 megapixels, damaged, or too slow.
    """
    height, width = size
    command = [sys.executable, "-m", "ivt_jax.retrieval.page.decoder", str(height), str(width)]
    try:
        done = subprocess.run(
            command,
            input=data,
            capture_output=True,
            timeout=seconds,
            cwd=Path(ivt_jax.__file__).parents[1],
            env={name: os.environ[name] for name in _NEEDED if name in os.environ} | _QUIET,
        )
    except subprocess.TimeoutExpired:
        raise UploadError("it takes too long to decode") from None
    if done.returncode == NOT_AN_IMAGE:
        raise UploadError(done.stderr.decode("utf-8", "replace").strip())
    if done.returncode or len(done.stdout) != height * width * 3:
        raise UploadError("it cannot be decoded within the limits of memory and time")
    return np.frombuffer(done.stdout, np.uint8).reshape(height, width, 3)


def _limit() -> None:
    """Takes away what a decoder does not need."""
    with contextlib.suppress(ImportError):  # not on Windows
        import resource

        limits = {"RLIMIT_AS": MEMORY, "RLIMIT_CPU": SECONDS, "RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0}
        for name, value in limits.items():
            with contextlib.suppress(OSError, ValueError):  # a stricter limit holds already
                resource.setrlimit(getattr(resource, name), (value, value))


def main(argv: list[str]) -> int:
    """Runs in the child process."""
    from ivt_jax.data.images import ImageError, decode, evaluation_image

    _limit()
    try:
        pixels = decode(sys.stdin.buffer.read(), key="uploaded")
    except ImageError as error:
        print(error.detail, file=sys.stderr)
        return NOT_AN_IMAGE
    height, width = map(int, argv)
    sys.stdout.buffer.write(evaluation_image(pixels, (height, width)).tobytes())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
