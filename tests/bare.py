"""A Python that has what a list of requirements names, all they require, and nothing else."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement


def requirements(file: Path) -> list[Requirement]:
    """The lines of a requirements file."""
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


def linked_site(folder: Path, file: Path) -> Path:
    """Fills a folder with every file of these distributions, and of no other."""
    made = set()
    for one in distributions(requirements(file)).values():
        for member in one.files or []:
            if ".." in member.parts:
                continue  # scripts
            link = folder / member
            if link.parent not in made:
                link.parent.mkdir(parents=True, exist_ok=True)
                made.add(link.parent)
            if not link.exists():
                link.symlink_to(str(member.locate()))
    return folder


def fresh_python(site: Path, *argv: str, code: Path | None = None) -> subprocess.CompletedProcess:
    """Runs Python with the standard library, `site` and the modules in `code`.

    There are no site-packages and no other variables.
    """
    places = [str(site), *([str(code)] if code else [])]
    return subprocess.run(
        [sys.executable, "-S", "-s", *argv],
        cwd=site,
        env={"PYTHONPATH": os.pathsep.join(places), "PATH": os.defpath, "HOME": str(site)},
        capture_output=True,
        text=True,
        timeout=300,
    )
