"""`python -m ivt_jax export`: writes a trained model for other software."""

import argparse
import json
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import jax
from flax import nnx
from ml_collections import ConfigDict

import ivt_jax
from ivt_jax.aot import write_programs
from ivt_jax.convert.card import model_card, public_config, read_results
from ivt_jax.convert.exported import write_templates, write_weights
from ivt_jax.convert.folder import write_facts, write_sums, write_tokenizer
from ivt_jax.convert.hub import push
from ivt_jax.convert.official_files import write_official
from ivt_jax.convert.onnx import write_onnx
from ivt_jax.data.records import RecordSource, open_dataset
from ivt_jax.dtypes import DTYPES
from ivt_jax.errors import EXIT_NO_CHECKPOINT, UserError
from ivt_jax.model.ivt import IVTConfig
from ivt_jax.sources import Source, held, read, read_run
from ivt_jax.training.checkpoint import FOLDER, read_config
from ivt_jax.training.state import split_model

_SUFFIXES = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"RI": ".webp"}  # by the first two bytes
_PYTORCH_USAGE = """## Use

In this folder, after `pip install -r requirements.txt`, in PyTorch; `modeling_ivt.py` is the whole
model:

```python
from evaluate import IVTModel, encode_images, encode_texts
from PIL import Image
from tokenizers import Tokenizer

model = IVTModel.from_pretrained(".")
photos = encode_images(model, [Image.open("a.jpg"), Image.open("b.jpg")], batch_size=64)
words = Tokenizer.from_file("tokenizer.json")
query = encode_texts(model, words, ["a woman in a red coat"], batch_size=64)
print(query @ photos.T)  # similarities from -1 to 1: rank the photos by them
```

With transformers, which runs `modeling_ivt.py`, so read that first. Photos go in as `pixel_values`
(batch, 3, height, width): RGB resized bilinearly with antialiasing, then value / 127.5 - 1.

```python
from transformers import AutoModel, PreTrainedTokenizerFast

model = AutoModel.from_pretrained("./", trust_remote_code=True)
words = PreTrainedTokenizerFast.from_pretrained("./")
tokens = words(["a woman in a red coat"], padding=True, truncation=True, return_tensors="pt")
query = model(**tokens)["text_embeds"]
```

In JAX, where nothing of this folder is executed:

```python
import ivt_jax

model = ivt_jax.load(".")
print(model.encode_text(["a woman in a red coat"]) @ model.encode_image(["a.jpg", "b.jpg"]).T)
```

From the hub, always by the commit you have read: `IVTModel.from_pretrained("USER/NAME",
revision=COMMIT)`, `AutoModel.from_pretrained` with `revision=COMMIT, code_revision=COMMIT`, or
`ivt_jax.load("hf://USER/NAME@COMMIT")`.

`python evaluate.py --data=FOLDER` scores the model on your photos: `FOLDER/captions.json` is a list
of `{"image": "images/1.jpg", "captions": ["a woman in a red coat"], "identity": 1}`. Everything is
float32, and embeddings are L2-normalised. `sha256sum -c SHA256SUMS` checks the files.
"""
_ONNX_USAGE = """## Use

`image_encoder.onnx`: pixel_values float32 (batch, 3, height, width), RGB resized bilinearly with
antialiasing, then value / 127.5 - 1, gives image_embeds. `text_encoder.onnx`: input_ids and
attention_mask int64 (batch, length) from `tokenizer.json` gives text_embeds. Both are
L2-normalised; their dot product is the similarity.
"""
_JAX_USAGE = """## Use

`image_encoder.jaxexport` and `text_encoder.jaxexport` are programs of JAX {jax} for CPU, CUDA and
TPU; `weights.safetensors` holds what they compute with, in {dtype}. A JAX up to six months newer
reads them.

```python
import ivt_jax

model = ivt_jax.load(".")
print(model.encode_text(["a woman in a red coat"]) @ model.encode_image(["a.jpg", "b.jpg"]).T)
```

Without ivt_jax: `jax.export.deserialize(bytearray(file)).call(weights, images)` takes the tensors
of `weights.safetensors` by name and uint8 images (rows, height, width, 3), RGB resized bilinearly
with antialiasing; the text encoder takes int32 ids and a bool mask (rows, tokens), both from
`tokenizer.json`.
Both return L2-normalised float32 embeddings.
"""


def write_pytorch(folder: Path, source: Source, dtype: str) -> tuple[str, dict]:
    """Writes weights and stand-alone PyTorch files.

    This and the other writers of TARGETS return the card's words on the use of the folder, and what
    config.json says beyond the sizes. `dtype` is for `write_jax`.
    """
    write_weights(folder, source.params, IVTConfig(**source.config.model))
    write_templates(folder)
    return _PYTORCH_USAGE, {}


def write_onnx_files(folder: Path, source: Source, dtype: str) -> tuple[str, dict]:
    """Writes both encoders as ONNX."""
    worst = write_onnx(folder, source.params, IVTConfig(**source.config.model))
    print(f"onnxruntime agrees with PyTorch within {worst:.1e}")
    return _ONNX_USAGE, {}


def write_jax(folder: Path, source: Source, dtype: str) -> tuple[str, dict]:
    """Writes both encoders as programs, held in one of DTYPES, "" = the run's own."""
    source = held(source, dtype)
    computation = source.config.model.dtype
    # One program for all platforms takes no kernel that only one of them has.
    sizes = IVTConfig(**{**source.config.model, "attention": "xla"})
    length = source.config.data.text_length
    graphdef, _ = split_model(sizes)
    write_programs(folder, graphdef, source.params, image_size=sizes.image_size, length=length)
    facts = {"dtype": dtype or computation, "computation": computation, "jax": jax.__version__}
    return _JAX_USAGE.format(**facts), facts


TARGETS = {"pytorch": write_pytorch, "onnx": write_onnx_files, "jax": write_jax}


def export(run: Path, out: Path, *, to: str, step: int | None = None, dtype: str = "") -> int:
    """Writes the checkpoint of a run to the new folder `out`, whole or not at all.

    `to` and `dtype` name a writer of TARGETS and its argument. Returns the step written.

    Raises:
      UserError: no run there, `out` exists, or as the target.
    """
    if not (run / FOLDER).is_dir():
        raise UserError(f"{run} is no run folder: it has no {FOLDER}", exit_code=EXIT_NO_CHECKPOINT)
    if out.exists():
        raise UserError(f"{out} is there already; name a new folder or remove it")
    source = read(run, step)
    config = source.config
    unfinished = out.with_name(out.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    usage, more = TARGETS[to](unfinished, source, dtype)
    text = {"separator": config.data.separator}
    write_tokenizer(unfinished, source.tokenizer, length=config.data.text_length, **text)
    facts = {"step": source.step, "text_length": config.data.text_length, **text, **more}
    write_facts(unfinished, IVTConfig(**config.model), **facts)
    (unfinished / "training.json").write_text(public_config(config))
    card = model_card(
        out.name,
        config=config,
        earlier=_earlier(config),
        step=source.step,
        choice=_choice(config, step),
        parameters=sum(leaf.size for leaf in jax.tree.leaves(source.params)),
        dtype=more.get("dtype", "float32"),
        results=read_results(run, source.step),
        usage=usage,
        made_with=software(),
    )
    (unfinished / "README.md").write_text(card, encoding="utf-8")
    write_sums(unfinished)
    unfinished.rename(out)
    return source.step


def _earlier(config: ConfigDict) -> list[ConfigDict]:
    """Configurations of the runs it goes back to, the newest first, as far as they are here."""
    found: list[ConfigDict] = []
    while config.init.run and (Path(config.init.run) / FOLDER).is_dir() and len(found) < 9:
        config = read_config(Path(config.init.run))
        found.append(config)
    return found


def _choice(config: ConfigDict, step: int | None) -> str:
    if step is not None:
        return "named by hand"
    chosen = config.evaluation
    if not chosen.dataset:
        return "the newest: no split was set aside to choose by"
    return f"the one with the highest R1 + mAP on {chosen.dataset} {chosen.select}"


def write_split(folder: Path, source: RecordSource) -> None:
    """Writes a split as captions.json and images/, which needs no JAX and no TFDS to read."""
    (folder / "images").mkdir(parents=True)
    listed = []
    for index in range(len(source)):
        record = source[index]
        name = f"images/{index:06d}{_SUFFIXES[record['image'][:2]]}"
        (folder / name).write_bytes(record["image"])
        listed.append({"image": name, **{k: record[k] for k in ("identity", "captions", "key")}})
    text = json.dumps(listed, indent=1, ensure_ascii=False)
    (folder / "captions.json").write_text(text + "\n", encoding="utf-8")


def export_official(run: Path, out: Path, *, step: int | None) -> str:
    """Writes a step under the official names, vocab.txt beside it; returns what to do next."""
    config, step, params = read_run(run, step)
    graphdef, _ = split_model(IVTConfig(**config.model))
    vocabulary, beside = (run / "vocab.txt").read_bytes(), out.with_name("vocab.txt")
    if beside.exists() and beside.read_bytes() != vocabulary:
        raise UserError(
            f"--out: {beside} is another vocabulary than the run's; name another folder"
        )
    model = nnx.merge(graphdef, params)
    write_official(model, out, config=config)
    beside.write_bytes(vocabulary)
    return (
        f"wrote step {step} of {run} to {out}, and {beside}; in Python: ivt_jax.load({str(out)!r})"
    )


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    _check_options(arguments)
    if arguments.to == "official":
        print(export_official(arguments.run, Path(arguments.out), step=arguments.step))
        return 0
    out, split = Path(arguments.out), arguments.with_split
    source = _open_split(arguments) if split else None
    step = export(arguments.run, out, to=arguments.to, step=arguments.step, dtype=arguments.dtype)
    print(f"wrote {out} (step {step})")
    if source is not None:
        write_split(out / split, source)
        print(f"wrote {out / split}")
        if arguments.to == "pytorch":
            print(f"next: python {out / 'evaluate.py'} --data={out / split}")
    if arguments.push:
        address = push(out, arguments.push)
        loads = f"; load it with ivt_jax.load({address!r})"
        print(f"uploaded to {address}{loads if arguments.to == 'pytorch' else ''}")
    return 0


def _check_options(arguments: argparse.Namespace) -> None:
    """UserError for options that what is to be written has no use for."""
    if arguments.dtype and arguments.to != "jax":
        raise UserError(f"--dtype is for --to=jax; --to={arguments.to} writes float32")
    if arguments.to == "official" and (arguments.with_split or arguments.push):
        raise UserError("--with_split and --push are for folders; --to=official writes one file")
    if arguments.with_split and arguments.push:
        raise UserError("--with_split copies photos of people: leave it out of what --push uploads")


def _open_split(arguments: argparse.Namespace) -> RecordSource:
    config = read_config(arguments.run)
    dataset = arguments.dataset or config.evaluation.dataset
    if not dataset:
        raise UserError(f"{arguments.run} was trained without a test set; name one with --dataset")
    return open_dataset(arguments.data or config.data.directory, dataset, arguments.with_split)


def software() -> str:
    """Versions and, where it is a checkout, the commit of this software."""
    version = f"ivt_jax {ivt_jax.__version__}, Python {platform.python_version()}"
    root = Path(ivt_jax.__file__).parent.parent
    if not (root / ".git").exists():
        return version
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return version
    return f"{version}, commit {commit}" if commit else version


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ivt_jax export", description=__doc__)
    parser.add_argument("--run", required=True, type=Path, help="run folder (--workdir)")
    parser.add_argument(
        "--out",
        required=True,
        help="folder to write; must not exist (official: a .safetensors or .pth file)",
    )
    parser.add_argument(
        "--to",
        choices=(*TARGETS, "official"),
        default="pytorch",
        help="what to write; official: the names and layouts of the official code",
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default="", help="of --to=jax (default: the run's)"
    )
    parser.add_argument("--step", type=int, help="checkpoint; default: the best")
    parser.add_argument("--with_split", help="also write this split as images and captions.json")
    parser.add_argument("--dataset", default="", help="of --with_split (default: the run's)")
    parser.add_argument("--data", default="", help="folder of datasets (default: the run's)")
    parser.add_argument("--push", default="", help="also upload to USER/NAME on the hub (private)")
    return parser
