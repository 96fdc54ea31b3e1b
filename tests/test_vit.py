"""With the weights of ViT and BERT the network is ViT, and its texts start as BERT's."""

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from ivt_jax.convert.official import from_official
from ivt_jax.model.ivt import IVT, IVTConfig

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZE, WIDTH, DEPTH, HEADS = (96, 48), 96, 3, 4
# Names in a saved Hugging Face ViT -> the official names.
VIT = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
}
VIT_BLOCK = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp_vis.fc1",
    "output.dense": "mlp_vis.fc2",
}


@pytest.fixture(scope="module")
def references():
    """A ViT and BERT embeddings with random, non-trivial parameters."""
    torch.manual_seed(0)
    vit = transformers.ViTModel(
        transformers.ViTConfig(
            hidden_size=WIDTH,
            num_hidden_layers=DEPTH,
            num_attention_heads=HEADS,
            intermediate_size=4 * WIDTH,
            image_size=list(SIZE),
            layer_norm_eps=1e-6,
            attn_implementation="eager",
        ),
        add_pooling_layer=False,
    )
    from transformers.models.bert.modeling_bert import BertEmbeddings

    bert = BertEmbeddings(
        transformers.BertConfig(
            hidden_size=WIDTH, vocab_size=70, max_position_embeddings=20, num_attention_heads=HEADS
        )
    )
    with torch.no_grad():
        for parameter in [*vit.parameters(), *bert.parameters()]:
            parameter.add_(0.1 * torch.randn_like(parameter))
    return vit.eval(), bert.eval()


def with_both(weights, ours, theirs, values):
    for part in ("weight", "bias"):
        weights[f"{ours}.{part}"] = values[f"{theirs}.{part}"]


@pytest.fixture(scope="module")
def model(references, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    references[0].save_pretrained(folder)  # the saved names outlive renamings in the library
    vit = load_file(folder / "model.safetensors")
    bert = {name: value.detach().numpy() for name, value in references[1].named_parameters()}
    weights = {f"embeddings.{name}": value for name, value in bert.items()}
    for theirs, ours in VIT.items():
        if theirs in vit:
            weights[ours] = vit[theirs]
        else:
            with_both(weights, ours, theirs, vit)
    rng = np.random.default_rng(0)
    for index in range(DEPTH):
        block, source = f"blocks.{index}", f"encoder.layer.{index}"
        for theirs, ours in VIT_BLOCK.items():
            with_both(weights, f"{block}.{ours}", f"{source}.{theirs}", vit)
        attention = f"{source}.attention.attention"
        for part in ("weight", "bias"):
            weights[f"{block}.attn.qkv.{part}"] = np.concatenate(
                [vit[f"{attention}.{name}.{part}"] for name in ("query", "key", "value")]
            )
        for name in ("fc1", "fc2"):  # the texts' own MLP, which images must not touch
            for part in ("weight", "bias"):
                shape = weights[f"{block}.mlp_vis.{name}.{part}"].shape
                weights[f"{block}.mlp_txt.{name}.{part}"] = rng.normal(size=shape)
    weights["type_embed"] = np.zeros_like(weights["pos_embed"])
    return from_official(weights, image_size=SIZE, num_heads=HEADS)


def test_images_equal_the_hugging_face_vit(references, model):
    images = np.random.default_rng(0).normal(size=(3, *SIZE, 3)).astype(np.float32)
    with torch.no_grad():
        pixels = torch.tensor(images.transpose(0, 3, 1, 2))
        expected = references[0](pixel_values=pixels).last_hidden_state.numpy()

    @jax.jit
    def run(images):
        tokens = model.embed_image(images)
        return model.encode(tokens, modality="image", output="tokens"), model.image_features(images)

    tokens, features = run(images)
    np.testing.assert_allclose(tokens, expected, atol=1e-4)
    np.testing.assert_allclose(features, expected[:, 0], atol=1e-4)


def test_text_embeddings_equal_those_of_bert(references, model):
    ids = np.random.default_rng(0).integers(0, 70, (4, 15))
    with torch.no_grad():
        expected = references[1](input_ids=torch.tensor(ids)).numpy()
    np.testing.assert_allclose(model.embed_text(ids), expected, atol=1e-5)


@pytest.mark.parametrize(("stride", "count"), [(16, 166_450_176), (12, 166_631_424)])
def test_the_base_model_has_the_published_number_of_parameters(stride, count):
    config = IVTConfig(patch_stride=stride)
    model = nnx.eval_shape(lambda: IVT(config, rngs=nnx.Rngs(0)))
    assert sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param))) == count
