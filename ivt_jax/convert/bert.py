"""BERT under Hugging Face's names: the text embeddings and the texts' own MLPs.

As in the official code, BERT's attention and LayerNorms of the blocks have no place: texts use
those of the ViT.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from ivt_jax.convert.files import Source, open_weights, read_json
from ivt_jax.convert.vit import official_name
from ivt_jax.data.texts import load_tokenizer
from ivt_jax.errors import UserError

STEMS = {
    "embeddings.word_embeddings": "embeddings.word_embeddings",
    "embeddings.position_embeddings": "embeddings.position_embeddings",
    "embeddings.token_type_embeddings": "embeddings.token_type_embeddings",
    "embeddings.LayerNorm": "embeddings.LayerNorm",  # weight, bias; gamma, beta in old files
    "encoder.layer.{}.intermediate.dense": "blocks.{}.mlp_txt.fc1",
    "encoder.layer.{}.output.dense": "blocks.{}.mlp_txt.fc2",
}
WORDS = "embeddings.word_embeddings.weight"
_PREFIX = re.compile(r"(module\.|model\.|bert\.)*")
_UNUSED = re.compile(
    r"encoder\.layer\.\d+\.(attention|output\.LayerNorm)\.|pooler\.|cls\.|classifier\."
    r"|embeddings\.position_ids"
)
_OWNS = re.compile(r"embeddings\..*|blocks\.\d+\.mlp_txt\..*")
_FITTING = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}


def read_bert(source: str, *, tokens: Sequence[str]) -> Source:
    """A BERT, BERT-small or MiniLM model: file, folder or hub name; see `open_weights`.

    Args:
      tokens: the vocabulary of the data in the order of its ids. Where the weights come with
        another one their word table is a fault, as its rows would mean other words.

    Raises UserError if it cannot be read or is no BERT.
    """
    weights = open_weights(source)
    found, unused = {}, []
    faults = {
        f"config.json {key}": f"{weights.settings[key]!r} there, {fitting} here"
        for key, fitting in _FITTING.items()
        if weights.settings.get(key, fitting) != fitting
    }
    for name, tensor in weights.tensors.items():
        short = _PREFIX.sub("", name, count=1)
        official = official_name(short, STEMS)
        if official is None and _UNUSED.match(short):
            unused.append(name)
        elif official is None or official in found:
            faults[name] = "unknown"
        else:
            found[official] = tensor
    if WORDS not in found:
        some = ", ".join(list(weights.tensors)[:5]) or "none"
        raise UserError(f"init.bert: {weights.path} holds no BERT that is known by name ({some})")
    theirs = _vocabulary(weights.path.parent)
    if theirs is not None and list(theirs) != list(tokens):
        faults[WORDS] = _difference(theirs, tokens)
    unchecked = f"no vocab.txt beside {weights.path}: that it means data.vocabulary is not checked"
    return Source(
        label=f"init.bert: {weights.path} (Hugging Face names)",
        tensors=found,
        owns=_OWNS,
        unused=unused,
        faults=faults,
        notes=(unchecked,) if theirs is None else (),
    )


def _vocabulary(folder: Path) -> list[str] | None:
    if (folder / "vocab.txt").is_file():
        return load_tokenizer(folder / "vocab.txt").tokens()
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    model = read_json(file).get("model")
    table = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(table, dict) or not all(isinstance(number, int) for number in table.values()):
        raise UserError(f"{file} holds no WordPiece vocabulary")
    return sorted(table, key=table.__getitem__)


def _difference(theirs: Sequence[str], ours: Sequence[str]) -> str:
    pairs = enumerate(zip(theirs, ours, strict=False))
    first = next((f"; id {i} is {a!r} there, {b!r} here" for i, (a, b) in pairs if a != b), "")
    return (
        f"another vocabulary, {len(theirs)} tokens there, {len(ours)} here{first} "
        "(set data.vocabulary to the weights' own, and prepare with it)"
    )
