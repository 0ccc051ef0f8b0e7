"""Third-party plugins, installed as distributions."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "acceptance-{name}"
version = "1.2"
dependencies = ["dicom-adapter-core"]

[project.entry-points.dicom_adapter]
{name} = "acceptance_{name}"

[tool.hatch.build.targets.wheel]
only-include = ["acceptance_{name}.py"]
"""


def install(folder: Path, **plugins: str) -> str:
    """Install each plugin as a separate distribution into a new virtual environment that includes this one.

    Return the Python of the environment.
    """
    return install_folders(folder, [_distribution(folder / name, name, source) for name, source in plugins.items()])


def install_beside(python: str, folder: Path, **plugins: str) -> None:
    """Install more plugins into an environment that is in use."""
    _pip_install(python, [_distribution(folder / name, name, source) for name, source in plugins.items()])


def _distribution(folder: Path, name: str, source: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PROJECT.format(name=name), encoding="utf-8")
    (folder / f"acceptance_{name}.py").write_text(source, encoding="utf-8")
    return folder


def install_folders(folder: Path, distributions: Sequence[Path]) -> str:
    """Build and install distributions, without a network, into a new virtual environment that includes this one.

    Return the Python of the environment.
    """
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = str(environment / "bin" / "python")
    theirs = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    )
    # A path would be enough for packages, but not for editable installs, which have .pth files.
    ours = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    Path(theirs.strip(), "ours.pth").write_text(ours, encoding="utf-8")
    if distributions:
        _pip_install(python, distributions)
    return python


def _pip_install(python: str, distributions: Sequence[Path]) -> None:
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, *offline, *distributions], check=True)
