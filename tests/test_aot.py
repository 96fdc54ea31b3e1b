"""Encoders exported as programs: the same embeddings without the model's code; bad files."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exporting import write_people, write_run
from jax import export
from safetensors.numpy import load_file, save_file

import ivt_jax
from ivt_jax.__main__ import main
from ivt_jax.aot import PLATFORMS, PROGRAMS, WEIGHTS, flat, nested, program_encoders
from ivt_jax.convert.folder import CONFIG, SUMS
from ivt_jax.errors import UserError
from ivt_jax.retrieval.encoding import encode_images
from ivt_jax.retrieval.fingerprint import fingerprint
from ivt_jax.training.sharding import make_mesh

ROOT = Path(__file__).parent.parent
CAPTIONS = ["a woman in a red coat", "a man", "a " * 40]
TRACING = ("flax", "orbax", "optax", "ivt_jax.model.ivt", "tensorflow_datasets", "torch")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    data = write_people(tmp_path_factory.mktemp("data"), identities=2)
    return write_run(tmp_path_factory.mktemp("runs") / "run", data, layers="scan")


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "model"
    assert main(["export", f"--run={run}", f"--out={out}", "--to=jax"]) == 0
    return out


@pytest.fixture
def copy(folder, tmp_path):
    """A folder to damage, without checksums, so that each check answers for itself."""
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / SUMS).unlink()
    return tmp_path / "model"


def photos(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 96, 48, 3), np.uint8)


def embeddings(model, count: int = 5) -> np.ndarray:
    with pytest.warns(UserWarning, match="1 of 3 captions were cut"):
        texts = model.encode_text(CAPTIONS)
    return np.concatenate([model.encode_image(photos(count)), texts])


@pytest.fixture(scope="module")
def expected(run):
    return embeddings(ivt_jax.load(run))


def test_programs_embed_as_the_model_does(folder, run, expected):
    found = ivt_jax.load(folder)
    np.testing.assert_allclose(embeddings(found), expected, atol=1e-6)
    assert (found.step, found.dtype) == (7, "float32")
    assert fingerprint(found) == fingerprint(ivt_jax.load(run)), "one gallery serves both"


def test_a_program_runs_on_one_device_as_on_eight(folder, expected):
    model = ivt_jax.load(folder)
    programs = [export.deserialize(bytearray((folder / name).read_bytes())) for name in PROGRAMS]
    assert all(program.platforms == PLATFORMS for program in programs)
    one = program_encoders(programs, make_mesh(data=-1, fsdp=1, devices=jax.devices()[:1]))
    params = jax.device_get(model.params)
    found = encode_images(one, params, photos(5), batch_size=2)
    np.testing.assert_allclose(found, expected[:5], atol=1e-6)


def test_loading_and_encoding_import_no_model(folder, tmp_path, expected):
    np.save(tmp_path / "photos.npy", photos(5))
    code = f"""
import sys, numpy as np, ivt_jax
model = ivt_jax.load({str(folder)!r})
np.save("found.npy", model.encode_image(np.load("photos.npy")))
model.encode_text(["a red coat"])
print(*(name for name in {TRACING!r} if name in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected[:5], atol=1e-6)


def test_flat_and_nested_are_each_other_s_inverse(run):
    params = ivt_jax.load(run).params
    back = nested(flat(params))
    assert jax.tree.structure(back) == jax.tree.structure(params)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, back, params)))


def refusal(folder, **options) -> str:
    with pytest.raises(UserError) as caught:
        ivt_jax.load(folder, **options)
    return str(caught.value)


def test_files_that_do_not_fit_are_sentences(copy, folder):
    file = copy / PROGRAMS[1]
    whole = file.read_bytes()
    for bad in (b"", whole[: len(whole) // 2], b"\0" * 500, (folder / CONFIG).read_bytes()):
        file.write_bytes(bad)
        words = refusal(copy)
        assert f"{file} cannot be read by JAX {jax.__version__}" in words
        assert f"written by JAX {jax.__version__}; export it again" in words
    file.unlink()
    assert f"lacks {PROGRAMS[1]}" in refusal(copy)


def test_weights_that_do_not_fit_are_named(copy):
    weights = load_file(copy / WEIGHTS)
    weights["norm/scale"] = weights["norm/scale"][:-1]
    weights["more"] = weights.pop("norm/bias")
    save_file(weights, copy / WEIGHTS)
    assert "does not fit image_encoder.jaxexport: more, norm/bias, norm/scale" in refusal(copy)


def test_a_vocabulary_larger_than_the_word_table_is_a_sentence(copy):
    with (copy / "vocab.txt").open("a") as file:
        file.writelines(f"zebra{number}\n" for number in range(2000))
    assert "rows of the word table in" in refusal(copy)


def test_a_changed_file_is_found_by_its_checksum(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    file = tmp_path / "model" / WEIGHTS
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert f"{file} is not the file that {SUMS} lists" in refusal(tmp_path / "model")


def test_a_program_that_calls_out_of_xla_is_not_run(copy):
    outside = export.export(jax.jit(lambda x: jnp.linalg.qr(x)[0]))(jnp.ones((3, 3)))
    (copy / PROGRAMS[0]).write_bytes(outside.serialize())
    assert "calls code outside of XLA" in refusal(copy)


def test_a_configuration_of_no_program_is_a_sentence(copy):
    facts = json.loads((copy / CONFIG).read_text())
    for change in ({"dtype": "int4"}, {"computation": None}):
        (copy / CONFIG).write_text(json.dumps(facts | change))
        assert f"{copy / CONFIG} does not say in which dtype" in refusal(copy)


def test_a_foreign_program_is_a_sentence(copy):
    program = export.export(jax.jit(lambda x: x + 1), platforms=PLATFORMS)(jnp.ones(3))
    (copy / PROGRAMS[0]).write_bytes(program.serialize())
    assert "is a program, but none that ivt_jax wrote" in refusal(copy)


def test_a_program_for_other_devices_is_a_sentence(copy):
    program = export.export(jax.jit(lambda x: x + 1), platforms=("cuda",))(jnp.ones(3))
    (copy / PROGRAMS[0]).write_bytes(program.serialize())
    assert "is for cuda, and the devices here are cpu" in refusal(copy)


def test_what_a_folder_does_not_hold_is_said(folder, run, tmp_path):
    assert "holds step 7 and no other" in refusal(folder, step=3)
    assert "was exported in float32, and its programs cannot" in refusal(folder, dtype="bfloat16")
    assert "dtype is 'half'; choose one of" in refusal(folder, dtype="half")
    target = ["export", f"--run={run}", f"--out={tmp_path / 'twin'}", "--dtype=int8"]
    assert main(target) == 2
    assert json.loads((folder / CONFIG).read_text())["jax"] == jax.__version__
