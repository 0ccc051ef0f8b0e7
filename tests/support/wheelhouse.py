"""Wheels of the libraries that are installed in this environment, so that tests install packages without an index."""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import tomli
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from support.pages import ROOT

OWN = "dicom-adapter"  # prefix of the distributions of this project
DEVELOPMENT = ("dev", "docs")  # extras for work on this project


def libraries_of_the_projects() -> dict[str, set[str]]:
    """Return the installed libraries that the projects need: extras by normalized name.

    Libraries that only the work on this project needs are left out.
    """
    texts: list[str] = []
    for path in (ROOT / "pyproject.toml", *ROOT.glob("core/pyproject.toml"), *ROOT.glob("plugins/*/pyproject.toml")):
        project = tomli.loads(path.read_text(encoding="utf-8"))["project"]
        extras = project.get("optional-dependencies", {})
        texts += [
            *project["dependencies"],
            *(text for name in extras if name not in DEVELOPMENT for text in extras[name]),
        ]
    return requirements(Requirement(text) for text in texts)


def requirements(needed: Iterable[Requirement]) -> dict[str, set[str]]:
    """Return the installed libraries that fulfil the requirements: extras by normalized name."""
    found: dict[str, set[str]] = {}
    waiting = list(needed)
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        if name.startswith(OWN) or (name in found and one.extras <= found[name]):
            continue
        found.setdefault(name, set()).update(one.extras)
        environments = [{"extra": extra} for extra in (*one.extras, "")]
        further = [Requirement(text) for text in distribution(name).requires or ()]
        waiting += [each for each in further if each.marker is None or any(map(each.marker.evaluate, environments))]
    return found


def write_wheels(names: Iterable[str], folder: Path) -> None:
    """Write a wheel of each of these distributions."""
    for name in names:
        write_wheel(distribution(name), folder)


def write_wheel(installed: Distribution, folder: Path) -> Path:
    """Write a wheel with the installed files. Commands are not in it: pip makes them from the entry points."""
    tags = re.findall(r"^Tag: (\S+)$", installed.read_text("WHEEL") or "", re.MULTILINE)
    assert tags, f"{installed.name} was not installed from a wheel"
    parts = [sorted({tag.split("-")[position] for tag in tags}) for position in range(3)]
    name = re.sub(r"[-_.]+", "_", installed.name)
    path = folder / f"{name}-{installed.version}-{'-'.join('.'.join(part) for part in parts)}.whl"
    rows = []
    with zipfile.ZipFile(path, "w") as wheel:
        for place, content in _files(installed):
            wheel.writestr(place, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            rows.append(f"{place},sha256={digest},{len(content)}\n")
        record = next(place for place, _ in _files(installed) if place.endswith(".dist-info/METADATA"))
        record = record.replace("METADATA", "RECORD")
        wheel.writestr(record, "".join([*rows, f"{record},,\n"]))
    return path


def _files(installed: Distribution) -> Iterator[tuple[str, bytes]]:
    left_out = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
    for file in installed.files or ():
        describes_installation = file.parent.name.endswith(".dist-info") and file.name in left_out
        if ".." not in file.parts and "__pycache__" not in file.parts and not describes_installation:
            yield str(file), Path(str(installed.locate_file(file))).read_bytes()
