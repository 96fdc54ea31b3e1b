"""The exported folder: the twin's features, the way back, evaluate.py without JAX, bad files."""

import dataclasses
import json
import shutil
import struct

import jax
import numpy as np
import pytest
from exporting import (  # noqa: F401  (the last four are fixtures)
    NO_JAX,
    folder,
    people,
    python_without,
    random_texts,
    run,
    scored,
)
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CONFIG, network

import ivt_jax
from ivt_jax.__main__ import main
from ivt_jax.convert.exported import WEIGHTS, read_exported, read_weights, write_weights
from ivt_jax.convert.folder import SUMS
from ivt_jax.convert.onnx import make_twin
from ivt_jax.data.images import evaluation_image
from ivt_jax.errors import UserError
from ivt_jax.model.ivt import IVTConfig
from ivt_jax.retrieval.metrics import retrieval_metrics
from ivt_jax.training.state import split_model

torch = pytest.importorskip("torch")
HOSTILE_CAPTIONS = [
    "A woman in a red coat, with a black bag.",
    "",
    "�",
    "[MASK] [SEP] ünïcödé \ud800 漢字 " + "long " * 60,
]


def params_of(model):
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


@pytest.fixture
def template(folder, monkeypatch):
    """The folder's evaluate.py as a module."""
    monkeypatch.syspath_prepend(folder)
    import evaluate  # pyright: ignore[reportMissingImports]

    assert folder == evaluate.HERE
    return evaluate


def assert_features_agree(config: IVTConfig, params: dict, *, length: int, **compiled):
    """Twin against JAX: errors below 1e-5 of a feature's largest entry, in float32."""
    twin, model = make_twin(params, config), nnx.merge(split_model(config)[0], params)
    images = np.random.default_rng(1).uniform(-1, 1, (2, *config.image_size, 3)).astype(np.float32)
    texts = [
        random_texts(config.vocabulary_size, rows=2, length=length, shortest=shortest)
        for shortest in (2, length)  # padded, and all of full length
    ]
    with torch.inference_mode():
        found = [twin.image_features(torch.tensor(images).permute(0, 3, 1, 2))]
        found += [twin.text_features(torch.tensor(i), torch.tensor(m)) for i, m in texts]
    encode_text = jax.jit(model.text_features, **compiled)
    expected = [jax.jit(model.image_features, **compiled)(images)]
    expected += [encode_text(ids, mask) for ids, mask in texts]
    for one, other in zip(found, expected, strict=True):
        error = np.abs(one.numpy() - other).max(axis=1) / np.abs(other).max(axis=1)
        assert error.max() < 1e-5


@pytest.mark.parametrize("stride", [16, 12])
def test_features_equal_those_of_jax(stride):
    config = dataclasses.replace(CONFIG, patch_stride=stride)
    assert_features_agree(config, params_of(network(config)), length=16)


@pytest.mark.slow
@pytest.mark.parametrize("stride", [16, 12])
def test_features_of_the_base_model_equal_those_of_jax(stride):
    config = IVTConfig(patch_stride=stride)
    rng = np.random.default_rng(0)

    def draw(path, leaf):  # of the size of real weights, so that errors are of a real size too
        name = jax.tree_util.keystr(path)
        drawn = 0.02 * rng.standard_normal(leaf.shape, np.float32)
        return drawn + np.float32("scale" in name)

    params = jax.tree_util.tree_map_with_path(draw, split_model(config)[1])
    # The cheap compilation of the other tests would compute for minutes here.
    fast = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
    assert_features_agree(config, params, length=32, compiler_options=fast)


def test_padding_does_not_change_a_text():
    twin = make_twin(params_of(network()), CONFIG)
    ids, mask = random_texts(CONFIG.vocabulary_size, rows=2, length=8, shortest=8)
    longer = np.pad(ids, ((0, 0), (0, 8)), constant_values=17)
    hidden = np.pad(mask, ((0, 0), (0, 8)))
    with torch.inference_mode():
        alone, padded = (
            twin.text_features(torch.tensor(i), torch.tensor(m))
            for i, m in ((ids, mask), (longer, hidden))
        )
    np.testing.assert_allclose(alone, padded, atol=1e-5)


@pytest.mark.parametrize("stride", [16, 12])
def test_the_way_there_and_back_is_bit_equal(stride, tmp_path):
    config = dataclasses.replace(CONFIG, patch_stride=stride)
    params = params_of(network(config))
    write_weights(tmp_path, params, config)
    found = read_weights(tmp_path / WEIGHTS, config)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(params), strict=True):
        assert one.dtype == np.float32 and np.array_equal(one, other)


@pytest.mark.filterwarnings("ignore:.*captions were cut")
def test_a_run_and_its_export_are_the_same_model(run, folder, people, capsys):
    ours, back = ivt_jax.load(run), ivt_jax.load(folder)
    assert back.step == 7
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, ours.params, back.params)))
    photos = sorted((folder / "test" / "images").iterdir())[:3]
    for encode, inputs in (("encode_text", HOSTILE_CAPTIONS), ("encode_image", photos)):
        found, expected = (getattr(model, encode)(inputs) for model in (back, ours))
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert main(["evaluate", f"--run={folder}", f"--data={people}", "--dataset=x"]) == 5
    assert "there is no dataset 'x'" in capsys.readouterr().err
    with pytest.raises(UserError, match="holds step 7 and no other, so not 3"):
        ivt_jax.load(folder, step=3)


@pytest.mark.parametrize("form", ["images and captions.json", "prepared shards"])
def test_evaluate_without_jax_gives_the_same_scores(form, folder, people, scored, tmp_path):
    data, absent = people / "synthetic_people", NO_JAX
    if form == "images and captions.json":
        data, absent = folder / "test", (*NO_JAX, "transformers", "tensorflow_datasets")
    script = str(folder / "evaluate.py")
    done = python_without(tmp_path, absent, script, f"--data={data}", "--out=scores.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "scores.json").read_text())
    for name, value in scored["metrics"].items():
        assert f"{found['metrics'][name]:.2f}" == f"{value:.2f}", name
        assert f"{name:<14}{value:6.2f}\n" in done.stdout
    counts = ("queries", "gallery", "identities", "protocol")
    assert [found[name] for name in counts] == [scored[name] for name in counts]
    blocked = python_without(tmp_path, absent, "-c", "import jax")
    assert "absent here: jax" in blocked.stderr


def test_the_model_loads_without_transformers(folder, template, tmp_path):
    code = "import sys; sys.path.insert(0, sys.argv[1]); import torch, modeling_ivt as m; "
    code += "t = m.IVTModel.from_pretrained(sys.argv[1]); i = torch.arange(12).view(2, 6); "
    code += "print(t(input_ids=i)['text_embeds'].tolist())"
    done = python_without(tmp_path, ("transformers",), "-c", code, str(folder))
    assert done.returncode == 0, done.stderr
    ids = torch.arange(12).view(2, 6)
    with torch.inference_mode():
        found = template.IVTModel.from_pretrained(folder)(input_ids=ids)["text_embeds"]
    np.testing.assert_allclose(json.loads(done.stdout), found, atol=1e-6)


def test_ranking_of_ties_equals_ours(template):
    rng = np.random.default_rng(0)
    for unmatched in ("skip", "count"):
        queries = rng.integers(-1, 2, (40, 3)).astype(np.float32)  # few values, many ties
        gallery = rng.integers(-1, 2, (30, 3)).astype(np.float32)
        identities = rng.integers(0, 9, 40), rng.integers(0, 7, 30)
        found = template.metrics(queries, gallery, *identities, unmatched)
        expected = retrieval_metrics(queries @ gallery.T, *identities, unmatched=unmatched)
        assert found == pytest.approx(expected, rel=1e-12)
    with pytest.raises(SystemExit, match="no photo of identity"):
        template.metrics(queries, gallery, *identities, "error")


def test_pixels_equal_ours(template):
    from PIL import Image

    rng = np.random.default_rng(0)
    for size in ((50, 31), (64, 32), (200, 180)):
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        found = template.pixels(Image.fromarray(image), (64, 32)).permute(1, 2, 0).numpy()
        assert np.array_equal(found, evaluation_image(image, (64, 32)))


def test_transparent_turned_and_deep_images_equal_ours(template):
    import io

    from PIL import Image

    from ivt_jax.data.images import decode

    rng = np.random.default_rng(0)
    clear = Image.fromarray(rng.integers(0, 256, (20, 10, 4), np.uint8), "RGBA")
    deep = Image.fromarray(rng.integers(0, 65536, (20, 10)).astype(np.uint16))
    turned = clear.convert("RGB")
    exif = turned.getexif()
    exif[0x0112] = 6
    for image, more in ((clear, {}), (deep, {}), (turned, {"exif": exif})):
        stream = io.BytesIO()
        image.save(stream, "PNG", **more)
        expected = evaluation_image(decode(stream.getvalue(), key="drawn"), (16, 8))
        found = template.pixels(Image.open(stream), (16, 8)).permute(1, 2, 0).numpy()
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("separator", ["none", "sep"])
def test_tokenizers_of_the_folder_equal_ours(separator, run, template, tmp_path):
    from tokenizers import Tokenizer

    from ivt_jax.convert.folder import write_tokenizer

    ours = ivt_jax.load(run).tokenizer
    write_tokenizer(tmp_path, ours, length=24, separator=separator)
    ids, mask, _ = ours.encode(HOSTILE_CAPTIONS, length=24, separator=separator)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    found, real = template.token_ids(tokenizer, HOSTILE_CAPTIONS)
    longest = mask.sum(axis=1).max()
    assert np.array_equal(found, ids[:, :longest]) and np.array_equal(real, mask[:, :longest])


@pytest.mark.filterwarnings("ignore:.*captions were cut")
def test_auto_classes_of_transformers(folder, run, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path))
    model = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert isinstance(model, transformers.PreTrainedModel) and not model.training
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    captions = ["a man in a blue coat", "A woman, walking. " * 20]
    tokens = tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        found = model(**tokens)["text_embeds"].numpy()
    np.testing.assert_allclose(found, ivt_jax.load(run).encode_text(captions), atol=1e-5)
    model.save_pretrained(tmp_path / "again")
    again = transformers.AutoModel.from_pretrained(tmp_path / "again", trust_remote_code=True)
    assert torch.equal(again.word_table, model.word_table)


def test_export_refuses_before_writing(run, folder, tmp_path, capsys):
    out = f"--out={tmp_path / 'new'}"
    for argv, reason in (
        ([f"--run={run}", f"--out={folder}"], "is there already"),
        ([f"--run={folder}", out], "is no run folder"),
        ([f"--run={run}", out, "--step=3"], "has no checkpoint of step 3"),
        ([f"--run={run}", out, "--with_split=val"], "has no split 'val'"),
        ([f"--run={run}", out, "--with_split=test", "--push=a/b"], "photos of people"),
        ([f"--run={run}", out, "--to=official", "--with_split=test"], "writes one file"),
        ([f"--run={run}", out, "--to=official", "--push=a/b"], "writes one file"),
        ([f"--run={run}", out, "--to=official", "--dtype=int8"], "writes float32"),
    ):
        assert main(["export", *argv]) in (2, 4, 5)
        assert reason in capsys.readouterr().err
        assert not (tmp_path / "new").exists()


def test_changed_files_are_refused(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("test"))
    with (copy / WEIGHTS).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    with pytest.raises(UserError, match="is not the file that SHA256SUMS lists"):
        ivt_jax.load(copy)
    (copy / SUMS).unlink()
    assert ivt_jax.load(copy).step == 7  # one changed bit, but the header fits
    (copy / "vocab.txt").unlink()
    with pytest.raises(UserError, match="it lacks vocab.txt"):
        ivt_jax.load(copy)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"width": 1 << 22}, "smaller than the model"),
        ({"depth": 1 << 24}, "smaller than the model"),
        ({"image_size": [1 << 24, 1 << 24]}, "smaller than the model"),
        (
            {"vocabulary_size": 100},
            r"word_table: float32 \(1024, 32\) instead of float32 \(100, 32\)",
        ),
        ({"depth": 1}, "blocks.1.norm1.weight: unknown"),
        ({"heads": 5}, "must divide"),
        ({"width": "32"}, "width must be a whole number"),
        ({"image_size": [96]}, "image_size None must be"),
        ({"separator": "x"}, "separator must be one of"),
        ({"step": None}, "step must be"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(change, reason, folder, tmp_path):
    for name in (WEIGHTS, "vocab.txt"):
        (tmp_path / name).symlink_to(folder / name)
    facts = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(facts | change))
    with pytest.raises(UserError, match=reason):
        read_exported(tmp_path)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzzed")
    write_weights(folder, params_of(network()), CONFIG)
    return folder / WEIGHTS, (folder / WEIGHTS).read_bytes()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_fuzzed_headers_end_in_clean_errors(weights, data):
    file, good = weights
    (length,) = struct.unpack("<Q", good[:8])
    header = bytearray(good[:8] + good[8 : 8 + length])
    for _ in range(data.draw(st.integers(1, 4))):
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.sampled_from([None, None, 4, 100, -1]))
    file.write_bytes((bytes(header) + good[8 + length :])[:end])
    try:
        found = read_weights(file, CONFIG)
    except UserError:
        return
    shapes = [leaf.shape for leaf in jax.tree.leaves(split_model(CONFIG)[1])]
    assert [leaf.shape for leaf in jax.tree.leaves(found)] == shapes


@settings(max_examples=40, deadline=None)
@given(
    table=st.dictionaries(
        st.sampled_from(["norm.weight", "word_table", "patch.weight", "x"]),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "F64", "I8", "F99"]),
                "shape": st.lists(st.integers(0, 1 << 40), max_size=3),
                "data_offsets": st.lists(st.integers(0, 1 << 63), min_size=2, max_size=2),
            }
        ),
    )
)
def test_invented_headers_end_in_clean_errors(weights, table):
    file, good = weights
    header = json.dumps(table).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + good[-100_000:])
    with pytest.raises(UserError):
        read_weights(file, CONFIG)
