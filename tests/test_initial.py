"""Starting from a ViT and a BERT: the same numbers under anybody's names, or one clear error."""

import contextlib
import dataclasses
import hashlib
import json
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from golden import golden
from named_weights import CONFIG, PLACES, TOKENS, WIDTH, WORDS, as_google, as_timm, hugging_face
from safetensors.numpy import load_file, save_file

from ivt_jax.convert.positions import resize_positions
from ivt_jax.data.texts import load_tokenizer
from ivt_jax.errors import UserError
from ivt_jax.model.ivt import IVTConfig
from ivt_jax.training.state import random_params, split_model
from ivt_jax.training.transfer import initial_params

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join(TOKENS) + "\n")
    return load_tokenizer(path)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """ViT and BERT, and the folders they were saved in."""
    torch.manual_seed(0)
    found = {}
    for kind in ("vit", "bert"):
        folder = tmp_path_factory.mktemp(kind)
        found[kind] = hugging_face(kind)
        found[kind].save_pretrained(folder)
        found[f"{kind} folder"] = folder
    (found["bert folder"] / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    return found


def initial(vocabulary, config=CONFIG, **changes) -> Any:
    options = {"run": "", "step": -1, "vit": "", "bert": "", "strict": True, "seed": 7}
    options |= {key: str(x) if key in ("vit", "bert", "run") else x for key, x in changes.items()}
    return initial_params(config, tokenizer=vocabulary, **options)


def network(params, config=CONFIG):
    return nnx.merge(split_model(config)[0], params)


def check_images(reference, params, config, count=2):
    # Only the type table stays random; without it the network is the ViT.
    params = {**params, "image_types": np.zeros_like(params["image_types"])}
    images = np.random.default_rng(0).normal(size=(count, *config.image_size, 3))
    images = images.astype(np.float32)
    with torch.no_grad():
        expected = reference(pixel_values=torch.tensor(images.transpose(0, 3, 1, 2)))
    found = jax.jit(network(params, config).image_features)(images)
    np.testing.assert_allclose(found, expected.last_hidden_state[:, 0], atol=1e-4)


def check_texts(reference, params, config):
    """Tables, norm and text MLPs equal BERT's, tensor by tensor, and so do the embeddings."""
    state = {name: value.numpy() for name, value in reference.state_dict().items()}
    expected = {
        "word_table": state["embeddings.word_embeddings.weight"],
        "position_table": state["embeddings.position_embeddings.weight"],
        "type_table": state["embeddings.token_type_embeddings.weight"],
    }
    for name, value in expected.items():
        np.testing.assert_array_equal(params[name], value, err_msg=name)
    for ours, theirs in (("scale", "weight"), ("bias", "bias")):
        np.testing.assert_array_equal(
            params["text_norm"][ours], state[f"embeddings.LayerNorm.{theirs}"]
        )
    for index, layer in enumerate(reference.encoder.layer):
        mlp = params["blocks"]["mlp_text"]
        for ours, module in (("up", layer.intermediate.dense), ("down", layer.output.dense)):
            np.testing.assert_array_equal(
                mlp[ours]["kernel"][index], module.weight.detach().numpy().T
            )
            np.testing.assert_array_equal(mlp[ours]["bias"][index], module.bias.detach().numpy())
    ids = np.random.default_rng(0).integers(0, config.vocabulary_size, (3, 15))
    with torch.no_grad():
        embedded = reference.embeddings(input_ids=torch.tensor(ids)).numpy()
    np.testing.assert_allclose(network(params, config).embed_text(ids), embedded, atol=1e-5)


def test_images_start_as_vit_and_texts_as_bert(models, vocabulary):
    params, report = initial(vocabulary, vit=models["vit folder"], bert=models["bert folder"])
    check_images(models["vit"], params, CONFIG)
    check_texts(models["bert"], params, CONFIG)
    assert report.splitlines()[-1] == "stayed random: type_embed"
    assert "left out, as in the official code: pooler.dense" in report
    assert "encoder.layer.0-1.attention.self.query" in report  # BERT's attention has no place
    assert "blocks.0-1.mlp_vis.fc1" in report and "blocks.0-1.mlp_txt.fc2" in report


def test_what_stays_random_is_what_a_random_run_has(models, vocabulary):
    params, _ = initial(vocabulary, vit=models["vit folder"])
    expected = random_params(CONFIG, jax.random.key(7))
    for name in ("image_types", "word_table"):
        np.testing.assert_allclose(params[name], expected[name], atol=1e-6)
    kernels = [tree["blocks"]["mlp_text"]["up"]["kernel"] for tree in (params, expected)]
    np.testing.assert_allclose(*kernels, atol=1e-6)
    assert initial(vocabulary) == (None, "random parameters")


@pytest.fixture(scope="module")
def copies(models, tmp_path_factory):
    """The same ViT under other names and in other kinds of file."""
    folder = tmp_path_factory.mktemp("copies")
    timm = {name: np.ascontiguousarray(x) for name, x in as_timm(models["vit"]).items()}
    save_file(timm, folder / "timm.safetensors")
    tensors = {name: torch.tensor(value) for name, value in timm.items()}
    torch.save(tensors, folder / "jx_vit.pth")
    torch.save({"model": tensors, "epoch": 3}, folder / "deit.pth")
    google = as_google(timm)
    np.savez(folder / "google.npz", **google)
    prefixed: dict[str, Any] = {f"opt/target/{name}": value for name, value in google.items()}
    np.savez_compressed(folder / "old.npz", **prefixed)
    return folder


@pytest.mark.parametrize(
    "name", ["timm.safetensors", "jx_vit.pth", "deit.pth", "google.npz", "old.npz"]
)
def test_all_names_give_the_same_parameters(models, copies, vocabulary, name):
    expected, _ = initial(vocabulary, vit=models["vit folder"])
    params, report = initial(vocabulary, vit=copies / name)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert "left out, as in the official code: " in report and "head" in report
    assert ("does not tell its attention heads" in report) == (not name.endswith("npz"))


@pytest.mark.parametrize(
    ("size", "stride", "grid"),
    [((384, 128), 16, (24, 8)), ((384, 128), 12, (31, 10)), ((256, 128), 16, (16, 8))],
)
def test_positions_fit_any_size_and_stride_as_the_official_code_resizes_them(
    vocabulary, tmp_path, size, stride, grid
):
    tables = golden("pos_embed_resize.npz")
    rng = np.random.default_rng(0)
    shapes = {
        "cls_token": (1, 1, 16),
        "patch_embed.proj.weight": (16, 3, 16, 16),
        "blocks.0.attn.qkv.weight": (48, 16),
        "blocks.0.attn.qkv.bias": (48,),
        "blocks.0.attn.proj.weight": (16, 16),
        "blocks.0.mlp.fc1.weight": (64, 16),
        "blocks.0.mlp.fc1.bias": (64,),
        "blocks.0.mlp.fc2.weight": (16, 64),
    }
    vectors = ["patch_embed.proj.bias", "blocks.0.attn.proj.bias", "blocks.0.mlp.fc2.bias"]
    vectors += [f"{norm}.{part}" for norm in ("norm", "blocks.0.norm1", "blocks.0.norm2")
                for part in ("weight", "bias")]  # fmt: skip
    shapes |= dict.fromkeys(vectors, (16,))
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(weights | {"pos_embed": tables["pos_embed"]}, tmp_path / "vit.safetensors")
    config = dataclasses.replace(
        CONFIG, image_size=size, patch_stride=stride, width=16, depth=1, heads=1
    )
    params, report = initial(vocabulary, config, vit=tmp_path / "vit.safetensors")
    expected = tables["resized_{}x{}".format(*grid)][0]
    np.testing.assert_allclose(params["image_positions"], expected, atol=1e-6)
    assert f"pos_embed resized from 14 x 14 to {grid[0]} x {grid[1]} patches" in report


def test_a_table_of_as_many_patches_in_another_shape_is_resized(models, vocabulary):
    config = dataclasses.replace(CONFIG, image_size=(128, 32))  # 8 x 2 = 4 x 4 patches
    params, report = initial(vocabulary, config, vit=models["vit folder"])
    table = models["vit"].embeddings.position_embeddings.detach().numpy()[0]
    expected = resize_positions(table, source=(4, 4), target=(8, 2))
    np.testing.assert_array_equal(params["image_positions"], expected)
    assert "resized from 4 x 4 to 8 x 2" in report


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_old_names_of_bert(models, vocabulary, tmp_path, prefix):
    expected, _ = initial(vocabulary, bert=models["bert folder"])
    weights = load_file(models["bert folder"] / "model.safetensors")
    old = {
        prefix
        + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in weights.items()
    }
    old["cls.predictions.bias"] = np.zeros(WORDS, np.float32)
    old["embeddings.position_ids"] = np.arange(PLACES)[None]
    save_file(old, tmp_path / "model.safetensors")
    params, report = initial(vocabulary, bert=tmp_path)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert "cls.predictions" in report and "is not checked" in report


def test_a_vocabulary_in_tokenizer_json_is_checked_too(models, vocabulary, tmp_path):
    weights = load_file(models["bert folder"] / "model.safetensors")
    save_file(weights, tmp_path / "model.safetensors")
    table = {token: number for number, token in enumerate(TOKENS)}
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({"model": {"vocab": table}}))
    assert "is not checked" not in initial(vocabulary, bert=tmp_path)[1]
    table["word3"], table["word4"] = table["word4"], table["word3"]
    file.write_text(json.dumps({"model": {"vocab": table}}))
    with pytest.raises(UserError, match="id 8 is 'word4' there, 'word3' here"):
        initial(vocabulary, bert=tmp_path)


def test_half_precision_is_read(models, vocabulary, tmp_path):
    weights = load_file(models["vit folder"] / "model.safetensors")
    from safetensors.torch import save_file as save_tensors

    for dtype in (torch.bfloat16, torch.float16):
        halves = {name: torch.tensor(value).to(dtype) for name, value in weights.items()}
        save_tensors(halves, tmp_path / "vit.safetensors")
        torch.save(halves, tmp_path / "vit.pth")
        expected = halves["layernorm.weight"].float().numpy()
        for name in ("vit.safetensors", "vit.pth"):
            params, _ = initial(vocabulary, vit=tmp_path / name)
            np.testing.assert_array_equal(params["norm"]["scale"], expected)
            assert params["norm"]["scale"].dtype == np.float32


def test_all_misfits_of_both_are_in_one_message(models, vocabulary, tmp_path):
    config = dataclasses.replace(CONFIG, depth=3, heads=8, max_text_positions=30)
    (tmp_path / "vocab.txt").write_text("\n".join([*TOKENS[:7], "hat", *TOKENS[8:]]) + "\n")
    other = load_tokenizer(tmp_path / "vocab.txt")
    with pytest.raises(UserError) as caught:
        initial(other, config, vit=models["vit folder"], bert=models["bert folder"])
    lines = str(caught.value).splitlines()
    assert [line.strip().split(": ")[0] for line in lines[1:-1]] == [
        "init.vit",
        "depth",
        "heads",
        "init.bert",
        "embeddings.word_embeddings.weight",
        "depth",
        "embeddings.position_embeddings.weight",
    ]
    for part in (
        "depth: 2 blocks there, model.depth=3 here",
        "heads: 4 there, model.heads=8 here",
        "another vocabulary, 40 tokens there, 40 here; id 7 is 'word2' there, 'hat' here",
        "(20, 64) there, (30, 64) here",
    ):
        assert part in str(caught.value)
    assert "init.strict=False" in lines[-1]


def test_every_tensor_of_another_width_is_listed(models, vocabulary):
    config = dataclasses.replace(CONFIG, width=32, vocabulary_size=41)
    with pytest.raises(UserError) as caught:
        initial(vocabulary, config, vit=models["vit folder"], bert=models["bert folder"])
    message = str(caught.value)
    assert "blocks.0-1.attn.qkv.weight: (192, 64) there, (96, 32) here" in message
    assert "embeddings.word_embeddings.weight: (40, 64) there, (41, 32) here" in message
    assert "pos_embed: (1, 17, 64) there, (1, 17, 32) here" in message
    # 10 names a ViT holds once or once a block, 16 with their biases; 5 + 4 of BERT's.
    assert message.count(" there, ") == 18 + 9


def test_unknown_and_missing_tensors_are_faults(models, copies, vocabulary, tmp_path):
    weights = load_file(copies / "timm.safetensors")
    del weights["norm.bias"], weights["blocks.1.attn.proj.weight"]
    weights["dist_token"] = np.zeros((1, 1, WIDTH), np.float32)
    weights["blocks.0.ls1.gamma"] = np.zeros(WIDTH, np.float32)
    weights["cls_token"] = np.zeros((1, 1, WIDTH), np.int8)
    save_file(weights, tmp_path / "vit.safetensors")
    with pytest.raises(UserError) as caught:
        initial(vocabulary, vit=tmp_path / "vit.safetensors")
    for part in (
        "norm.bias: missing",
        "blocks.1.attn.proj.weight: missing",
        "dist_token: unknown",
        "blocks.0.ls1.gamma: unknown",
        "cls_token: holds int8, not floating-point numbers",
    ):
        assert part in str(caught.value)
    assert len(str(caught.value).splitlines()) == 3 + 5


def test_what_fits_is_taken_if_asked_for_and_the_rest_named(models, vocabulary):
    config = dataclasses.replace(CONFIG, depth=3, max_text_positions=30)
    params, report = initial(vocabulary, config, bert=models["bert folder"], strict=False)
    drawn = random_params(config, jax.random.key(7))
    up = params["blocks"]["mlp_text"]["up"]["kernel"]
    expected = models["bert"].encoder.layer[1].intermediate.dense.weight.detach().numpy().T
    np.testing.assert_array_equal(up[1], expected)
    np.testing.assert_allclose(up[2], drawn["blocks"]["mlp_text"]["up"]["kernel"][2], atol=1e-6)
    np.testing.assert_allclose(params["position_table"], drawn["position_table"], atol=1e-6)
    assert "does not fit (init.strict=False)" in report
    assert "depth: 2 blocks there, model.depth=3 here" in report
    assert "position_embeddings.weight: (20, 64) there, (30, 64) here" in report
    assert "blocks.2.mlp_txt.fc1" in report.splitlines()[-1]


def test_words_of_another_vocabulary_are_not_taken(models, vocabulary, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*TOKENS[:7], "hat", *TOKENS[8:]]) + "\n")
    other = load_tokenizer(tmp_path / "vocab.txt")
    params, report = initial(other, bert=models["bert folder"], strict=False)
    drawn = random_params(CONFIG, jax.random.key(7))
    np.testing.assert_allclose(params["word_table"], drawn["word_table"], atol=1e-6)
    assert "another vocabulary" in report
    assert hashlib.sha256((tmp_path / "vocab.txt").read_bytes()).hexdigest() == other.sha256


def test_a_source_of_which_nothing_fits_is_an_error(models, vocabulary):
    config = dataclasses.replace(CONFIG, width=32)
    with pytest.raises(UserError, match="do not fit the model"):
        initial(vocabulary, config, bert=models["bert folder"], strict=False)


@pytest.mark.parametrize(("key", "value"), [("hidden_act", "relu"), ("model_type", "roberta")])
def test_another_network_by_its_config_is_an_error(models, vocabulary, tmp_path, key, value):
    weights = load_file(models["bert folder"] / "model.safetensors")
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(f'{{"{key}": "{value}"}}')
    with pytest.raises(UserError, match=f"config.json {key}: '{value}' there"):
        initial(vocabulary, bert=tmp_path)


def test_the_two_are_not_confused(models, vocabulary):
    with pytest.raises(UserError, match="no ViT that is known by name"):
        initial(vocabulary, vit=models["bert folder"])
    with pytest.raises(UserError, match="no BERT that is known by name"):
        initial(vocabulary, bert=models["vit folder"])


def test_values_that_are_not_finite_are_an_error(copies, vocabulary, tmp_path):
    weights = load_file(copies / "timm.safetensors")
    weights["norm.bias"] = np.full(WIDTH, np.nan, np.float32)
    save_file(weights, tmp_path / "vit.safetensors")
    with pytest.raises(UserError, match="not finite, in norm.bias"):
        initial(vocabulary, vit=tmp_path / "vit.safetensors")


SIZES = {  # published models that fit the presets: DeiT and AugReg; MiniLM-L12-H384, BERT-base
    "tiny": ({"hidden_size": 192, "num_attention_heads": 3}, None),
    "small": ({"hidden_size": 384, "num_attention_heads": 6}, {"num_attention_heads": 12}),
    "base": ({"hidden_size": 768, "num_attention_heads": 12}, {"num_attention_heads": 12}),
}


@pytest.mark.slow
@pytest.mark.parametrize("preset", SIZES)
def test_published_sizes_fit_the_presets(preset, tmp_path):
    from configs.base import get_config

    model = get_config(preset).model
    model.update(image_size=(224, 224), dtype="float32", layers="unroll")
    vocabulary_size = 30522
    tokens = [*TOKENS[:5], *(f"w{i}" for i in range(vocabulary_size - 5))]
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(tokens) + "\n")
    with pytest.warns(UserWarning, match="differs from it"):
        vocabulary = load_tokenizer(tmp_path / "bert" / "vocab.txt")
    vit_sizes, bert_sizes = SIZES[preset]
    sizes = {"num_hidden_layers": 12, **vit_sizes, "intermediate_size": 4 * model.width}
    vit = hugging_face("vit", **sizes, image_size=224)
    vit.save_pretrained(tmp_path / "vit")
    sources = {"vit": tmp_path / "vit"}
    if bert_sizes:
        sizes = sizes | bert_sizes | {"vocab_size": vocabulary_size, "max_position_embeddings": 512}
        bert = hugging_face("bert", **sizes)
        bert.save_pretrained(tmp_path / "bert")
        sources["bert"] = tmp_path / "bert"
    config = IVTConfig(**model)
    with pytest.warns(UserWarning) if bert_sizes else contextlib.nullcontext():
        params, _ = initial(vocabulary, config, **sources)
    check_images(vit, params, config, count=1)
    if bert_sizes:
        check_texts(bert, params, config)
