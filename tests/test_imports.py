"""Keeps the house in order: which way modules import, how heavily, and how long files are."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("configs", "ivt_jax", "pretrain", "finetune")

# Module or folder -> level; the longest matching name counts. A module imports from lower levels
# only, and from its own level only within its own folder.
LEVELS = {
    "configs": 0,
    "ivt_jax.errors": -1,
    "ivt_jax.dtypes": -1,
    "ivt_jax.disk": -1,
    "ivt_jax.validation": 1,
    "ivt_jax.config": 1,
    "ivt_jax.losses": 1,
    "ivt_jax.model.pixels": 1,
    "ivt_jax.model": 2,
    "ivt_jax.retrieval.metrics": 1,
    "ivt_jax.retrieval.ranking": 1,
    "ivt_jax.retrieval": 4,
    "ivt_jax.retrieval.canvas": 4,
    "ivt_jax.retrieval.axes": 4,
    "ivt_jax.retrieval.svg": 4,
    "ivt_jax.retrieval.figures": 5,
    "ivt_jax.data": 1,
    "ivt_jax.data.feed": 2,
    "ivt_jax.data.pipeline": 2,
    "ivt_jax.data.builders": 5,
    "ivt_jax.training.faults": 0,
    "ivt_jax.training.goodput": 1,
    "ivt_jax.training.health": 1,
    "ivt_jax.training.files": 0,
    "ivt_jax.training.libtpu": 0,
    "ivt_jax.training.events": 1,
    "ivt_jax.training.rollcall": 0,
    "ivt_jax.training.cluster": 1,
    "ivt_jax.training.lock": 0,
    "ivt_jax.training.signals": 0,
    "ivt_jax.training.watchdog": 1,
    "ivt_jax.training.accumulation": 3,
    "ivt_jax.training.lifecycle": 1,
    "ivt_jax.training.chips": 1,
    "ivt_jax.training.compilation_cache": 1,
    "ivt_jax.training.compiled": 1,
    "ivt_jax.training.profiler": 1,
    "ivt_jax.training.optimizer": 1,
    "ivt_jax.training.replicas": 1,
    "ivt_jax.training.sharding": 1,
    "ivt_jax.training.telemetry": 1,
    "ivt_jax.training.matching": 3,
    "ivt_jax.training.flops": 3,
    "ivt_jax.training.setup": 3,
    "ivt_jax.training.state": 3,
    "ivt_jax.training.steps": 1,
    "ivt_jax.training.integrity": 2,
    "ivt_jax.training.restore": 3,
    "ivt_jax.training.checkpoint": 4,
    "ivt_jax.training.program": 4,
    "ivt_jax.training.dry_run": 5,
    "ivt_jax.training.transfer": 5,
    "ivt_jax.training.recovery": 5,
    "ivt_jax.training.window": 4,
    "ivt_jax.training.loop": 5,
    "ivt_jax.convert.positions": 1,
    "ivt_jax.convert": 4,
    "ivt_jax.aot": 5,
    "ivt_jax.sources": 5,
    "ivt_jax.inference": 5,
    "ivt_jax": 6,  # the package itself: names of the public API, resolved lazily
    **dict.fromkeys(
        [f"ivt_jax.retrieval.{name}" for name in ("fingerprint", "gallery", "indexing", "explain")],
        6,
    ),
    "ivt_jax.retrieval.page": 7,
    "ivt_jax.index": 6,
    "ivt_jax.search": 6,
    "ivt_jax.prepare": 6,
    "ivt_jax.verify": 6,
    "ivt_jax.verify_run": 6,
    "ivt_jax.evaluate": 6,
    "ivt_jax.export": 6,
    "ivt_jax.goodput": 6,
    "ivt_jax.reporting": 7,
    "ivt_jax.figures": 8,
    "ivt_jax.report": 8,
    "ivt_jax.doctor": 7,
    "ivt_jax.launch": 7,
    "pretrain": 8,
    "finetune": 8,
    "ivt_jax.demo": 9,
    "ivt_jax.__main__": 10,
}
DATA_MAY_NOT_IMPORT = {"jax", "flax", "tensorflow", "torch", "transformers"}
LONGEST = {"ivt_jax/training/loop.py:_train": 120}  # lines; every other function has 40


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def level(module: str) -> int:
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        name = ".".join(parts[:end])
        if name in LEVELS and (name != "ivt_jax" or module == "ivt_jax"):
            return LEVELS[name]
    if MODULES[module].name == "__init__.py":
        return 0
    raise AssertionError(f"{module} has no level: put it into LEVELS of tests/test_imports.py")


def import_names(module: str) -> set[str]:
    """Everything that the source of `module` imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports relatively"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else str(node.module))
    return found


def imported(module: str) -> set[str]:
    """The modules of this repository among them."""
    return {name for name in import_names(module) if name.split(".")[0] in PACKAGES}


def external(module: str) -> set[str]:
    """The top-level names of all others."""
    return {name.split(".")[0] for name in import_names(module)} - set(PACKAGES)


def folder(module: str) -> Path:
    return MODULES[module].parent


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downward(module):
    for other in imported(module):
        assert other in MODULES, f"{module} imports {other}, which does not exist"
        same_folder = folder(other).is_relative_to(folder(module))
        assert level(other) < level(module) or (level(other) == level(module) and same_folder), (
            f"{module} (level {level(module)}) imports {other} (level {level(other)})"
        )


def test_imports_have_no_cycle():
    graph = {module: imported(module) - {module} for module in MODULES}
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("configs.")])
def test_configs_import_only_values(module):
    assert external(module) <= {"ml_collections"}


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after running `code`."""
    code += "\nimport sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_package_import_is_light():
    heavy = DATA_MAY_NOT_IMPORT | {"numpy", "ml_collections", "PIL"}
    assert not loaded_by("import ivt_jax, ivt_jax.__main__") & heavy


def test_help_of_figures_is_quick():
    for command in ("figures", "report"):
        assert not loaded_by(f"import ivt_jax.{command}") & (DATA_MAY_NOT_IMPORT | {"numpy"})


def test_configuration_imports_no_jax():
    assert not loaded_by("import ivt_jax.config") & (DATA_MAY_NOT_IMPORT | {"numpy"})


def test_data_workers_import_no_jax():
    names = [name for name in MODULES if name.startswith("ivt_jax.data.")]
    outside = {name: external(name) for name in names}
    assert not any(found & DATA_MAY_NOT_IMPORT for found in outside.values()), outside
    # Grain itself loads JAX where there is one, to know its trees.
    light = [name for name in names if "grain" not in outside[name]]
    assert "ivt_jax.data.texts" in light
    assert not loaded_by(f"import {', '.join(light)}") & DATA_MAY_NOT_IMPORT


@pytest.mark.parametrize(
    "path",
    [*MODULES.values(), *sorted(ROOT.glob("tests/**/*.py"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_files_and_functions_are_short(path):
    source = path.read_text("utf-8")
    assert len(source.splitlines()) <= 400, "a file has up to 400 lines"
    if path.is_relative_to(ROOT / "configs"):
        return  # lists of values may be long
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False) or ""
            lines = (node.end_lineno or 0) - node.lineno + 1 - len(docstring.splitlines())
            limit = LONGEST.get(f"{path.relative_to(ROOT)}:{node.name}", 40)
            assert lines <= limit, f"{node.name} has {lines} lines without its docstring"


def test_training_does_not_load_pytorch():
    """Its import takes longer than all others together, and packages that try it are many."""
    code = "import sys, finetune.objective, pretrain.objective, ivt_jax.training.loop; "
    code += "print('torch' in sys.modules, 'jax' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert found.stdout == "False True\n", found.stderr
