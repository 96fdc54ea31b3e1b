"""What the README says of searching, where nothing but requirements.txt is installed."""

import shlex
from pathlib import Path

import pytest
from bare import fresh_python, linked_site
from exporting import write_people, write_run
from galleries import write_photos

ROOT = Path(__file__).parent.parent
EXTRAS = ("fastapi", "uvicorn", "torch", "onnx", "faiss", "simplejpeg", "cv2")


def readme_commands() -> list[list[str]]:
    """What the README tells a stranger with photos to type, before the page."""
    section = (ROOT / "README.md").read_text("utf-8").partition("## Search your own photos")[2]
    lines = section.partition("```bash")[2].partition("```")[0].splitlines()
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("python")]
    assert [command[3] for command in commands] == ["export", "index", "search", "serve"]
    return [command[1:] for command in commands[:3]]


@pytest.mark.slow
def test_the_commands_of_the_readme_work_without_extras(tmp_path):
    site = linked_site(tmp_path / "site", ROOT / "requirements.txt")
    people = write_people(tmp_path / "data", identities=2)
    run, photos = write_run(tmp_path / "run", people), write_photos(tmp_path / "photos", 5)
    at = {"PHOTOS": str(photos), "--run=runs/demo/finetune": f"--run={run}"}

    def python(*argv: str):
        return fresh_python(site, *argv, code=ROOT)

    asked = f"from importlib.util import find_spec; print([find_spec(n) for n in {EXTRAS}])"
    assert python("-c", asked).stdout.strip() == str([None] * len(EXTRAS))
    printed = []
    for command in readme_commands():
        done = python(*(at.get(word, word) for word in command))
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert "holds 5 photos: 5 encoded" in printed[1]
    found = [line.split() for line in printed[2].splitlines()]
    assert {Path(path) for _, _, path in found} == set(photos.rglob("*.png"))
    scores = [float(score) for _, score, _ in found]
    assert scores == sorted(scores, reverse=True)
    done = python("-m", "ivt_jax", "serve", "gallery")
    assert done.returncode == 2 and "or the extra `serve`" in done.stderr
    assert "Traceback" not in done.stderr
