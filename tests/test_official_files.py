"""Official checkpoints as files: in by config and `load`, out by the command, bad ones refused."""

import dataclasses
import hashlib
import json
import logging
import struct
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from golden import golden
from safetensors.numpy import load_file, save_file
from tiny import CONFIG, network

import ivt_jax
from configs.base import get_config
from ivt_jax.__main__ import main
from ivt_jax.config import resolved_json
from ivt_jax.convert.official import from_official, official_names, official_shapes, to_official
from ivt_jax.convert.positions import resize_positions
from ivt_jax.data.texts import load_tokenizer
from ivt_jax.errors import UserError
from ivt_jax.inference import load
from ivt_jax.model.ivt import IVTConfig
from ivt_jax.training.checkpoint import Checkpoints
from ivt_jax.training.state import TrainState
from ivt_jax.training.transfer import initial_params

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "coat", "man"]
HEADS = ("temp", "classifier_img.weight", "bottleneck_img.running_mean", "itm.bias")
STEMS = ("module.temp", "module.classifier_img", "module.bottleneck_img.running_mean", "module.itm")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with the tiny network at step 3."""
    folder = tmp_path_factory.mktemp("run")
    config = get_config()
    config.model.update(dataclasses.asdict(CONFIG))
    config.data.text_length = 12
    config.data.separator = "sep"
    (folder / "config.json").write_text(resolved_json(config))
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    with Checkpoints(folder, keep=2) as checkpoints:
        params = nnx.to_pure_dict(nnx.state(network(), nnx.Param))
        state = TrainState(jnp.int32(3), params, optax.sgd(0.1).init(params))
        checkpoints.save(state, metrics={"score": 1.0})
        checkpoints.wait()
    return folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    file = tmp_path_factory.mktemp("exported") / "ivt.safetensors"
    assert main(["export", f"--run={run}", f"--out={file}", "--to=official"]) == 0
    return file


def initial(file, vocabulary, config=CONFIG, **changes) -> Any:
    options = {"step": -1, "vit": "", "bert": "", "strict": True, "seed": 7, **changes}
    return initial_params(config, tokenizer=vocabulary, run=str(file), **options)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_names_shapes_and_order_of_the_state_dict():
    prefix = "encoder_vl."
    for wrapper, stride in (("rstp_finetune_stride16", 16), ("cuhk_finetune_stride12", 12)):
        listed = golden("param_names.json")[wrapper]["state_dict"]
        listed = [(n[len(prefix) :], x) for n, x in listed.items() if n.startswith(prefix)]
        buffer = ("embeddings.position_ids", [1, 512])
        assert listed.pop(3) == buffer
        shapes = official_shapes(IVTConfig(patch_stride=stride))
        assert [(name, list(shape)) for name, shape in shapes.items()] == listed
    small = list(to_official(network()))
    assert small.pop(3) == buffer[0]
    assert small == list(official_names(CONFIG))


def test_the_way_out_and_in_is_bit_equal(run, exported):
    tokenizer = load_tokenizer(run / "vocab.txt")
    expected = nnx.to_pure_dict(nnx.state(network(), nnx.Param))
    params, report = initial(exported, tokenizer)
    same(params, expected)
    assert "stayed random: nothing" in report and "position_ids" in report
    weights = load_file(exported)
    assert all(name.startswith("encoder_vl.") for name in weights)
    model = from_official(weights, image_size=CONFIG.image_size, num_heads=CONFIG.heads)
    same(to_official(model), to_official(network()))


def test_export_to_pth_is_what_pytorch_reads(run, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    file = tmp_path / "ivt.pth"
    assert main(["export", f"--run={run}", f"--out={file}", "--to=official", "--step=3"]) == 0
    assert f"wrote step 3 of {run} to {file}" in capsys.readouterr().out
    found = torch.load(file, weights_only=True)
    expected = to_official(network())
    assert list(found) == [f"encoder_vl.{name}" for name in expected]
    for name, value in expected.items():
        np.testing.assert_array_equal(found[f"encoder_vl.{name}"].numpy(), value)
    tokenizer = load_tokenizer(run / "vocab.txt")
    same(initial(file, tokenizer)[0], nnx.to_pure_dict(nnx.state(network(), nnx.Param)))


def test_faults_of_the_command(run, exported, tmp_path, capsys):
    out = ["--to=official", f"--run={run}"]
    assert main(["export", *out, f"--out={tmp_path / 'x.onnx'}"]) == 2
    assert "must end in .safetensors or .pth" in capsys.readouterr().err
    (tmp_path / "vocab.txt").write_text("other\n")
    assert main(["export", *out, f"--out={tmp_path / 'x.safetensors'}"]) == 2
    assert "another vocabulary" in capsys.readouterr().err
    assert not list(tmp_path.glob("x.*"))


def test_load_of_the_file_equals_load_of_the_run(run, exported):
    captions, images = ["a red coat", "man"], np.zeros((2, *CONFIG.image_size, 3), np.uint8)
    images[1] += 90
    expected, found = load(run), ivt_jax.load(exported)
    assert found.config.data.text_length == 12 and found.config.data.separator == "sep"
    np.testing.assert_allclose(
        found.encode_text(captions), expected.encode_text(captions), atol=1e-6
    )
    np.testing.assert_allclose(found.encode_image(images), expected.encode_image(images), atol=1e-6)


def wrapped(model, prefix="module.encoder_vl."):
    """What the official scripts save: the wrapper's state_dict with its unused heads."""
    weights = {prefix + name: value for name, value in to_official(model).items()}
    return weights | {f"module.{name}": np.zeros(3, np.float32) for name in HEADS}


def test_load_of_official_files_as_the_scripts_have_them(run, tmp_path, caplog):
    """Without our header: 384 x 128 photos, heads of 64, the stride by the rows; .pth as well."""
    torch = pytest.importorskip("torch")
    config = dataclasses.replace(
        CONFIG, image_size=(384, 128), patch_stride=12, width=64, heads=1, depth=1
    )
    weights = wrapped(network(config))
    tensors = {name: torch.tensor(value) for name, value in weights.items()}
    torch.save({"state_dict": tensors}, tmp_path / "best.pth")
    with pytest.raises(UserError, match="there is no vocabulary at .*vocab.txt"):
        load(tmp_path / "best.pth")
    with caplog.at_level(logging.INFO):
        model = load(tmp_path / "best.pth", vocabulary=run / "vocab.txt")
    assert all(stem in caplog.text for stem in STEMS)
    sizes = model.config.model
    assert (sizes.patch_stride, sizes.heads, sizes.image_size) == (12, 1, (384, 128))
    same(
        jax.tree.map(np.asarray, model.params),
        nnx.to_pure_dict(nnx.state(network(config), nnx.Param)),
    )


def test_rows_of_no_official_photo_are_a_sentence(run, tmp_path):
    save_file(to_official(network()), tmp_path / "x.safetensors")  # 64 x 32, and no header
    with pytest.raises(UserError, match="pos_embed has 9 rows; .* give 193 at stride 16"):
        load(tmp_path / "x.safetensors", vocabulary=run / "vocab.txt")


def test_stride_16_tables_start_a_run_of_stride_12_and_heads_are_named(run, tmp_path):
    save_file(wrapped(network()), tmp_path / "x.safetensors")
    config = dataclasses.replace(CONFIG, patch_stride=12)
    params, report = initial(tmp_path / "x.safetensors", load_tokenizer(run / "vocab.txt"), config)
    original = nnx.to_pure_dict(nnx.state(network(), nnx.Param))
    for name in ("image_positions", "image_types"):
        expected = resize_positions(original[name], source=(4, 2), target=(5, 2))
        np.testing.assert_array_equal(params[name], expected)
    same(params["blocks"], original["blocks"])
    assert "pos_embed resized from 4 x 2 to 5 x 2" in report
    assert "type_embed resized from 4 x 2 to 5 x 2" in report
    assert all(stem in report for stem in STEMS)


def test_misfits_of_official_weights_are_listed(exported, run):
    config = dataclasses.replace(CONFIG, depth=3, heads=8, vocabulary_size=60)
    with pytest.raises(UserError) as caught:
        initial(exported, load_tokenizer(run / "vocab.txt"), config)
    for part in (
        "depth: 2 blocks there, model.depth=3 here",
        "heads: 4 there, model.heads=8 here",
        "word_embeddings.weight: (50, 32) there, (60, 32) here",
    ):
        assert part in str(caught.value)


def test_a_larger_vocabulary_than_the_word_table_is_an_error(exported, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*TOKENS[:5], *map(str, range(50))]) + "\n")
    with pytest.raises(UserError, match="55 tokens, more than the 50 rows"):
        load(exported, vocabulary=tmp_path / "vocab.txt")


@pytest.mark.parametrize(
    "stated",
    [
        "[" * 100_000,
        "[]",
        '{"training.steps": 5}',
        '{"model.heads": 5}',
        '{"model.heads": "four"}',
        '{"model.heads": 0}',
        '{"model.patch_stride": 0}',
        '{"model.image_size": [1000000000, 1000000000]}',
        '{"model.image_size": [-64, 32]}',
        '{"model.image_size": "tall"}',
        '{"model.image_size": ["a", "b"]}',
        '{"model.image_size": [1, 1]}',
        '{"data.separator": "import os"}',
        '{"data.text_length": 1e400}',
    ],
)
def test_a_header_that_states_nonsense_is_a_sentence(exported, tmp_path, stated):
    save_file(load_file(exported), tmp_path / "x.safetensors", metadata={"ivt_jax": stated})
    with pytest.raises(UserError, match=r"x\.safetensors"):
        load(tmp_path / "x.safetensors", vocabulary=exported.with_name("vocab.txt"))


def test_mutated_headers_give_only_clean_errors(exported, tmp_path):
    """Each mutation changes up to four bytes of the header, or its length, or cuts the file."""
    content = exported.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    rng = np.random.default_rng(0)
    file, vocabulary = tmp_path / "x.safetensors", exported.with_name("vocab.txt")
    refused = 0
    for number in range(60):
        mutated = bytearray(content)
        if number % 10 == 0:
            mutated = mutated[: rng.integers(0, len(mutated))]
        elif number % 10 == 1:
            mutated[rng.integers(0, 8)] = rng.integers(0, 256)
        else:
            alphabet = b'0123456789[]{}",:-eF\\ \x00\xff' if number % 2 else bytes(range(256))
            for place in rng.integers(8, 8 + length, rng.integers(1, 5)):
                mutated[place] = alphabet[rng.integers(0, len(alphabet))]
        file.write_bytes(mutated)
        digest = hashlib.sha256(mutated).hexdigest()
        try:
            load(file, vocabulary=vocabulary)
        except UserError as error:
            refused += 1
            assert str(file) in str(error) or "fit the model" in str(error), digest
    assert refused >= 50


def test_shapes_are_compared_before_anything_is_read(exported, tmp_path, monkeypatch):
    from ivt_jax.convert import files

    weights = load_file(exported)
    weights["encoder_vl.norm.bias"] = np.zeros(33, np.float32)
    metadata = {"ivt_jax": json.dumps({"model.image_size": CONFIG.image_size, "model.heads": 4})}
    save_file(weights, tmp_path / "x.safetensors", metadata=metadata)
    real = files.safe_open

    class NoReading:
        def __init__(self, *arguments, **options):
            self.file = real(*arguments, **options)

        def __enter__(self):
            self.file.__enter__()
            return self

        def __exit__(self, *reason):
            self.file.__exit__(*reason)

        def __getattr__(self, name):
            assert name != "get_tensor", "a tensor was read"
            return getattr(self.file, name)

    monkeypatch.setattr(files, "safe_open", NoReading)
    with pytest.raises(UserError, match=r"norm.bias: \(33,\) there, \(32,\) here"):
        load(tmp_path / "x.safetensors", vocabulary=exported.with_name("vocab.txt"))
