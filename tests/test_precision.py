"""What rounding to int8 and bfloat16 does, against NumPy, and what galleries make of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exporting import write_people, write_run
from galleries import write_photos
from safetensors.numpy import load_file

import ivt_jax
from ivt_jax.__main__ import main
from ivt_jax.aot import WEIGHTS, flat, nested
from ivt_jax.convert.exported import to_pytorch
from ivt_jax.errors import UserError
from ivt_jax.model.ivt import IVTConfig
from ivt_jax.model.precision import Int8, held_as, rounded
from ivt_jax.retrieval.fingerprint import fingerprint
from ivt_jax.retrieval.gallery import Gallery

CAPTIONS = ["a woman in a red coat", "a man with a black bag"]
INT8 = ("int8", "int8_dynamic")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    data = write_people(tmp_path_factory.mktemp("data"), identities=2)
    return write_run(tmp_path_factory.mktemp("runs") / "run", data, layers="scan")


@pytest.fixture(scope="module")
def models(run):
    return {dtype: ivt_jax.load(run, dtype=dtype) for dtype in ("float32", "bfloat16", *INT8)}


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def numpy_rounded(matrix: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Values and scale by definition: rint(x / s), s the largest over 127, in float64."""
    scale = np.abs(matrix.astype(np.float64)).max(axis, keepdims=True) / 127
    scale[scale == 0] = 1 / 127
    return np.rint(matrix / scale).astype(np.int8), scale


def test_rounding_is_its_definition():
    matrix = draw(3, 40, 24)
    matrix[1, :, 5] = 0
    found = rounded(jnp.asarray(matrix), axis=-2)
    values, scale = numpy_rounded(matrix, -2)
    assert found.values.dtype == jnp.int8
    assert np.mean(np.asarray(found.values) != values) < 1e-3, "but for ties that float32 decides"
    np.testing.assert_allclose(found.scale, scale, rtol=1e-6)
    assert np.abs(found.values).max() == 127
    assert not np.asarray(found.values)[1, :, 5].any()


@pytest.mark.parametrize("tokens", ["float", "int8"])
@pytest.mark.parametrize("fault", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["kernel", "states"])
def test_what_is_not_finite_is_not_rounded_away(tokens, fault, where):
    given = {"kernel": draw(40, 24), "states": draw(2, 5, 40, seed=1)}
    given[where][..., 3, 7] = fault
    kernel = rounded(jnp.asarray(given["kernel"]), axis=-2, tokens=tokens)
    broken = ~np.isfinite(np.asarray(kernel.times(jnp.asarray(given["states"]))))
    expected = np.zeros_like(broken)
    expected[(..., 7) if where == "kernel" else (slice(None), 3)] = True
    np.testing.assert_array_equal(broken, expected)


@pytest.mark.parametrize("tokens", ["float", "int8"])
def test_a_product_is_that_of_whole_numbers(tokens):
    kernel, states = draw(40, 24), draw(2, 5, 40, seed=1)
    states[0, 0] = 0
    quantised = rounded(jnp.asarray(kernel), axis=-2, tokens=tokens)
    values, scale = np.asarray(quantised.values, np.int64), np.asarray(quantised.scale, np.float64)
    if tokens == "float":
        expected = states.astype(np.float64) @ values * scale
    else:
        whole, unit = numpy_rounded(states, -1)
        expected = whole.astype(np.int64) @ values * unit * scale
    found = np.asarray(quantised.times(jnp.asarray(states)))
    np.testing.assert_allclose(found, expected, atol=2e-5)
    right = quantised[:, 8:].times(jnp.asarray(states))
    np.testing.assert_allclose(right, expected[..., 8:], atol=2e-5)
    exact = states.astype(np.float64) @ kernel
    assert np.abs(found - exact).max() < 0.03 * np.abs(exact).max()


def test_tokens_as_int8_are_multiplied_as_integers():
    kernel = rounded(jnp.asarray(draw(40, 24)), axis=-2, tokens="int8")
    program = jax.jit(lambda kernel, tokens: kernel.times(tokens)).lower(
        kernel, jnp.asarray(draw(2, 5, 40))
    )
    products = [line for line in program.as_text().splitlines() if "dot_general" in line]
    assert len(products) == 1
    assert "tensor<40x24xi8>) -> tensor<2x5x24xi32>" in products[0]


def test_rows_of_a_table_are_looked_up():
    table = draw(9, 6)
    found = rounded(jnp.asarray(table), axis=-1).rows(jnp.array([[3, 3], [8, 0]]))
    values, scale = numpy_rounded(table, -1)
    np.testing.assert_allclose(found, (values * scale)[[[3, 3], [8, 0]]], atol=1e-6)


def test_bfloat16_is_that_of_a_bfloat16_run(run, models):
    """The same parameters, rounded at each use instead of once, give the same bits."""
    model = models["bfloat16"]
    held = model.params["blocks"]["mlp_text"]["up"]
    assert (held["kernel"].dtype, held["bias"].dtype) == (jnp.bfloat16, jnp.float32)
    assert model.params["blocks"]["norm1"]["scale"].dtype == jnp.float32
    exact = dataclasses.replace(model, params=models["float32"].params)
    np.testing.assert_array_equal(model.encode_text(CAPTIONS), exact.encode_text(CAPTIONS))
    photos = np.random.default_rng(0).integers(0, 256, (3, 96, 48, 3), np.uint8)
    np.testing.assert_array_equal(model.encode_image(photos), exact.encode_image(photos))


@pytest.mark.parametrize("dtype", INT8)
def test_int8_encoders_are_near_float32(models, dtype):
    model, exact = models[dtype], models["float32"]
    assert model.dtype == dtype
    photos = np.random.default_rng(0).integers(0, 256, (3, 96, 48, 3), np.uint8)
    for found, expected in (
        (model.encode_image(photos), exact.encode_image(photos)),
        (model.encode_text(CAPTIONS), exact.encode_text(CAPTIONS)),
    ):
        cosines = (found * expected).sum(axis=1)
        assert 0.99 < cosines.min() < 0.999999, "near, and not the same"
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


def test_int8_is_what_pytorch_computes_with_rounded_weights(models):
    """Weight-only rounding by PyTorch's own quantiser, in the twin."""
    torch = pytest.importorskip("torch")
    from ivt_jax.convert.onnx import make_twin

    model, exact = models["int8"], models["float32"]
    config = IVTConfig(**exact.config.model)
    twin = make_twin(exact.params, config)
    with torch.no_grad():
        for name, weight in twin.named_parameters():
            axis = 0 if name.startswith("blocks.") and weight.ndim == 2 else None
            axis = 0 if name == "word_table" else axis
            if axis is not None:
                scale = weight.abs().amax(1).clamp(min=1e-12) / 127
                zero = torch.zeros(len(scale), dtype=torch.int32)
                weight.copy_(
                    torch.fake_quantize_per_channel_affine(weight, scale, zero, axis, -127, 127)
                )
    ids, mask, _ = model.tokenizer.encode(CAPTIONS, length=24)
    photos = np.random.default_rng(0).integers(0, 256, (3, 96, 48, 3), np.uint8)
    pixels = torch.from_numpy(photos.transpose(0, 3, 1, 2) / np.float32(127.5) - 1)
    with torch.inference_mode():
        found = twin(
            pixel_values=pixels,
            input_ids=torch.from_numpy(ids).long(),
            attention_mask=torch.from_numpy(mask).long(),
        )
    np.testing.assert_allclose(model.encode_text(CAPTIONS), found["text_embeds"], atol=1e-5)
    np.testing.assert_allclose(model.encode_image(photos), found["image_embeds"], atol=1e-5)


def test_int8_takes_a_quarter_of_the_memory(models):
    def bytes_of(model):
        return sum(x.nbytes for name, x in flat(model.params["blocks"]).items() if "kernel" in name)

    assert bytes_of(models["int8"]) < 0.3 * bytes_of(models["float32"])


@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "int8_dynamic"])
def test_exports_keep_the_precision(run, models, tmp_path, dtype):
    out = tmp_path / "model"
    assert main(["export", f"--run={run}", f"--out={out}", "--to=jax", f"--dtype={dtype}"]) == 0
    found = ivt_jax.load(out)
    assert found.dtype == ivt_jax.load(out, dtype=dtype).dtype == dtype
    assert fingerprint(found) == fingerprint(models[dtype])
    np.testing.assert_allclose(
        found.encode_text(CAPTIONS), models[dtype].encode_text(CAPTIONS), atol=1e-6
    )
    kernel = load_file(out / WEIGHTS)["blocks/mlp_text/up/kernel" + "/values" * ("int8" in dtype)]
    assert kernel.dtype.name == dtype.removesuffix("_dynamic")


def test_flat_and_nested_keep_int8(models):
    params = models["int8_dynamic"].params
    back = nested(flat(params), tokens="int8")
    assert jax.tree.structure(back) == jax.tree.structure(params)
    assert isinstance(back["blocks"]["mlp_image"]["up"]["kernel"], Int8)


def test_no_two_precisions_have_one_fingerprint(models):
    assert len({fingerprint(model) for model in models.values()}) == len(models)


def test_a_gallery_is_searched_in_the_precision_that_made_it(run, models, tmp_path, capsys):
    photos, out = write_photos(tmp_path / "photos", 3), tmp_path / "gallery"
    index = ["index", str(photos), f"--run={run}", f"--out={out}"]
    assert main([*index, "--dtype=int8"]) == 0
    gallery = Gallery.open(out)
    assert gallery.model.dtype == gallery.facts.dtype == "int8"
    assert Gallery.open(out, model=run).model.dtype == "int8"
    with pytest.raises(UserError, match="another model .*, step 7, int8.* step 7, float32, holds"):
        Gallery.open(out, model=models["float32"])
    capsys.readouterr()
    assert main(index) == 2
    assert "was made in int8, and this model encodes in float32. Add --dtype=int8" in (
        capsys.readouterr().err
    )


def test_rounding_leaves_the_rest_alone(models):
    params = models["float32"].params
    assert held_as(params, "float32")["blocks"] == params["blocks"]
    int8 = held_as(params, "int8")
    assert int8["patch"]["kernel"] is params["patch"]["kernel"]
    assert isinstance(int8["word_table"], Int8)
    assert int8["word_table"].tokens == "float"
    assert to_pytorch(params, IVTConfig(**models["float32"].config.model)).keys()
