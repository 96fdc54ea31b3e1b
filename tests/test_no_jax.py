"""evaluate.py of an exported folder where nothing but its own requirements.txt is installed."""

import json
from pathlib import Path

import pytest
from bare import fresh_python, linked_site, requirements
from exporting import write_people, write_run

from ivt_jax.__main__ import main
from ivt_jax.convert.exported import TEMPLATES

ROOT = Path(__file__).parent.parent
REQUIREMENTS = ROOT / "ivt_jax" / "convert" / "pytorch" / "requirements.txt"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return linked_site(tmp_path_factory.mktemp("site"), REQUIREMENTS)


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
