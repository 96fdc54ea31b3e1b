"""Fingerprints against NumPy, on any mesh; every flipped bit is found; older checkpoints load."""

import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_checkpoint import forgive_abandoned_reads as _forgive  # noqa: F401
from test_checkpoint import fresh_state, on_mesh, restore, save

import ivt_jax
from ivt_jax.config import from_json
from ivt_jax.errors import UserError
from ivt_jax.model.ivt import IVTConfig
from ivt_jax.training.checkpoint import restore_params, saved_steps
from ivt_jax.training.integrity import (
    Damaged,
    ManifestDamaged,
    check_files,
    fingerprints,
    make_record,
    read_record,
)
from ivt_jax.training.state import split_model
from ivt_jax.verify_run import verify_run

OLD = Path(__file__).parent / "golden" / "old_release"


def reference(array: np.ndarray) -> int:
    """The fingerprint by its definition, one element after the other in Python integers."""

    def mix(word):
        word = ((word ^ (word >> 16)) * 0x85EBCA6B) % 2**32
        word = ((word ^ (word >> 13)) * 0xC2B2AE35) % 2**32
        return word ^ (word >> 16)

    words = array.reshape(-1).view(f"uint{8 * array.dtype.itemsize}").tolist()
    places = (mix((place + 0x9E3779B9) % 2**32) for place in range(len(words)))
    return sum(mix(word ^ place) for word, place in zip(words, places, strict=True)) % 2**32


def values(tree) -> dict[str, int | None]:
    return {name: leaf.fingerprint for name, leaf in fingerprints(tree)[0].items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (1,), (7, 5, 3)])
def test_the_fingerprint_is_its_definition(dtype, shape):
    array = np.asarray(jnp.asarray(np.random.default_rng(0).normal(size=shape) * 9, dtype))
    assert values({"a": array}) == {"a": reference(array)}


def test_the_fingerprint_is_the_same_on_every_mesh():
    state = fresh_state(3)
    expected = {
        jax.tree_util.keystr(path, simple=True, separator="/"): reference(np.asarray(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    for mesh in ((8, 1), (2, 4), (1, 8)):
        assert values(on_mesh(state, *mesh)[0]) == expected


def test_the_fingerprint_sees_every_bit_and_every_place():
    array = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    found = {values({"a": array})["a"]}
    for place in range(array.size):
        for bit in range(32):
            changed = array.copy()
            changed.reshape(-1).view(np.uint32)[place] ^= np.uint32(1 << bit)
            found.add(reference(changed))
    found |= {reference(np.roll(array, 1, axis)) for axis in (0, 1)}
    found |= {reference(array[[1, 0, 2, 3, 4, 5]]), reference(array.T.copy())}
    assert len(found) == 1 + array.size * 32 + 4


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named(value):
    state, _, _ = on_mesh(fresh_state(1), 2, 4)
    assert fingerprints(state)[1] == []
    kernel = state.params["blocks"]["mlp_text"]["up"]["kernel"]
    state.params["blocks"]["mlp_text"]["up"]["kernel"] = kernel.at[1, 5, 7].set(value)
    assert fingerprints(state)[1] == ["params/blocks/mlp_text/up/kernel"]


def test_a_changed_record_is_damage(tmp_path):
    leaves, _ = fingerprints({"a": np.ones(3, np.float32)})
    record = make_record(7, leaves, config={"b": (1, 2)}, metrics={"score": 0.1})
    (tmp_path / "fingerprint").mkdir()
    file = tmp_path / "fingerprint" / "metadata"
    file.write_text(json.dumps(record))
    found = read_record(tmp_path)
    assert found and found["leaves"] == leaves and found["step"] == 7
    file.write_text(json.dumps({**record, "step": 8}))
    with pytest.raises(Damaged, match="was changed"):
        read_record(tmp_path)
    file.unlink()
    (tmp_path / "_CHECKPOINT_METADATA").write_text('{"item_handlers": {"fingerprint": ""}}')
    with pytest.raises(Damaged, match="is gone"):
        read_record(tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with the steps 1 and 2."""
    folder = tmp_path_factory.mktemp("run")
    save(folder, {1: None, 2: None})
    return folder


def files_of(run: Path, step: int) -> list[Path]:
    return sorted(path for path in (run / "checkpoints" / str(step)).rglob("*") if path.is_file())


def flips(run: Path, count: int):
    """Flips one random bit after the other, each undone before the next."""
    rng = np.random.default_rng(0)
    files = [*files_of(run, 2), *(run / "integrity").glob("2.json")]
    for number in range(count):
        path = files[number % len(files)]
        content = path.read_bytes()
        if not content:
            continue
        bit = int(rng.integers(8 * len(content)))
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        yield path, bit
        path.write_bytes(content)


@pytest.mark.parametrize("count", [50, pytest.param(200, marks=pytest.mark.chaos)])
def test_every_flipped_bit_is_found_by_the_manifest(run, count):
    folder, manifest = run / "checkpoints" / "2", run / "integrity" / "2.json"
    for path, bit in flips(run, count):
        with pytest.raises(ManifestDamaged if path == manifest else Damaged):
            check_files(folder, manifest)
            raise AssertionError(f"bit {bit} of {path}")
    assert check_files(folder, manifest)


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.chaos)])
def test_without_a_manifest_no_flipped_bit_gives_other_weights(run, tmp_path, count):
    """Killed between commit and manifest: fingerprints stand alone, and let only harmless pass."""
    shapes = jax.eval_shape(lambda: fresh_state(2).params)
    expected = jax.device_get(fresh_state(2).params)
    manifest = (run / "integrity" / "2.json").rename(tmp_path / "2.json")
    try:
        for path, bit in flips(run, count):
            try:
                found = restore_params(run, 2, shapes)
            except UserError:
                continue
            for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
                np.testing.assert_array_equal(ours, theirs, err_msg=f"bit {bit} of {path}")
    finally:
        manifest.rename(run / "integrity" / "2.json")


@pytest.mark.parametrize("count", [3, pytest.param(200, marks=pytest.mark.chaos)])
def test_a_whole_checkpoint_raises_no_alarm(run, caplog, count):
    for _ in range(count):
        found, _ = restore(run, fresh_state(2))
        assert found is not None and int(found.step) == 2
    assert saved_steps(run) == [1, 2] and not caplog.records


@pytest.mark.parametrize("how", ["cut", "emptied", "deleted"])
def test_every_file_cut_emptied_or_deleted_is_found(run, how):
    folder, manifest = run / "checkpoints" / "2", run / "integrity" / "2.json"
    for path in files_of(run, 2):
        content = path.read_bytes()
        if how == "deleted":
            path.unlink()
        else:
            path.write_bytes(content[: len(content) // 2] if how == "cut" else b"")
        if content or how == "deleted":
            with pytest.raises(Damaged):
                check_files(folder, manifest)
        path.write_bytes(content)
    assert check_files(folder, manifest)


def test_a_damaged_manifest_does_not_cost_a_whole_checkpoint(run, tmp_path, caplog):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    manifest = copied / "integrity" / "2.json"
    manifest.write_text(manifest.read_text().replace("0", "1", 1))
    found, _ = restore(copied, fresh_state(2))
    assert found is not None and int(found.step) == 2
    assert "verified by its fingerprints alone" in caplog.text
    assert check_files(copied / "checkpoints" / "2", manifest), "it was written anew"


def test_verify_tells_which_steps_are_whole(run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    assert [(row.step, row.verdict) for row in verify_run(copied)] == [
        ("1", "whole"),
        ("2", "whole"),
    ]
    for path, _ in flips(copied, 1):
        rows = {row.step: row for row in verify_run(copied)}
        assert rows["1"].verdict == "whole" and rows["2"].verdict == "damaged"
        assert str(path) in rows["2"].detail
    whole = verify_run(run)
    assert rows["1"].fingerprint == whole[0].fingerprint != whole[1].fingerprint
    assert re.fullmatch("[0-9a-f]{10}", whole[0].fingerprint)
    (copied / "integrity" / "1.json").unlink()
    row = verify_run(copied)[0]
    assert (row.verdict, row.files, row.arrays) == ("whole", "no manifest", "10 of 10")


def test_a_checkpoint_of_the_release_before_fingerprints_loads(tmp_path, caplog):
    run = tmp_path / "run"
    shutil.copytree(OLD, run)
    config = from_json((run / "config.json").read_text())
    _, shapes = split_model(IVTConfig(**config.model))
    params = restore_params(run, 3, shapes)
    golden = json.loads((OLD / "fingerprints.json").read_text())
    assert values({"params": params}) == golden
    assert "older release" in caplog.text
    assert ivt_jax.load(run).step == 3
    assert verify_run(run)[0].verdict == "unproven"
