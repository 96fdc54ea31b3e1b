"""The network against the official code's activations, gradients and five of its SGD steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from golden import golden

from ivt_jax.convert.official import NAMES, from_official, to_official
from ivt_jax.convert.positions import guess_grid, resize_positions
from ivt_jax.losses.cmpm import cmpm
from ivt_jax.model.ivt import IVT, IVTConfig
from ivt_jax.training.optimizer import make_optimizer, make_schedule

SIZE = (64, 32)
BUFFER = "embeddings.position_ids"


@pytest.fixture(scope="module")
def data():
    return golden("ivt_small_s16.npz")


@pytest.fixture(scope="module")
def inputs(data):
    """Images (B, H, W, 3), token ids and mask (B, L), labels."""
    images, token_ids = data["image"].transpose(0, 2, 3, 1), data["token_ids"].astype(np.int32)
    return [jnp.asarray(x) for x in (images, token_ids, data["attention_mask"] > 0, data["labels"])]


def official(data, prefix="param/"):
    return {name[len(prefix) :]: x for name, x in data.items() if name.startswith(prefix)}


def load(data, **changes):
    model = from_official(official(data), image_size=SIZE, num_heads=4)
    model.config = dataclasses.replace(model.config, **changes)
    return model


@pytest.fixture(scope="module")
def model(data):
    return load(data)


def official_optimizer():
    """Rates of weights and biases, and SGD, as the official scripts set them for CUHK-PEDES."""
    schedules = [
        make_schedule(
            name="official",
            peak=peak,
            total_steps=3 * 120,
            epoch_steps=3,
            warmup_epochs=5.0,
            start_rate=5e-5,
            floor_rate=1e-5,
            first_epoch=1,
        )
        for peak in (0.005, 0.01)
    ]
    return schedules, make_optimizer(
        name="sgd",
        schedule=schedules[0],
        bias_schedule=schedules[1],
        weight_decay=1e-4,
        decay="all",
        momentum=0.9,
        beta1=0.9,
        beta2=0.98,
        epsilon=1e-8,
        clip_norm=0.0,
    )


@pytest.fixture(scope="module")
def trained(data, inputs):
    """Loss and official-named gradients, then losses and weights of five official SGD steps."""
    graphdef, state = nnx.split(load(data, layers="unroll"))
    params = nnx.to_pure_dict(state)
    images, token_ids, mask, labels = inputs
    schedules, optimizer = official_optimizer()

    def loss_of(params):
        network = nnx.merge(graphdef, params)
        return cmpm(network.image_features(images), network.text_features(token_ids, mask), labels)

    @jax.jit
    def step(params, opt_state):
        loss, gradients = jax.value_and_grad(loss_of)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return loss, gradients, optax.apply_updates(params, updates), opt_state

    losses, first = [], None
    opt_state = optimizer.init(params)
    for _ in range(5):
        loss, gradients, params, opt_state = step(params, opt_state)
        losses.append(float(loss))
        first = gradients if first is None else first
    losses.append(float(step(params, opt_state)[0]))
    rates = np.array([[float(s(jnp.int32(i))) for s in schedules] for i in range(5)])
    return {
        "losses": losses,
        "gradients": to_official(nnx.merge(graphdef, first)),
        "after": to_official(nnx.merge(graphdef, params)),
        "rates": rates,
    }


@pytest.mark.parametrize("layers", ["scan", "unroll"])
def test_features_tokens_and_embeddings(data, inputs, layers):
    model = load(data, layers=layers)
    images, token_ids, mask, _ = inputs

    @jax.jit
    def run(images, token_ids, mask):
        sides = {
            "vis": (model.embed_image(images), None, "image"),
            "txt": (model.embed_text(token_ids), mask, "text"),
        }
        found = {}
        for side, (tokens, keys, modality) in sides.items():
            found[f"{side}/embed"] = tokens
            found[f"{side}/tokens"] = model.encode(tokens, keys, modality=modality, output="tokens")
        found["vis/feat"] = model.image_features(images)
        found["txt/feat"] = model.text_features(token_ids, mask)
        return found

    found = run(images, token_ids, mask)
    real = {"vis": np.ones(data["vis/embed"].shape[:2], bool), "txt": mask}
    for name, value in found.items():
        rows = slice(None) if name.endswith("feat") else real[name[:3]]
        np.testing.assert_allclose(value[rows], data[name][rows], atol=2e-5, err_msg=name)


def test_gradients_of_every_parameter(data, trained):
    np.testing.assert_allclose(trained["losses"][0], data["e2e/loss"], rtol=1e-5)
    expected = official(data, "grad/")
    assert set(expected) == set(trained["gradients"]) - {BUFFER}
    for name, value in expected.items():
        scale = max(np.abs(value).max(), 1e-3)
        np.testing.assert_allclose(
            trained["gradients"][name] / scale, value / scale, atol=1e-4, err_msg=name
        )


def test_five_steps_of_the_official_optimizer(data, trained):
    np.testing.assert_allclose(trained["rates"], data["sgd/lrs"], rtol=1e-6)
    expected = [*data["sgd/losses"], data["sgd/loss_after"]]
    np.testing.assert_allclose(trained["losses"], expected, rtol=1e-4)
    start = official(data)
    for name, value in official(data, "after5/").items():
        if name != BUFFER:
            np.testing.assert_allclose(trained["after"][name], value, atol=1e-5, err_msg=name)
            # The steps must move each parameter, or the comparison above says nothing.
            assert not np.array_equal(value, start[name]), name


@pytest.fixture(scope="module")
def masked(model, inputs):
    """How masked features come: by dropping the tokens, or by hiding them as keys."""
    images, token_ids, mask, _ = inputs
    image, text = model.embed_image(images), model.embed_text(token_ids)

    @jax.jit
    def drop(image_places, text_places):
        return (
            model.encode(image[:, image_places], modality="image"),
            model.encode(text[:, text_places], mask[:, text_places], modality="text"),
        )

    @jax.jit
    def hide(image_keys, text_keys):
        return (
            model.encode(image, image_keys[None], modality="image"),
            model.encode(text, text_keys[None] & mask, modality="text"),
        )

    return drop, hide


@pytest.mark.parametrize("draw", range(4))
def test_bmm_features_with_the_recorded_positions(data, masked, draw):
    drop, hide = masked
    places = [
        np.concatenate([[0], data[f"bmm{draw}/{side}_kept"]]).astype(np.int32)
        for side in ("vis", "txt")
    ]
    keys = [np.isin(np.arange(n), kept) for n, kept in zip((9, 14), places, strict=True)]
    for features in (drop(*places), hide(*keys)):
        for side, value in zip(("vis", "txt"), features, strict=True):
            np.testing.assert_allclose(value, data[f"bmm{draw}/{side}_feat"], atol=2e-5)


def test_the_way_there_and_back_is_bit_equal(data, model):
    expected, found = official(data), to_official(model)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert np.array_equal(found[name], value), name
        assert found[name].dtype == value.dtype and found[name].flags.c_contiguous, name


@pytest.mark.parametrize("prefix", ["module.", "encoder_vl.", "module.encoder_vl."])
def test_prefixes_and_heads_are_left_out(data, model, prefix):
    weights = {prefix + name: value for name, value in official(data).items()}
    heads = ("temp", "classifier_img.weight", "bottleneck_img.num_batches_tracked", "itm.bias")
    wrapper = "module." if prefix.startswith("module.") else ""
    weights |= {wrapper + name: np.zeros(3) for name in heads}
    weights[wrapper + "encoder_fusion.bert.embeddings.LayerNorm.weight"] = np.zeros(3)
    found = to_official(from_official(weights, image_size=SIZE, num_heads=4))
    assert all(np.array_equal(found[name], value) for name, value in to_official(model).items())


def test_torch_tensors_are_read(data, model):
    torch = pytest.importorskip("torch")
    weights = {name: torch.tensor(value).half() for name, value in official(data).items()}
    found = to_official(from_official(weights, image_size=SIZE, num_heads=4))
    assert found["norm.weight"].dtype == np.float32
    np.testing.assert_allclose(found["norm.weight"], to_official(model)["norm.weight"], rtol=1e-3)


@pytest.mark.parametrize(
    ("wrapper", "stride"), [("rstp_finetune_stride16", 16), ("cuhk_finetune_stride12", 12)]
)
def test_names_and_shapes_of_the_base_model(wrapper, stride):
    config = IVTConfig(patch_stride=stride)
    abstract = nnx.eval_shape(lambda: IVT(config, rngs=nnx.Rngs(0)))
    # One zero seen through its shapes: only the result takes memory, 0.7 GB.
    zeros = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), nnx.state(abstract))
    graphdef, _ = nnx.split(abstract)
    found = {name: list(x.shape) for name, x in to_official(nnx.merge(graphdef, zeros)).items()}
    prefix = "encoder_vl."
    listed = golden("param_names.json")[wrapper]["state_dict"]
    listed = {name[len(prefix) :]: x for name, x in listed.items() if name.startswith(prefix)}
    assert found == listed


def test_all_faults_are_listed_at_once(data):
    weights = official(data)
    del weights["norm.bias"], weights["blocks.1.norm2.weight"]
    weights["blocks.2.mlp_txt.fc9.weight"] = np.zeros(3)
    weights["blocks.0.norm1.weight"] = np.zeros(65)
    weights["blocks.0.mlp_txt.fc1.weight"] = weights["blocks.0.mlp_txt.fc1.weight"].T
    weights["patch_embed.proj.weight"] = np.zeros((64, 16, 3, 16))
    with pytest.raises(ValueError) as caught:
        from_official(weights, image_size=SIZE, num_heads=4)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + 6, lines
    for part in (
        "norm.bias: missing",
        "blocks.1.norm2.weight: missing",
        "blocks.2.mlp_txt.fc9.weight: unknown",
        "blocks.0.norm1.weight: (65,)",
        "blocks.0.mlp_txt.fc1.weight: (64, 256)",
        "patch_embed.proj.weight: (64, 16, 3, 16)",
    ):
        assert part in str(caught.value)


def test_other_weights_are_refused():
    with pytest.raises(ValueError, match="not official IVT weights"):
        from_official({"encoder.weight": np.zeros(3)}, image_size=SIZE, num_heads=4)


def test_stride_16_tables_serve_stride_12(data):
    tall = (96, 48)
    weights = official(data)
    rng = np.random.default_rng(0)
    for name in ("pos_embed", "type_embed"):
        weights[name] = rng.normal(size=(1, 1 + 6 * 3, 64)).astype(np.float32)
    model = from_official(weights, image_size=tall, num_heads=4, patch_stride=12)
    assert model.config.grid == (7, 3)
    for name in ("pos_embed", "type_embed"):
        expected = resize_positions(weights[name][0], source=(6, 3), target=(7, 3))
        np.testing.assert_array_equal(to_official(model)[name][0], expected)
    assert np.array_equal(to_official(model)["cls_token"], weights["cls_token"])


@pytest.mark.parametrize("target", [(24, 8), (31, 10), (16, 8), (14, 14)])
def test_position_tables_resize_as_the_official_code(target):
    tables = golden("pos_embed_resize.npz")
    found = resize_positions(tables["pos_embed"][0], source=(14, 14), target=target)
    np.testing.assert_allclose(found, tables["resized_{}x{}".format(*target)][0], atol=1e-6)


def test_position_tables_of_no_known_grid_are_refused():
    assert guess_grid(197, [(24, 8)]) == (14, 14)
    assert guess_grid(193, [(24, 8)]) == (24, 8)
    with pytest.raises(ValueError, match="200 rows"):
        guess_grid(200, [(24, 8)])
    with pytest.raises(ValueError, match="does not hold"):
        resize_positions(np.zeros((193, 4)), source=(14, 14), target=(24, 8))


def test_every_parameter_has_one_official_name():
    assert len(set(NAMES.values())) == len(NAMES)
