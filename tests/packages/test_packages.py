"""The packages of all distributions: built twice they are identical, and they install into an empty environment."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
import tomli
from tools.build_packages import projects

from support.built_packages import Environment, build_all, clean_environment, copy_of_the_sources
from support.pages import ROOT

# They build all packages, and install dozens of libraries.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PROJECTS = projects()


def run(*command: object, folder: Path) -> str:
    """Run a program outside of the sources; return its output."""
    done = subprocess.run(
        list(map(str, command)), env=clean_environment(), cwd=folder, capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


def test_two_builds_are_identical(packages: Path, tmp_path: Path) -> None:
    """Folder, times and permissions of the sources have no effect.

    Verified to fail when a project sets `reproducible = false` for hatchling.
    """
    umask = os.umask(0o077)
    try:
        again = build_all(copy_of_the_sources(tmp_path / "other"), tmp_path / "again")
    finally:
        os.umask(umask)
    sums = (packages / "SHA256SUMS").read_text(encoding="utf-8")
    assert sums == (again / "SHA256SUMS").read_text(encoding="utf-8")
    assert 2 * len(PROJECTS) == len(sums.splitlines())


def test_each_package_has_the_licence_and_no_tests(packages: Path) -> None:
    for path in packages.glob("*.whl"):
        names = zipfile.ZipFile(path).namelist()
        assert [1, 0] == [sum(part in name for name in names) for part in ("licenses/LICENSE", "/tests/")], path.name
    for path in packages.glob("*.tar.gz"):
        with tarfile.open(path) as archive:
            names = archive.getnames()
        assert [1, 0] == [sum(part in name for name in names) for part in ("/LICENSE", "/tests/")], path.name


def test_an_empty_environment_gets_what_was_asked_for(environment: Environment, tmp_path: Path) -> None:
    """The core has no plugin, `dicom-adapter` adds all plugins, and the extra its library. The demo succeeds."""
    program = environment.install("dicom-adapter-core") / "dicom-adapter"
    assert {"dicom-adapter-core"} == distributions(program, tmp_path)
    environment.install("dicom-adapter")
    assert "dicom-adapter 0.1.0\n" == run(program, "--version", folder=tmp_path)
    expected = {
        tomli.loads((path / "pyproject.toml").read_text())["project"]["name"] for path in PROJECTS if path != ROOT
    }
    assert expected == distributions(program, tmp_path)
    place = run(program.parent / "python", "-c", "import dicom_adapter; print(dicom_adapter.__file__)", folder=tmp_path)
    assert place.startswith(str(program.parent.parent))
    run(program, "demo", folder=tmp_path)
    environment.install("dicom-adapter[apprise]")
    run(program.parent / "python", "-W", "ignore", "-c", "import apprise", folder=tmp_path)


def distributions(program: Path, folder: Path) -> set[str]:
    """Return the distributions whose plugins a program finds."""
    return {row["distribution"] for row in json.loads(run(program, "plugins", "--json", folder=folder))}
