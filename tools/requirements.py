"""Print requirements of this workspace, one a line: `python tools/requirements.py lowest|tested`.

`lowest`: each dependency in the lowest version that the projects allow, for `make audit`.
`tested`: the installed version of each package, for constraints.txt (`make constraints`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import tomli

ROOT = Path(__file__).resolve().parents[1]
LOWEST = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?>=([0-9.]+)")
OWN, TOOLS = "dicom-adapter", {"pip", "setuptools"}
HEADER = "# The versions with which the tests were run last: pip install --constraint constraints.txt dicom-adapter"


def projects() -> list[Path]:
    """Return the project files of the workspace."""
    return [
        ROOT / "pyproject.toml",
        *sorted(ROOT.glob("core/pyproject.toml")),
        *sorted(ROOT.glob("plugins/*/pyproject.toml")),
    ]


def lowest() -> dict[str, str]:
    """Return the lowest version of each dependency that all projects of the workspace allow, by normalized name."""
    found: dict[str, str] = {}
    for path in projects():
        for dependency in tomli.loads(path.read_text(encoding="utf-8"))["project"]["dependencies"]:
            bound = LOWEST.match(dependency)
            if bound is not None:
                name, version = normalized(bound[1]), bound[2]
                found[name] = max(found.get(name, version), version, key=numbers)
    return dict(sorted(found.items()))


def tested() -> dict[str, str]:
    """Return the installed versions, by normalized name, without those of this workspace."""
    installed = {normalized(found.name): found.version for found in distributions()}
    return {name: installed[name] for name in sorted(installed) if name not in TOOLS and not name.startswith(OWN)}


def normalized(name: str) -> str:
    """Return the normalized name of a package (PyPA: name normalization)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, to compare versions."""
    return tuple(int(number) for number in re.findall(r"\d+", version))


def lines(which: str) -> Iterator[str]:
    """Yield the lines of a requirements file."""
    if which == "tested":
        yield HEADER
    for name, version in (tested() if which == "tested" else lowest()).items():
        yield f"{name}=={version}"


if __name__ == "__main__":
    for line in lines(sys.argv[1]):
        sys.stdout.write(f"{line}\n")
