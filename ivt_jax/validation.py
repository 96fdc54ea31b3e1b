"""What a valid configuration is: keys, types, ranges, relations, files; all faults at once.

configs/base.py is the one list of keys. Nothing here imports JAX, so a fault shows at once.
"""

import difflib
import importlib.util
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import base
from ivt_jax.errors import UserError

MIXTURE = "data.mixture"  # the one field whose keys are the user's: dataset -> weight
DRAWN = ("synthetic_people", "synthetic_scenes")  # drawn when they are absent
DATASETS = ("cc3m", "sbu", "coco", "vg", "cuhk_pedes", "icfg_pedes", "rstpreid", *DRAWN)
LEVELS = ("word", "phrase", "sentence")  # of text
_SOME_LEVELS = f"must hold some of {', '.join(LEVELS)}, with commas and no blanks"
MANIFEST = "prepared.json"  # in every finished dataset folder
WEIGHT_FILES = (".safetensors", ".npz", ".pth", ".pt", ".bin")
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(@[\w.-]+)?")  # owner/name@revision


class Fault(NamedTuple):
    """One thing wrong with one field."""

    field: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.field}: {self.sentence}"


class ConfigError(UserError):
    """All faults of a configuration; `faults` holds one line each."""

    def __init__(self, faults: Iterable[Fault]):
        self.faults = [str(fault) for fault in faults]
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        super().__init__("\n  ".join([f"{count} in the configuration:", *self.faults]))


class Rule(NamedTuple):
    """What one value must satisfy, as a test and in words."""

    holds: Callable[[Any], bool]
    words: str


def _one_of(*choices: str) -> Rule:
    words = ", ".join(f'"{choice}"' for choice in choices)
    return Rule(lambda value: value in choices, f"must be one of {words}")


_COUNT = Rule(lambda value: value >= 1, "must be at least 1")
_COUNTS = Rule(lambda values: min(values) >= 1, "must be at least 1 each")
_NOT_NEGATIVE = Rule(lambda value: value >= 0, "must not be negative")
_POSITIVE = Rule(lambda value: value > 0, "must be above 0")
_SHARE = Rule(lambda value: 0 <= value < 1, "must be at least 0 and below 1")
_NO_OR_SOME_WORDS = Rule(lambda value: value == 0 or value >= 3, "must be 0 or at least 3")
_PROBABILITY = Rule(lambda value: 0 <= value <= 1, "must lie between 0 and 1")

RULES: dict[str, Rule] = {
    "seed": Rule(lambda value: 0 <= value < 2**32, "must lie between 0 and 2**32 - 1"),
    "model.image_size": _COUNTS,
    "model.drop_path": _SHARE,
    "model.text_dropout": _SHARE,
    "model.position_init": _one_of("normal", "sincos"),
    "model.dtype": _one_of("bfloat16", "float32"),
    "model.attention": _one_of("auto", "xla"),
    "model.layers": _one_of("scan", "unroll"),
    "model.remat": _one_of("none", "block"),
    MIXTURE: Rule(lambda value: min(value.values()) > 0, "must hold weights above 0 only"),
    "data.text_length": Rule(lambda value: value >= 3, "must be at least 3: [CLS], a word, [SEP]"),
    "data.separator": _one_of("none", "sep"),
    "data.entries": _one_of("captions", "images"),
    "data.sampler": _one_of("shuffle", "identity"),
    "data.decode": _one_of("exact", "scaled"),
    "data.resize": _one_of("bicubic", "bilinear"),
    "data.flip": _PROBABILITY,
    "data.erase": _PROBABILITY,
    "data.levels": Rule(lambda text: {*text.split(",")} <= {*LEVELS}, _SOME_LEVELS),
    "data.word_level": _one_of("words", "official"),
    "data.phrase_level": _one_of("pieces", "nouns"),
    "data.image_views": _one_of("level", "one"),
    "masking.strategy": _one_of("drop", "official", "none"),
    "masking.image_ratio": _SHARE,
    "masking.text_ratio": _SHARE,
    "masking.draws": _one_of("sample", "batch"),
    "objective.logits": _one_of("projection", "dot"),
    "objective.target_norm": _one_of("l2", "sum"),
    "objective.negatives": _one_of("global", "local"),
    "objective.levels": _one_of("joint", "separate", "sentence"),
    "optimizer.name": _one_of("sgd", "adamw"),
    "optimizer.decay": _one_of("all", "matrices"),
    "optimizer.momentum": _SHARE,
    "optimizer.beta1": _SHARE,
    "optimizer.beta2": _SHARE,
    "training.spike_window": Rule(lambda value: value >= 2, "must be at least 2"),
    "training.changed_config": _one_of("refuse", "accept"),
    "schedule.name": _one_of("official", "cosine", "constant"),
    "training.accumulate_negatives": _one_of("all", "micro"),
    "evaluation.select": _one_of("val", "test"),
    "evaluation.report": _one_of("val", "test", ""),
    "mesh.data": Rule(lambda value: value == -1 or value >= 1, "must be -1 or at least 1"),
    "mesh.optimizer": _one_of("params", "split"),
    "training.profile_steps": Rule(
        lambda steps: tuple(steps) == (0, 0) or 1 <= steps[0] <= steps[1],
        "must be (0, 0) or a first and a last step, from 1",
    ),
    "init.strict": Rule(lambda value: isinstance(value, bool), "must be True or False"),
    "init.step": Rule(lambda value: value >= -1, "must be -1 or a step"),
}
for _rule, _fields in {
    _COUNT: "model.patch_size model.patch_stride model.width model.depth model.heads"
    " model.mlp_ratio model.vocabulary_size model.max_text_positions data.captions_per_identity"
    " data.threads data.prefetch training.batch_size training.accumulate training.log_steps"
    " training.keep training.skip_limit evaluation.batch_size mesh.fsdp",
    _NOT_NEGATIVE: "data.pad data.workers data.cache_gib objective.chunk optimizer.bias_factor"
    " optimizer.weight_decay optimizer.clip_norm schedule.warmup_epochs schedule.start_rate"
    " schedule.floor_rate schedule.first_epoch training.steps training.eval_epochs"
    " training.save_epochs training.stop_after watchdog.startup watchdog.step watchdog.step_limit"
    " watchdog.data training.skip_spikes training.rollbacks training.replica_steps",
    _NO_OR_SOME_WORDS: "data.word_length data.phrase_length",
    _POSITIVE: "model.kernel_deviation objective.epsilon optimizer.learning_rate"
    " optimizer.epsilon training.epochs data.worker_deadline",
}.items():
    RULES |= dict.fromkeys(_fields.split(), _rule)


def _at_most(field: str):
    return lambda value, most: value > most and f"must not exceed {field} = {most}"


# Fields and what must hold between them: a sentence if it does not. The first field is blamed.
RELATIONS: tuple[tuple[tuple[str, ...], Callable[..., Any]], ...] = (
    (
        ("model.width", "model.heads"),
        lambda width, heads: width % heads and f"must be a multiple of model.heads = {heads}",
    ),
    (
        ("model.width", "model.position_init"),
        lambda width, kind: kind == "sincos" and width % 4 and 'must be a multiple of 4 ("sincos")',
    ),
    (
        ("model.image_size", "model.patch_size"),
        lambda size, patch: min(size) < patch and f"must hold one patch of {patch} pixels",
    ),
    (
        ("model.patch_stride", "model.patch_size"),
        lambda stride, patch: (
            stride > patch and f"must not exceed model.patch_size = {patch}, or pixels are skipped"
        ),
    ),
    (("data.word_length", "data.text_length"), _at_most("data.text_length")),
    (("data.phrase_length", "data.text_length"), _at_most("data.text_length")),
    (("data.text_length", "model.max_text_positions"), _at_most("model.max_text_positions")),
    (
        ("training.batch_size", "data.captions_per_identity", "data.sampler"),
        lambda batch, each, sampler: (
            sampler == "identity"
            and batch % each
            and f"must be a multiple of data.captions_per_identity = {each} (identity sampler)"
        ),
    ),
    (("schedule.start_rate", "optimizer.learning_rate"), _at_most("optimizer.learning_rate")),
    (
        ("schedule.floor_rate", "optimizer.learning_rate", "schedule.name"),
        lambda floor, peak, name: (
            name != "constant"
            and floor > peak
            and f"must not exceed optimizer.learning_rate = {peak}"
        ),
    ),
    (
        ("init.run", "init.vit", "init.bert"),
        lambda run, vit, bert: (
            run and (vit or bert) and "gives all parameters; empty it, or init.vit and init.bert"
        ),
    ),
    (
        ("evaluation.report", "evaluation.select"),
        lambda report, select: report == select and 'is also the choosing split; use "" for none',
    ),
)


def validate(
    config: ConfigDict,
    *,
    device_count: int | None = None,
    workdir: str | Path = "",
    files: bool = True,
) -> None:
    """Checks a resolved configuration; with `device_count` also that batches and mesh divide it.

    `workdir` is the folder of the run, if it is known: one that holds a checkpoint goes on from
    there, so the run in `init.run` may be gone. Without `files` nothing is looked for on disk.

    Raises ConfigError with every fault, by field: unknown and missing keys, types, ranges,
    choices, relations between fields, and files that must exist.
    """
    faults = find_faults(config, device_count=device_count, workdir=workdir, files=files)
    if faults:
        raise ConfigError(faults)


def find_faults(
    config: ConfigDict,
    *,
    device_count: int | None = None,
    workdir: str | Path = "",
    files: bool = True,
) -> list[Fault]:
    """What `validate` raises, as a list."""
    values, defaults = leaves(config), leaves(base.get_config())
    faults = [Fault(field, unknown_key(field)) for field in values if field not in defaults]
    for field, default in defaults.items():
        if field not in values:
            faults.append(Fault(field, f"is missing; the default is {default!r}"))
            continue
        sentence = _type_fault(values[field], default)
        rule = RULES.get(field)
        if not sentence and rule and not rule.holds(values[field]):
            sentence = rule.words
        if sentence:
            faults.append(Fault(field, f"{sentence} (got {values[field]!r})"))
    sound = {field: values[field] for field in defaults.keys() - {fault.field for fault in faults}}
    for fields, relation in (*RELATIONS, *_device_relations(device_count)):
        if sound.keys() >= set(fields):
            sentence = relation(*(sound[field] for field in fields))
            if sentence:
                faults.append(Fault(fields[0], f"{sentence} (got {sound[fields[0]]!r})"))
    faults += _path_faults(sound) if files else []
    if files and not _steps(workdir):
        faults += _init_faults(sound)
    return sorted(faults)


def _type_fault(value: Any, default: Any) -> str | None:
    if isinstance(default, dict):
        weights = isinstance(value, dict) and list(value.values())
        faults = not weights or any(_type_fault(weight, 1.0) for weight in weights)
        return "must name at least one dataset, each with a finite weight" if faults else None
    if isinstance(default, tuple):
        fits = isinstance(value, tuple | list) and len(value) == len(default)
        faults = not fits or any(_type_fault(*pair) for pair in zip(value, default, strict=True))
        return f"must be {len(default)} whole numbers" if faults else None
    if isinstance(default, bool):
        return None  # its rule tells
    kind = (int, float) if isinstance(default, float) else type(default)
    if isinstance(value, bool) or not isinstance(value, kind):
        words = {int: "a whole number", float: "a number", str: "a text"}
        return f"must be {words[type(default)]}"
    if isinstance(value, float) and not math.isfinite(value):
        return "must be finite"
    return None


def _device_relations(device_count: int | None):
    """Relations that tie batch and mesh to the number of devices, as far as it is known."""

    def shares(data: int, fsdp: int) -> int:
        return device_count or max(data, 1) * fsdp

    def mesh(data: int, fsdp: int) -> Any:
        count = shares(data, fsdp)
        if data == -1:
            return count % fsdp and f"times mesh.fsdp = {fsdp} cannot give the {count} devices here"
        return data * fsdp != count and (
            f"times mesh.fsdp = {fsdp} must equal the {count} devices here; -1 fits itself"
        )

    def batch(size: int, accumulate: int, data: int, fsdp: int) -> Any:
        number = accumulate * shares(data, fsdp)
        near = max(round(size / number), 1) * number
        return size % number and (
            f"must be a multiple of training.accumulate = {accumulate} times"
            f" {shares(data, fsdp)} devices; {near} is"
        )

    def evaluation(size: int, dataset: str, data: int, fsdp: int) -> Any:
        number = shares(data, fsdp)
        return dataset and size % number and f"must be a multiple of the {number} devices"

    axes = ("mesh.data", "mesh.fsdp")
    relations = [
        (("training.batch_size", "training.accumulate", *axes), batch),
        (("evaluation.batch_size", "evaluation.dataset", *axes), evaluation),
    ]
    return [(axes, mesh), *relations] if device_count else relations


def _path_faults(values: Mapping[str, Any]) -> list[Fault]:
    """Files and folders that the configuration names and that are not there."""
    faults = _dataset_faults(values)
    vocabulary = values.get("data.vocabulary")
    if vocabulary and not Path(vocabulary).is_file():
        faults.append(Fault("data.vocabulary", f"no file {vocabulary}; a WordPiece vocab.txt"))
    if values.get("data.decode") == "scaled":
        absent = [name for name in ("simplejpeg", "cv2") if not importlib.util.find_spec(name)]
        if absent:
            need = "pip install simplejpeg opencv-python-headless"
            faults.append(Fault("data.decode", f"scaled needs {' and '.join(absent)}: {need}"))
    return faults


def _init_faults(values: Mapping[str, Any]) -> list[Fault]:
    """What the weights to start from lack."""
    faults = [
        Fault(field, f"no file or folder {source}, nor can it be a name of the Hugging Face hub")
        for field in ("init.vit", "init.bert")
        if (source := values.get(field)) and not Path(source).expanduser().exists()
        if not HUB_NAME.fullmatch(source) or Path(source).suffix in WEIGHT_FILES
    ]
    run, step = values.get("init.run"), values.get("init.step", -1)
    if not run or (Path(run).is_file() and Path(run).suffix in WEIGHT_FILES):
        return faults
    steps = _steps(run)
    missing = [name for name in ("config.json", "vocab.txt") if not Path(run, name).is_file()]
    if not steps:
        cure = "name a run's workdir, or a .safetensors or .pth file"
        faults.append(Fault("init.run", f"no checkpoint below {run}; {cure}"))
    elif missing:
        lack = " and ".join(missing)
        faults.append(Fault("init.run", f"{run} lacks {lack}; name a whole workdir"))
    elif step >= 0 and step not in steps:
        faults.append(Fault("init.step", f"{run} has no step {step}; it has {steps}"))
    return faults


def _steps(run: str | Path) -> list[int]:
    folders = Path(run, "checkpoints").glob("[0-9]*") if run else ()
    return sorted(int(folder.name) for folder in folders if folder.name.isdigit())


def _dataset_faults(values: Mapping[str, Any]) -> list[Fault]:
    faults = []
    directory = values.get("data.directory", "data")
    wanted = [(MIXTURE, name) for name in values.get(MIXTURE, ())]
    scored = values.get("evaluation.dataset")
    for field, name in [*wanted, *([("evaluation.dataset", scored)] if scored else [])]:
        folder = Path(directory, name)
        if name in DRAWN or (folder / MANIFEST).is_file():
            continue
        prepare = f"python -m ivt_jax prepare {name} --source=FOLDER_OR_JSON"
        prepare += f" --out={directory} --vocabulary=VOCAB_TXT"
        cure = f"make it with `{prepare}`" if name in DATASETS else nearest(name, DATASETS)
        faults.append(Fault(field, f"there is no dataset {folder}; {cure}"))
    manifest = Path(directory, scored or "", MANIFEST)
    if scored and manifest.is_file():
        splits = [*json.loads(manifest.read_text("utf-8"))["splits"], ""]
        for field in ("evaluation.select", "evaluation.report"):
            if values.get(field, "") not in splits:
                known = ", ".join(splits[:-1])
                faults.append(Fault(field, f"{scored} has {known} only (got {values[field]!r})"))
    return faults


def leaves(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Dotted field -> value, in order; the dataset mixture is one field with a dict."""
    found = {}
    for key, value in config.items():
        field = prefix + key
        if not isinstance(value, ConfigDict):
            found[field] = value
        elif field == MIXTURE:
            found[field] = value.to_dict()
        else:
            found |= leaves(value, f"{field}.")
    return found


def unknown_key(field: str) -> str:
    """The sentence for a key that configs/base.py lacks."""
    return f"is no key of configs/base.py; {nearest(field, list(leaves(base.get_config())))}"


def nearest(name: str, known: Sequence[str]) -> str:
    """The known names nearest to `name` as a question, by the whole name or by its last part."""
    group, _, last = name.rpartition(".")
    ends = {field: field.rpartition(".")[2] for field in known}
    near = [
        field
        for field, end in ends.items()
        if last in (end, "".join(word[:1] for word in end.split("_")))  # lr = learning_rate
    ]
    siblings = {end: field for field, end in ends.items() if field == f"{group}.{end}"}
    near = near or [siblings[end] for end in difflib.get_close_matches(last, siblings, n=1)]
    near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    if near:
        return f"did you mean {' or '.join(near)}?"
    few = list(siblings) or known
    return f"known are {', '.join(few)}" if len(few) < 20 else "--help lists all of them"
