"""Whether a checkpoint is what was saved: fingerprints of arrays, SHA-256 of files, sealed JSON.

Orbax restores a file with a flipped bit without complaint, so both are compared on every restore.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from ivt_jax.disk import replace_text, sync
from ivt_jax.training.sharding import REPLICATED, path_name

RECORD = "fingerprint"  # the item of a checkpoint that says what its arrays are
_SEAL = "sha256"
_BLOCK = 1 << 22  # bytes hashed at once
_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}  # bytes of an element -> its bits


class Damaged(Exception):
    """A checkpoint is not what was saved; the message says what of it."""


class Leaf(NamedTuple):
    """What a checkpoint knows of one array; `fingerprint` is None where it was not taken."""

    dtype: str
    shape: tuple[int, ...]
    fingerprint: int | None


def fingerprints(tree) -> tuple[dict[str, Leaf], list[str]]:
    """A uint32 for each array of a tree, by path, and the paths that hold a non-finite value.

    The sum, modulo 2^32, of a bijective hash of each element's bits and place: it depends on
    neither the sharding nor the order of summation, and no change of one element escapes it.
    Every process has to call it, since the arrays may be spread over all.
    """
    named = [(path_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
    shardings = {getattr(leaf, "sharding", None) for _, leaf in named}
    meshes = {sharding.mesh for sharding in shardings if isinstance(sharding, NamedSharding)}
    whole = NamedSharding(meshes.pop(), REPLICATED) if meshes else None
    sums, finite = jax.device_get(
        jax.jit(_examine, out_shardings=whole)([leaf for _, leaf in named])
    )
    found = {
        name: Leaf(str(leaf.dtype), tuple(leaf.shape), int(value))
        for (name, leaf), value in zip(named, sums, strict=True)
    }
    return found, [name for (name, _), sound in zip(named, finite, strict=True) if not sound]


def _examine(leaves):
    finite = [
        jnp.isfinite(leaf).all() if jnp.issubdtype(leaf.dtype, jnp.inexact) else jnp.bool(True)
        for leaf in leaves
    ]
    return [_sum(leaf) for leaf in leaves], finite


def _sum(leaf) -> jax.Array:
    kind = _WORDS[leaf.dtype.itemsize]
    words = leaf.astype(kind) if leaf.dtype == bool else jax.lax.bitcast_convert_type(leaf, kind)
    place, stride = jnp.zeros(leaf.shape, jnp.uint32), 1
    for axis in reversed(range(leaf.ndim)):
        along = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
        place += along * np.uint32(stride % 2**32)
        stride *= leaf.shape[axis]
    mixed = _mix(words.astype(jnp.uint32) ^ _mix(place + np.uint32(0x9E3779B9)))
    return jnp.sum(mixed, dtype=jnp.uint32)


def _mix(word):
    """The finaliser of MurmurHash3: a bijection of uint32 in which every bit moves every other."""
    word = (word ^ (word >> 16)) * np.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * np.uint32(0xC2B2AE35)
    return word ^ (word >> 16)


def differing(found: dict[str, Leaf], saved: dict[str, Leaf]) -> list[str]:
    """Paths whose fingerprints are not those saved; both must have the same paths."""
    return [name for name, leaf in found.items() if leaf.fingerprint != saved[name].fingerprint]


def misfits(wanted: dict[str, Leaf], saved: dict[str, Leaf]) -> list[str]:
    """Lines on every array that one side lacks, or has in another shape or type; params first."""
    lines = []
    names = wanted.keys() | saved.keys()
    for name in sorted(names, key=lambda name: (name.startswith("optimizer"), name)):
        here, there = (
            f"{leaf.dtype} {leaf.shape}" if leaf else "nothing"
            for leaf in (wanted.get(name), saved.get(name))
        )
        if here != there:
            lines.append(f"{name}: {there} there, {here} here")
    return lines


def make_record(step: int, leaves: dict[str, Leaf], **items: Any) -> dict[str, Any]:
    """The item RECORD of a checkpoint: its arrays, and digests of its JSON items."""
    digests = {name: _digest(item) for name, item in items.items()}
    return _sealed({"step": step, "leaves": leaves, "items": digests})


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of the checkpoint in `folder`; None for one of a release that wrote none.

    Raises Damaged if it was changed or lost.
    """
    file = folder / RECORD / "metadata"
    if not file.exists():
        listing = folder / "_CHECKPOINT_METADATA"
        if (folder / "config").exists() or RECORD in listing.read_text(errors="replace"):
            raise Damaged(f"{file} is gone")
        return None
    record = _unsealed(file)
    record["leaves"] = {
        name: Leaf(dtype, tuple(shape), value)
        for name, (dtype, shape, value) in record["leaves"].items()
    }
    return record


def short_fingerprint(record: dict[str, Any]) -> str:
    """Ten digits that two checkpoints share if all their arrays are equal bit for bit."""
    return _digest(sorted(record["leaves"].items()))[:10]


def read_item(folder: Path, name: str, *, file: str = "metadata") -> Any:
    """A JSON item of the checkpoint in `folder`; Damaged if it is not the one recorded."""
    path = folder / name / file
    record = read_record(folder)
    item = _parsed(path)
    if record and record["items"][name] != _digest(item):
        raise Damaged(f"{path} was changed")
    return item


def write_manifest(folder: Path, manifest: Path) -> None:
    """Writes size and SHA-256 of every file below `folder`, all of it safe on the disk."""
    sync_tree(folder)  # Orbax writes files of its own after the arrays are safe
    sync(folder.parent)  # and the step's name
    files = {
        str(path.relative_to(folder)): [path.stat().st_size, _file_digest(path)]
        for path in _files(folder)
    }
    manifest.parent.mkdir(exist_ok=True)
    replace_text(manifest, json.dumps(_sealed({"files": files}), indent=1))


def check_files(folder: Path, manifest: Path, *, only: tuple[str, ...] = ("",)) -> bool:
    """Compares the files below `folder` with its manifest; False if it has none.

    `only` names the beginnings of the paths to read. Raises Damaged for a file that is missing
    or changed, ManifestDamaged for a damaged manifest.
    """
    if not manifest.exists():
        return False
    try:
        files = _unsealed(manifest)["files"]
    except Damaged as error:
        raise ManifestDamaged(str(error)) from error
    for name, (size, digest) in files.items():
        if not name.startswith(only):
            continue
        path = folder / name
        if not path.is_file():
            raise Damaged(f"{path} is gone")
        if path.stat().st_size != size:
            raise Damaged(f"{path} has {path.stat().st_size:,} bytes, {size:,} were written")
        if _file_digest(path) != digest:
            raise Damaged(f"{path} was changed: its SHA-256 is another")
    return True


class ManifestDamaged(Damaged):
    """The manifest itself was changed; the checkpoint may be whole."""


def sync_tree(folder: Path) -> None:
    """Returns when every file and folder below, and itself, is safe on the disk."""
    for path in [*_files(folder), *(p for p in folder.rglob("*") if p.is_dir()), folder]:
        sync(path)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _digest(item: Any) -> str:
    return hashlib.sha256(json.dumps(item, sort_keys=True).encode()).hexdigest()


def _sealed(item: dict[str, Any]) -> dict[str, Any]:
    return item | {_SEAL: _digest(item)}


def _unsealed(path: Path) -> dict[str, Any]:
    item = _parsed(path)
    if not isinstance(item, dict) or item.pop(_SEAL, None) != _digest(item):
        raise Damaged(f"{path} was changed")
    return item


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, FileNotFoundError) as error:
        raise Damaged(f"{path} cannot be read: {error}") from error
