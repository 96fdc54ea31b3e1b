"""`python -m ivt_jax doctor`: what of this machine and installation works, and cures for the rest.

Checks are functions that yield findings; only faults make the exit code 1.
"""

import io
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import ivt_jax

if TYPE_CHECKING:
    from packaging.requirements import Requirement

MARKS = {"ok": "✓", "note": "!", "fault": "✗"}
PLAIN_MARKS = {"ok": "ok   ", "note": "note ", "fault": "FAULT"}
OLDEST_PYTHON = ">=3.11"
RUN_DISK, RUN_MEMORY = 8.0, 8.0  # GiB: three checkpoints of the base model; one small CPU run


class Finding(NamedTuple):
    """One line of the report; `state` is "ok", "note" (works, could be better) or "fault"."""

    state: str
    what: str
    cure: str = ""


def main(argv: list[str]) -> int:
    """Prints every finding; returns 1 if there is a fault, 2 for an argument, else 0."""
    if argv:
        print(f"python -m ivt_jax doctor\n\n{__doc__}")
        return 0 if argv[0] in ("-h", "--help") else 2
    encoding = (sys.stdout.encoding or "ascii").lower()
    marks = MARKS if encoding.startswith("utf") else PLAIN_MARKS
    faults = 0
    print(f"ivt_jax {ivt_jax.__version__}")
    for check in (python, packages, devices, decoder, tokenizer, datasets, folders, machine):
        try:
            findings = list(check())
        except Exception as error:  # a report has to be finished whatever is broken
            findings = [Finding("fault", f"{check.__name__}: {type(error).__name__}: {error}")]
        for state, what, cure in findings:
            faults += state == "fault"
            print(f"{marks[state]} {what}" + (f"\n    -> {cure}" if cure else ""))
    print(f"{faults} to mend" if faults else "All that a run needs works.")
    return 1 if faults else 0


def python() -> Iterator[Finding]:
    """The interpreter's version."""
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    if SpecifierSet(OLDEST_PYTHON).contains(version, prereleases=True):
        yield Finding("ok", f"Python {version}")
    else:
        yield Finding("fault", f"Python {version} is not {OLDEST_PYTHON}", "install a newer one")


def requirements() -> "list[Requirement]":
    """Run-time ranges: requirements.txt of a checkout, else what the installed package declares."""
    from packaging.requirements import Requirement

    file = Path(__file__).parent.parent / "requirements.txt"
    if file.is_file():
        lines = [line.partition("#")[0].strip() for line in file.read_text("utf-8").splitlines()]
    else:
        lines = [line for line in metadata.requires("ivt-jax") or [] if "extra ==" not in line]
    return [Requirement(line) for line in lines if line]


def packages() -> Iterator[Finding]:
    """Each required package against its range."""
    good = []
    for wanted in requirements():
        install = f"python -m pip install '{wanted}'"
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            yield Finding("fault", f"{wanted.name} is not installed", install)
            continue
        if wanted.specifier.contains(version, prereleases=True):
            good.append(f"{wanted.name} {version}")
        else:
            what = f"{wanted.name} {version} is outside {wanted.specifier}"
            yield Finding("fault", what, install)
    if good:
        yield Finding("ok", f"packages: {', '.join(good)}")


def devices() -> Iterator[Finding]:
    """What JAX computes on, and whether an accelerator lies idle."""
    import jax

    from ivt_jax.training.libtpu import be_quiet_without_tpu

    be_quiet_without_tpu()
    found = jax.devices()
    kinds = sorted({device.device_kind for device in found})
    yield Finding("ok", f"JAX computes on {len(found)} x {', '.join(kinds)} ({found[0].platform})")
    if found[0].platform != "cpu":
        return
    if os.environ.get("JAX_PLATFORMS"):
        yield Finding("note", f"JAX_PLATFORMS={os.environ['JAX_PLATFORMS']} hides other devices")
    elif _has_gpu():
        cure = "python -m pip install '.[cuda]' (in the checkout)"
        yield Finding("note", "there is an NVIDIA GPU that JAX does not use", cure)
    elif any(Path("/dev").glob("accel[0-9]*")):
        cure = "python -m pip install '.[tpu]' (in the checkout)"
        yield Finding("note", "there is an accelerator, perhaps a TPU, that JAX does not use", cure)


def _has_gpu() -> bool:
    if not shutil.which("nvidia-smi"):
        return False
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=2, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return b"GPU" in listed.stdout


def decoder() -> Iterator[Finding]:
    """A JPEG is decoded, and one that was cut short is refused."""
    from PIL import Image

    from ivt_jax.data.images import ImageError, decode

    buffer = io.BytesIO()
    Image.new("RGB", (64, 96), (200, 30, 30)).save(buffer, "JPEG")
    whole = buffer.getvalue()
    shape = decode(whole, key="doctor").shape
    state = "ok" if shape == (96, 64, 3) else "fault"
    yield Finding(state, f"images: a JPEG of 96 x 64 pixels is decoded to {shape}")
    cure = "python -m pip install --force-reinstall pillow"
    try:
        decode(whole[: len(whole) // 2], key="doctor")
        yield Finding("fault", "images: a JPEG that was cut short is accepted", cure)
    except ImageError:
        yield Finding("ok", "images: a JPEG that was cut short is refused")


def tokenizer() -> Iterator[Finding]:
    """WordPiece splits a known word as it must."""
    from tokenizers import Tokenizer, models

    words = {"[UNK]": 0, "back": 1, "##pack": 2}
    pieces = Tokenizer(models.WordPiece(words, unk_token="[UNK]")).encode("backpack").tokens
    state = "ok" if pieces == ["back", "##pack"] else "fault"
    yield Finding(state, f"texts: WordPiece splits backpack into {' '.join(pieces)}")


def datasets() -> Iterator[Finding]:
    """TensorFlow Datasets without TensorFlow, and what has been prepared in ./data."""
    import tensorflow_datasets

    yield Finding("ok", f"data: TFDS {tensorflow_datasets.__version__}, no TensorFlow needed")
    prepared = sorted(path.parent.name for path in Path("data").glob("*/prepared.json"))
    if prepared:
        yield Finding("ok", f"data: ./data holds {', '.join(prepared)}")
        bare = [name for name in prepared if not Path("data", name, "vocab.txt").is_file()]
        if bare:
            cure = "download bert-base-uncased's vocab.txt; set --config.data.vocabulary"
            yield Finding("note", f"data: no vocabulary in {', '.join(bare)}", cure)
    else:
        cure = "python -m ivt_jax prepare --help; the demo needs none"
        yield Finding("note", "data: nothing is prepared in ./data", cure)


def folders() -> Iterator[Finding]:
    """Folders that runs write to."""
    wanted = {"runs": Path.cwd()}
    if cache := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        wanted["compiled programs (JAX_COMPILATION_CACHE_DIR)"] = Path(cache)
    for purpose, folder in wanted.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                yield Finding("ok", f"{purpose}: {folder} is writable")
        except OSError as error:
            cure = "change to, or name, a folder that you may write to"
            yield Finding("fault", f"{purpose}: {folder} is not writable ({error.strerror})", cure)


def machine() -> Iterator[Finding]:
    """Free disk and memory, and the terminal."""
    disk = shutil.disk_usage(Path.cwd()).free / 2**30
    cure = f"a base-size run keeps up to {RUN_DISK:.0f} GiB of checkpoints"
    enough = disk >= RUN_DISK
    yield Finding("ok" if enough else "note", f"free disk: {disk:.0f} GiB", "" if enough else cure)
    memory = _free_memory()
    if memory is not None:
        enough = memory >= RUN_MEMORY
        cure = "lower --config.training.batch_size, or use the variants :tiny and :small"
        what = f"free memory: {memory:.0f} GiB"
        yield Finding("ok" if enough else "note", what, "" if enough else cure)
    if sys.stdout.isatty() and (columns := shutil.get_terminal_size().columns) < 80:
        yield Finding("note", f"terminal: {columns} columns", "tables need 80")


def _free_memory() -> float | None:
    """GiB that a new program can have; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["MemAvailable"].split()[0]) / 2**20
