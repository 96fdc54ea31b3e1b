"""evaluate.py of an exported folder where nothing but its own requirements.txt is installed."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from exporting import write_people, write_run
from packaging.requirements import Requirement

from ivt_jax.__main__ import main
from ivt_jax.convert.exported import TEMPLATES

ROOT = Path(__file__).parent.parent
REQUIREMENTS = ROOT / "ivt_jax" / "convert" / "pytorch" / "requirements.txt"


def requirements(file: Path) -> list[Requirement]:
    lines = file.read_text("utf-8").splitlines()
    return [Requirement(line) for line in lines if line[:1].isalpha()]


def distributions(wanted: list[Requirement]) -> dict[str, importlib.metadata.Distribution]:
    """What pip would install for `wanted`, all they require included, as it is installed here."""
    found, todo, done = {}, list(wanted), set()
    while todo:
        one = todo.pop()
        if (key := (one.name, *sorted(one.extras))) in done:
            continue
        done.add(key)
        found[one.name] = importlib.metadata.distribution(one.name)
        for line in found[one.name].requires or []:
            below = Requirement(line)
            extras = ({"extra": extra} for extra in ("", *one.extras))
            if below.marker is None or any(map(below.marker.evaluate, extras)):
                todo.append(below)
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with every file of these distributions, and of no other."""
    folder, made = tmp_path_factory.mktemp("site"), set()
    for one in distributions(requirements(REQUIREMENTS)).values():
        for file in one.files or []:
            if ".." in file.parts:
                continue  # scripts
            link = folder / file
            if link.parent not in made:
                link.parent.mkdir(parents=True, exist_ok=True)
                made.add(link.parent)
            if not link.exists():
                link.symlink_to(str(file.locate()))
    return folder


def fresh_python(site: Path, *argv: str):
    """Runs Python with the standard library and `site`: no site-packages, no other variables."""
    return subprocess.run(
        [sys.executable, "-S", "-s", *argv],
        cwd=site,
        env={"PYTHONPATH": str(site), "PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_its_ranges_are_those_of_this_project():
    ours = {one.name: one for one in requirements(ROOT / "requirements.txt")}
    ours |= {one.name: one for one in requirements(ROOT / "requirements-dev.txt")}
    for one in requirements(REQUIREMENTS):
        assert one.specifier == ours[one.name].specifier, one.name


@pytest.mark.slow
def test_evaluate_prints_the_same_scores_where_jax_is_not_installed(site, tmp_path):
    people = write_people(tmp_path / "data", identities=12)
    run, folder = write_run(tmp_path / "run", people), tmp_path / "exported"
    assert main(["evaluate", f"--run={run}", "--rows=0"]) == 0
    scored = json.loads((run / "results" / "synthetic_people-test-step7.json").read_text())
    assert main(["export", f"--run={run}", f"--out={folder}", "--with_split=test"]) == 0
    assert all((folder / name).is_file() for name in TEMPLATES)
    absent = "jax", "jaxlib", "flax", "ivt_jax", "transformers", "tensorflow"
    asked = f"from importlib.util import find_spec; print([find_spec(n) for n in {absent}])"
    assert fresh_python(site, "-c", asked).stdout.strip() == str([None] * len(absent))
    done = fresh_python(site, "-c", "import jax")
    assert "ModuleNotFoundError: No module named 'jax'" in done.stderr
    for data in (people / "synthetic_people", folder / "test"):
        done = fresh_python(site, str(folder / "evaluate.py"), f"--data={data}")
        assert done.returncode == 0, done.stderr
        counts = "{queries} captions, {gallery} photos of {identities} people".format(**scored)
        table = [f"{name:<14}{value:6.2f}" for name, value in scored["metrics"].items()]
        assert done.stdout.splitlines() == [f"{data}: {counts}", *table]
