"""Validation, JSON, overrides and the shipped configurations."""

import json
import math
import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs import base
from ivt_jax.config import (
    ConfigError,
    compare,
    difference,
    documentation,
    from_json,
    load_config,
    parse_command_line,
    resolved_json,
    validate,
)
from ivt_jax.data.records import MANIFEST as RECORDS_MANIFEST
from ivt_jax.data.records import PREPARED_BY
from ivt_jax.data.texts import LEVELS as TEXT_LEVELS
from ivt_jax.errors import UserError
from ivt_jax.validation import DATASETS, LEVELS, MANIFEST, RULES, leaves

ROOT = Path(__file__).parent.parent
FREE_TEXTS = {"data.directory", "data.vocabulary", "evaluation.dataset", "init.run"}
FREE_TEXTS |= {"init.vit", "init.bert"}


def faults_of(overrides: dict, **options) -> list[str]:
    config = base.get_config()
    for field, value in overrides.items():
        group, _, key = field.rpartition(".")
        node = config
        for name in filter(None, group.split(".")):
            node = node[name]
        with node.ignore_type():
            node[key] = value
    with pytest.raises(ConfigError) as caught:
        validate(config, **options)
    return caught.value.faults


def prepared(directory: Path, name: str, *splits: str) -> None:
    (directory / name).mkdir(parents=True)
    (directory / name / MANIFEST).write_text(json.dumps({"splits": list(splits)}))


def test_defaults_are_valid_on_any_divisor_of_their_batch():
    for count in (None, 1, 2, 4, 8, 16):
        validate(base.get_config(), device_count=count)


def test_every_key_has_a_comment_and_a_rule():
    fields = leaves(base.get_config())
    assert set(documentation()) == set(fields)
    assert all(documentation().values())
    assert set(RULES) | FREE_TEXTS == set(fields)


@pytest.mark.parametrize("field", [f for f, r in RULES.items() if "one of" in r.words])
def test_choices_are_those_of_the_comment(field):
    said = set(re.findall(r'"(\w*)"', documentation()[field])) | {leaves(base.get_config())[field]}
    ruled = set(re.findall(r'"(\w*)"', RULES[field].words))
    assert said <= ruled
    assert said == ruled or field == "evaluation.report"


def test_names_agree_with_the_records():
    assert set(DATASETS) == set(PREPARED_BY)
    assert MANIFEST == RECORDS_MANIFEST
    assert LEVELS == TEXT_LEVELS


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("training.batch_size", -5, "must be at least 1 (got -5)"),
        ("training.batch_size", 2.0, "must be a whole number (got 2.0)"),
        ("training.batch_size", True, "must be a whole number (got True)"),
        ("optimizer.learning_rate", math.nan, "must be finite (got nan)"),
        ("optimizer.learning_rate", math.inf, "must be finite (got inf)"),
        ("optimizer.learning_rate", "fast", "must be a number (got 'fast')"),
        ("model.dtype", "float16", 'must be one of "bfloat16", "float32" (got \'float16\')'),
        ("model.dtype", 16, "must be a text (got 16)"),
        ("data.levels", "", "must hold some of word, phrase, sentence, with commas and no blanks"),
        ("data.levels", "word, phrase", "and no blanks (got 'word, phrase')"),
        ("data.levels", "words", "must hold some of word, phrase, sentence"),
        ("model.width", 770, "must be a multiple of model.heads = 12 (got 770)"),
        ("model.image_size", (384,), "must be 2 whole numbers (got (384,))"),
        ("model.image_size", (8, 128), "must hold one patch of 16 pixels (got (8, 128))"),
        ("model.patch_stride", 17, "must not exceed model.patch_size = 16, or pixels are skipped"),
        ("masking.image_ratio", 1.0, "must be at least 0 and below 1 (got 1.0)"),
        ("data.text_length", 513, "must not exceed model.max_text_positions = 512 (got 513)"),
        ("data.mixture", {}, "must name at least one dataset, each with a finite weight"),
        ("data.mixture", {"vg": 0.0}, "must hold weights above 0 only (got {'vg': 0.0})"),
        ("data.mixture", {"sb": 1.0}, "there is no dataset data/sb; did you mean sbu?"),
        ("data.vocabulary", "no/vocab.txt", "no file no/vocab.txt"),
        ("schedule.start_rate", 0.1, "must not exceed optimizer.learning_rate = 0.005"),
        ("evaluation.report", "val", "is also the choosing split"),
        ("mesh.data", 0, "must be -1 or at least 1 (got 0)"),
        ("mesh.data", 3, "must equal"),
        ("init.run", "no/run", "no checkpoint below no/run"),
    ],
)
def test_one_fault_is_one_line_by_field(field, value, sentence):
    faults = faults_of({field: value}, device_count=8)
    assert len(faults) == 1
    assert faults[0].startswith(f"{field}: ") and sentence in faults[0]


def test_missing_datasets_name_the_command():
    command = "python -m ivt_jax prepare {} --source=FOLDER_OR_JSON --out=data"
    faults = faults_of({"data.mixture": {"cc3m": 2.0, "vg": 1.0, "synthetic_people": 1.0}})
    assert len(faults) == 2
    assert command.format("cc3m") in faults[0] and command.format("vg") in faults[1]


def test_splits_that_a_dataset_lacks(tmp_path):
    prepared(tmp_path, "icfg_pedes", "train", "test")
    scored = {"data.directory": str(tmp_path), "evaluation.dataset": "icfg_pedes"}
    assert faults_of(scored) == ["evaluation.select: icfg_pedes has train, test only (got 'val')"]


def test_devices_must_divide():
    numbers = {"training.batch_size": 12, "training.accumulate": 2}
    assert faults_of(numbers, device_count=8) == [
        "training.batch_size: must be a multiple of training.accumulate = 2 times 8 devices;"
        " 16 is (got 12)"
    ]
    assert (
        "mesh.fsdp = 3 cannot give the 8 devices here"
        in faults_of({"mesh.fsdp": 3, "training.batch_size": 24}, device_count=8)[0]
    )
    assert faults_of({"mesh.data": 5, "mesh.fsdp": 2}) == [
        "training.batch_size: must be a multiple of training.accumulate = 1 times 10 devices;"
        " 110 is (got 112)"
    ]
    identity = {"data.sampler": "identity", "data.captions_per_identity": 5}
    assert "multiple of data.captions_per_identity = 5" in faults_of(identity)[0]
    rows = {"evaluation.dataset": "synthetic_people", "evaluation.batch_size": 12}
    assert faults_of(rows, device_count=8) == [
        "evaluation.batch_size: must be a multiple of the 8 devices (got 12)"
    ]


def test_checkpoints_to_start_from(tmp_path):
    (tmp_path / "40").mkdir()
    start = {"init.run": str(tmp_path)}
    assert "no checkpoint below" in faults_of(start)[0]
    (tmp_path / "checkpoints" / "40").mkdir(parents=True)
    assert faults_of(start) == [
        f"init.run: {tmp_path} lacks config.json and vocab.txt; name a whole workdir"
    ]
    (tmp_path / "config.json").touch()
    (tmp_path / "vocab.txt").touch()
    config = base.get_config()
    config.init.run = str(tmp_path)
    validate(config)
    config.init.step = 40
    validate(config)
    assert "has no step 39; it has [40]" in faults_of({**leaves(config), "init.step": 39})[0]


def test_a_run_that_goes_on_needs_no_run_to_start_from(tmp_path):
    argv = ["--config=configs/base.py", "--config.init.run=gone", f"--workdir={tmp_path}"]
    with pytest.raises(SystemExit):
        parse_command_line(argv, usage="usage")
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)
    config, workdir, *_ = parse_command_line(argv, usage="usage")
    validate(config, workdir=workdir)
    with pytest.raises(ConfigError, match="no checkpoint below gone"):
        validate(config)


def test_unknown_and_missing_keys():
    config = base.get_config()
    config.training.batchsize = 3
    config.optimizer.lr = 0.1
    del config.seed
    with pytest.raises(ConfigError) as caught:
        validate(config)
    assert caught.value.faults == [
        "optimizer.lr: is no key of configs/base.py; did you mean optimizer.learning_rate?",
        "seed: is missing; the default is 1234",
        "training.batchsize: is no key of configs/base.py; did you mean training.batch_size?",
    ]
    assert caught.value.exit_code == 2
    assert isinstance(caught.value, UserError)


def test_json_round_trip_is_stable_and_never_runs_code():
    config = load_config("configs/cc4m.py:smoke")
    text = resolved_json(config)
    assert from_json(text) == config
    assert from_json(text).model.image_size == (384, 128)
    assert resolved_json(from_json(text)) == text
    for bad in ("import os", "[1]", "{"):
        with pytest.raises(UserError):
            from_json(bad)


def test_difference_and_compare():
    config = load_config("configs/base.py", [("training.batch_size", "8")])
    assert difference(config) == ["training.batch_size: 112 -> 8"]
    assert compare(config, base.get_config()) == ["training.batch_size: 8 -> 112"]
    assert compare(ConfigDict({"old": 1}), ConfigDict({"new": 2})) == [
        "old: 1 -> '(absent)'",
        "new: '(absent)' -> 2",
    ]


def test_overrides_take_the_type_of_the_default():
    config = load_config(
        "configs/base.py",
        [
            ("model.image_size", "256,128"),
            ("optimizer.learning_rate", "1e-3"),
            ("training.epochs", "3"),
            ("model.dtype", "float32"),
            ("data.mixture", '{"synthetic_scenes": 2}'),
            ("data.mixture.synthetic_people", "1"),
            ("init.step", "-1"),
        ],
    )
    assert config.model.image_size == (256, 128)
    assert config.optimizer.learning_rate == 1e-3
    assert isinstance(config.training.epochs, float) and config.training.epochs == 3.0
    assert config.model.dtype == "float32"
    assert config.data.mixture.to_dict() == {"synthetic_scenes": 2, "synthetic_people": 1.0}


@pytest.mark.parametrize("text", ["4096.0", "True", "x", "__import__('os').getpid()", "1e3", ""])
def test_whole_numbers_are_whole(text):
    with pytest.raises(ConfigError, match="training.batch_size: must be a whole number"):
        load_config("configs/base.py", [("training.batch_size", text)])


STAGES = ("cc4m", "cuhk_pedes", "icfg_pedes", "rstpreid")
RUNS = [f"{stage}:{variant}" for stage in STAGES for variant in ("", "official", "paper", "small")]


@pytest.mark.parametrize("run", [*(run for run in RUNS if run != "cc4m:paper"), "cc4m:smoke"])
def test_shipped_configurations_are_valid(run, tmp_path):
    for name in DATASETS:
        splits = ("train", "test") if name == "icfg_pedes" else ("train", "val", "test")
        prepared(tmp_path, name, *splits)
    stage, _, variants = run.partition(":")
    config = load_config(
        f"{ROOT}/configs/{stage}.py:{variants}", [("data.directory", str(tmp_path))]
    )
    validate(config, device_count=1)
    if variants == "official" and stage in ("cuhk_pedes", "icfg_pedes"):
        assert (config.model.patch_stride, config.training.batch_size) == (12, 28)
    last_epoch = config.schedule.first_epoch + config.training.epochs - 1
    if variants == "official":
        assert last_epoch == 120


def test_the_demo_has_two_stages():
    for stage, dataset in (("pretrain", "synthetic_scenes"), ("finetune", "synthetic_people")):
        config = load_config(f"configs/demo.py:{stage}")
        assert list(config.data.mixture) == [dataset]
    with pytest.raises(ConfigError, match="name a stage"):
        load_config("configs/demo.py:small")


def run_command_line(capsys, *argv: str) -> list[str]:
    with pytest.raises(SystemExit) as caught:
        parse_command_line(argv, usage="usage")
    assert caught.value.code == 2
    return [line.strip() for line in capsys.readouterr().err.splitlines()]


def test_command_line_reads_both_forms_of_flags():
    argv = ["--config", "configs/base.py:tiny", "--config.mesh.data=-1", "--workdir=runs/a"]
    config, workdir, *_ = parse_command_line([*argv, "--config.init.step", "-1"], usage="usage")
    assert workdir == "runs/a"
    assert config.model.width == 192


def test_command_line_reports_all_faults_at_once(capsys):
    lines = run_command_line(
        capsys,
        "--confg=configs/base.py",
        "--config=configs/base.py:tny",
        "--config.optimizer.learning_rte=1",
        "--config.optimizer.learning_rate=nan",
        "--config.training.batch_size=-5",
        "--config.model.heads",
        "--wrkdir=runs",
        "word",
    )
    assert lines[0] == "error: 9 faults in the configuration:"
    for start in (
        "--confg: is no flag; did you mean --config?",
        "--wrkdir: is no flag; did you mean --workdir?",
        "--config.model.heads: needs a value",
        "word: is no flag",
        "--config: configs/base.py:tny: unknown config variant 'tny'",
        "optimizer.learning_rte: is no key of configs/base.py; did you mean optimizer.learning",
        "optimizer.learning_rate: must be finite (got nan)",
        "training.batch_size: must be at least 1 (got -5)",
        "--workdir: is missing",
    ):
        assert any(line.startswith(start) for line in lines), start


def test_faults_in_config_files(capsys, tmp_path):
    file = tmp_path / "mine.py"
    for source, words in (
        ("import nothing_there", "line 1: ModuleNotFoundError: No module named"),
        ("\n1 +", "SyntaxError"),
        ("x = 1", "AttributeError: module 'mine' has no attribute 'get_config'"),
        ("from configs import base\n\ndef get_config():\n    return base.get_confg()", "line 4"),
        ("def get_config():\n    return 3", "get_config returns int, not a ConfigDict"),
    ):
        file.write_text(source)
        lines = run_command_line(capsys, f"--config={file}", "--workdir=runs/a")
        assert lines[0] == "error: 1 fault in the configuration:"
        assert words in lines[1]
    lines = run_command_line(capsys, "--config=configs/cc4.py", f"--workdir={file}")
    assert "no file configs/cc4.py; did you mean configs/cc4m.py?" in lines[1]
    assert "is a file; name a folder" in lines[2]


def test_help_lists_every_key_with_its_comment(capsys):
    with pytest.raises(SystemExit) as caught:
        parse_command_line(["--help"], usage="the usage")
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert text.startswith("the usage")
    for field, comment in documentation().items():
        assert f"--config.{field}=" in text and comment in text
