"""A run's configuration: from files and flags (checked, every fault at once), to and from JSON.

A config file is Python and is executed; a stored run is JSON and is only read. `validate` is in
validation.py. Nothing here imports JAX, so that a misspelt flag is answered at once.
"""

import ast
import difflib
import importlib.util
import inspect
import io
import json
import sys
import tokenize
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import base
from ivt_jax.errors import UserError
from ivt_jax.training.rollcall import Place
from ivt_jax.validation import (
    MIXTURE,
    ConfigError,
    Fault,
    find_faults,
    leaves,
    nearest,
    unknown_key,
    validate,
)

__all__ = [
    "Command",
    "ConfigError",
    "compare",
    "difference",
    "documentation",
    "from_json",
    "load_config",
    "parse_command_line",
    "resolved_json",
    "validate",
]

# Flags of a run on several hosts, which never enter the configuration: name -> field of Place,
# and what --help says.
_PLACE = {
    "coordinator": ("coordinator", "HOST:PORT of process 0, where no cluster tells it"),
    "num_processes": ("processes", "N processes in all; 1 = alone, whatever is found out"),
    "process_id": ("process", "the number of this one, from 0 to N - 1"),
    "join_timeout": ("join_timeout", "seconds to wait for the others at the start"),
    "heartbeat_timeout": ("heartbeat_timeout", "seconds after which a silent process is dead"),
}
_FLAGS = ("--config", "--workdir", "--dry_run", *(f"--{flag}" for flag in _PLACE))


def load_config(file: str, overrides: Iterable[tuple[str, str]] = ()) -> ConfigDict:
    """Reads `configs/name.py` or `configs/name.py:variants` and sets `(field, text)` overrides.

    Texts are read by the type of the field's default, as on the command line.
    Raises ConfigError with every fault of file, overrides and resulting values together.
    """
    config, faults = _load(file, overrides)
    if faults:
        raise ConfigError(faults)
    return config


def _load(
    file: str, overrides: Iterable[tuple[str, str]], workdir: str = "", *, files: bool = True
) -> tuple[ConfigDict, list[Fault]]:
    config, faults = _execute(file)
    broken_file = bool(faults)
    defaults = leaves(base.get_config())
    failed, given = set(), set()
    for field, text in overrides:
        given.add(field)
        try:
            _set(config, field, text, defaults)
        except ValueError as error:
            faults.append(Fault(field, str(error)))
            failed.add(field)
    # With a broken file only the overrides can be judged, against the defaults.
    faults += [
        fault
        for fault in find_faults(config, workdir=workdir, files=files)
        if fault.field not in failed and (fault.field in given or not broken_file)
    ]
    return config, faults


def _execute(file: str) -> tuple[ConfigDict, list[Fault]]:
    """Runs the file's get_config; on a fault returns it beside the defaults."""
    name, colon, variants = file.partition(":")
    path = Path(name)
    if not path.is_file():
        others = {*path.parent.glob("[!_]*.py"), *Path().glob("configs/[!_]*.py")}
        near = difflib.get_close_matches(name, sorted(map(str, others)), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return base.get_config(), [Fault("--config", f"no file {name}{hint}")]
    try:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config(variants) if colon else module.get_config()
        if not isinstance(config, ConfigDict):
            raise ValueError(f"get_config returns {type(config).__name__}, not a ConfigDict")
        return config, []
    except Exception as error:  # the file is the user's program: any fault in it is theirs to mend
        words = " ".join(str(error).split())
        if not isinstance(error, ValueError):
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if frame.filename == str(path)]
            words = f"line {lines[-1] if lines else '?'}: {type(error).__name__}: {words}"
        return base.get_config(), [Fault("--config", f"{file}: {words}")]


def _set(config: ConfigDict, field: str, text: str, defaults: dict[str, Any]) -> None:
    group, _, key = field.rpartition(".")
    if group == MIXTURE:  # one dataset's weight
        value = {**leaves(config).get(MIXTURE, {}), key: _read(text, 1.0)}
        field = MIXTURE
    elif field in defaults:
        value = _read(text, defaults[field])
    else:
        raise ValueError(unknown_key(field))
    config.update_from_flattened_dict({field: value})


def _read(text: str, default: Any) -> Any:
    """The value written as `text`, read as the type of `default`."""
    if isinstance(default, str):
        return text
    words = {
        bool: "True or False",
        int: "a whole number",
        float: "a number",
        tuple: f"{default!r} or the like",
        dict: 'like {"cc3m": 2.0, "sbu": 1.0}',
    }
    try:
        value = float(text) if isinstance(default, float) else ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    value = tuple(value) if isinstance(value, list) else value
    if type(value) is not type(default) or (
        isinstance(value, dict) and not all(isinstance(key, str) for key in value)
    ):
        raise ValueError(f"must be {words[type(default)]} (got {text!r})")
    return value


def resolved_json(config: ConfigDict) -> str:
    """The whole configuration as sorted, indented JSON: equal configurations give equal texts."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True, allow_nan=False) + "\n"


def from_json(text: str) -> ConfigDict:
    """The configuration that `resolved_json` wrote; nothing is executed. Raises UserError."""

    def tuples(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: tuples(item) for key, item in value.items()}
        return tuple(value) if isinstance(value, list) else value

    try:
        tree = json.loads(text)
    except ValueError as error:
        raise UserError(f"the stored configuration is no JSON: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(f"the stored configuration is a JSON {type(tree).__name__}, not an object")
    return ConfigDict(tuples(tree))


def difference(config: ConfigDict) -> list[str]:
    """Lines `field: default -> value` for all that differs from configs/base.py."""
    return compare(base.get_config(), config)


def compare(saved: ConfigDict, current: ConfigDict) -> list[str]:
    """Lines `field: saved -> current` for all that differs, in the order of the fields."""
    old, new = leaves(saved), leaves(current)
    absent = "(absent)"
    return [
        f"{field}: {old.get(field, absent)!r} -> {new.get(field, absent)!r}"
        for field in {**old, **new}
        if field not in old or field not in new or old[field] != new[field]
    ]


class Command(NamedTuple):
    """A command line of pretrain.main or finetune.main."""

    config: ConfigDict  # checked
    workdir: str
    dry_run: str = ""  # the machine to compile for instead of training, "" = train
    place: Place = Place()  # of this process among those of the run


def parse_command_line(argv: Sequence[str], *, usage: str) -> Command:
    """Reads `--config=FILE[:VARIANTS]`, `--config.FIELD=VALUE` ..., `--workdir` or `--dry_run`.

    `argv` has no program name; `--flag value` works too, and the last of equal flags counts.
    `usage` heads the text that `--help` prints. A dry run needs no work directory and no data.
    Any fault ends the process with code 2 after one list of all of them on stderr.
    """
    if {"--help", "-h", "-help"} & set(argv):
        print(_help(usage))
        raise SystemExit(0)
    flags, faults = _split(argv)
    overrides = {name[len("config.") :]: text for name, text in flags if name.startswith("config.")}
    settings = dict(flags)
    workdir, machine = settings.get("workdir", ""), settings.get("dry_run", "")
    if "config" in settings:
        config, config_faults = _load(
            settings["config"], overrides.items(), workdir, files=not machine
        )
        faults += config_faults
    else:
        config = base.get_config()
        faults.append(Fault("--config", "is missing, as in --config=configs/demo.py:finetune"))
    if not workdir and not machine:
        faults.append(Fault("--workdir", "is missing; a folder for checkpoints and logs"))
    elif Path(workdir).exists() and not Path(workdir).is_dir():
        faults.append(Fault("--workdir", f"{workdir} is a file; name a folder"))
    place, place_faults = _place(settings)
    faults += place_faults
    if faults:
        print(f"error: {ConfigError(faults)}", file=sys.stderr)
        raise SystemExit(2)
    return Command(config, workdir, machine, place)


def _place(settings: dict[str, str]) -> tuple[Place, list[Fault]]:
    values, faults = {}, []
    for flag, (field, _) in _PLACE.items():
        text = settings.get(flag)
        if text is None:
            continue
        if flag != "coordinator" and not text.isdigit():
            faults.append(Fault(f"--{flag}", f"must be a whole number (got {text!r})"))
        else:
            values[field] = text if flag == "coordinator" else int(text)
    place = Place(**values)
    return place, faults or [Fault(*fault) for fault in place.faults()]


def _split(argv: Sequence[str]) -> tuple[list[tuple[str, str]], list[Fault]]:
    """Pairs (flag, value) in the order given, and the arguments that are neither."""
    pairs, faults, rest = [], [], list(argv)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-"):
            faults.append(Fault(argument, f"is no flag; flags are --config.*, {', '.join(_FLAGS)}"))
            continue
        if f"--{name}" not in _FLAGS and not name.startswith("config."):
            faults.append(Fault(f"--{name}", f"is no flag; {_nearest_flag(name)}"))
            if not equals and rest and not rest[0].startswith("-"):
                rest.pop(0)
            continue
        if not equals:
            if not rest or rest[0].startswith("--"):
                faults.append(Fault(f"--{name}", "needs a value"))
                continue
            value = rest.pop(0)
        pairs.append((name, value))
    return pairs, faults


def _nearest_flag(name: str) -> str:
    fields = [f"--config.{field}" for field in leaves(base.get_config())]
    return nearest(f"--{name}", [*_FLAGS, *fields])


def _help(usage: str) -> str:
    rows = [
        "  --config=FILE[:VARIANTS]  the run, for example configs/demo.py; the file is executed",
        "  --workdir=FOLDER  checkpoints and logs; an interrupted run there is continued",
        "  --dry_run=MACHINE  compiles the step for v5e:16x16, 4xv5e:16x16 (four slices) or cpu:8",
        "                     and prints memory, time and the largest batch; trains nothing",
        "  Several hosts (TPU pods, Slurm and the like are found out; docs/pods.md):",
        *(f"    {f'--{flag}=...':<24}{words}" for flag, (_, words) in _PLACE.items()),
        "  Exit codes: 0 done, 2 usage, 3 diverged, 4 no usable checkpoint, 5 unusable data,",
        "    73 cannot write, 75 stalled, 130 and 143 saved after a signal (docs/pods.md)",
        "  --config.FIELD=VALUE  changes one value; fields and defaults, from configs/base.py:",
    ]
    defaults = leaves(base.get_config())
    for field, comment in documentation().items():
        rows.append(f"  {f'--config.{field}={defaults[field]}':<46} {comment}")
    return "\n".join([inspect.cleandoc(usage), "", *rows])


def documentation(module: ModuleType = base) -> dict[str, str]:
    """Dotted field -> the comment beside it in the source of configs/base.py."""
    source = inspect.getsource(module)
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    names, found = {"config": ""}, {}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Assign):
            continue
        targets = [target for target in node.targets if isinstance(target, ast.Attribute)]
        for target in targets:
            owner = ast.unparse(target.value)
            if owner not in names:
                continue
            field = f"{names[owner]}{target.attr}"
            for alias in node.targets:
                if isinstance(alias, ast.Name):
                    names[alias.id] = f"{field}."
            if len(node.targets) == 1:
                found[field] = comments.get(node.end_lineno or 0, "")
    return found
