"""What every exported folder holds beside its weights: config.json, the tokenizer, checksums."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers.processors import TemplateProcessing

from ivt_jax.convert.files import read_json
from ivt_jax.data.texts import SEPARATORS, SPECIAL_TOKENS, Tokenizer
from ivt_jax.errors import UserError

if TYPE_CHECKING:
    from ivt_jax.model.ivt import IVTConfig

CONFIG = "config.json"
SUMS = "SHA256SUMS"
SIZES = (
    "patch_size",
    "patch_stride",
    "width",
    "depth",
    "heads",
    "mlp_ratio",
    "vocabulary_size",
    "max_text_positions",
)
_LARGEST = 1 << 24  # of any size in config.json, so that products of two stay exact


def write_facts(folder: Path, config: IVTConfig, **facts) -> None:
    """Writes config.json: the sizes, `facts`, and what AutoModel looks for."""
    sizes = {name: getattr(config, name) for name in ("image_size", *SIZES)}
    auto = {"AutoConfig": "modeling_ivt.IVTConfig", "AutoModel": "modeling_ivt.IVTModel"}
    about = {"model_type": "ivt", "architectures": ["IVTModel"], "auto_map": auto}
    table = {**about, "dtype": "float32", **sizes, **facts}
    (folder / CONFIG).write_text(json.dumps(table, indent=2) + "\n")


def write_tokenizer(folder: Path, tokenizer: Tokenizer, *, length: int, separator: str) -> None:
    """Writes vocab.txt, tokenizer.json (cut to `length` tokens) and tokenizer_config.json."""
    shutil.copyfile(tokenizer.path, folder / "vocab.txt")
    fast = tokenizer.wordpiece.from_str(tokenizer.wordpiece.to_str())
    fast.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]" if separator == "sep" else "[CLS] $A",
        special_tokens=[("[CLS]", tokenizer.class_id), ("[SEP]", tokenizer.separator_id)],
    )
    fast.enable_truncation(length)
    fast.enable_padding(pad_id=tokenizer.pad_id, pad_token="[PAD]")
    fast.save(str(folder / "tokenizer.json"))
    table = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": length,
        "model_input_names": ["input_ids", "attention_mask"],
        **{f"{name[1:-1].lower()}_token": name for name in SPECIAL_TOKENS},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(table, indent=2) + "\n")


def write_sums(folder: Path) -> None:
    """Writes SHA256SUMS over every file of the folder; `sha256sum -c SHA256SUMS` checks it."""
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    lines = [f"{_sha256(folder / path)}  {path.as_posix()}\n" for path in files]
    (folder / SUMS).write_text("".join(lines))


def read_facts(file: Path) -> dict[str, Any]:
    """The values of config.json; UserError if they describe no model."""
    facts = read_json(file)
    size = facts.get("image_size")
    pair = size if isinstance(size, list) and len(size) == 2 else [None]
    wanted = {f"image_size {value}": value for value in pair}
    wanted |= {name: facts.get(name) for name in (*SIZES, "text_length")}
    faults = [
        f"{name} must be a whole number from 1 to {_LARGEST:,}"
        for name, value in wanted.items()
        if type(value) is not int or not 1 <= value <= _LARGEST
    ]
    if type(facts.get("step")) is not int:
        faults.append("step must be a whole number")
    if facts.get("separator") not in SEPARATORS:
        faults.append(f"separator must be one of {', '.join(SEPARATORS)}")
    if faults:
        raise UserError(f"{file} describes no model: {'; '.join(faults)}")
    return facts


def check_sums(folder: Path, names: Sequence[str]) -> None:
    """Compares these files with SHA256SUMS, if it is there; UserError if one differs."""
    if not (folder / SUMS).is_file():
        return
    lines = (folder / SUMS).read_text("utf-8", errors="replace").splitlines()
    wanted = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in names:
        if wanted.get(name) != _sha256(folder / name):
            raise UserError(
                f"{folder / name} is not the file that {SUMS} lists: it was damaged or changed. "
                f"Export or download it again, or remove {SUMS} if the change was yours."
            )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
