"""Builds of the packages of this project, from a copy of its sources."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from support.pages import ROOT

EPOCH = "1764547200"  # the time of all files in the packages, in seconds since 1970: builds are reproducible


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let only one test process of this run create a folder."""
    with open(f"{folder}.lock", "w", encoding="utf-8") as file:  # noqa: PTH123 - a name with a suffix
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def copy_of_the_sources(folder: Path) -> Path:
    """Copy the files that git tracks, or would track, as a checkout has them."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file() and not name.startswith(("docs/", "tests/", "bench/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def build_all(sources: Path, folder: Path) -> Path:
    """Build all packages with the tool of the sources."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH, "PYTHONPATH": ""}
    command = [sys.executable, "tools/build_packages.py", folder]
    subprocess.run(command, cwd=sources, env=environment, check=True, stdout=subprocess.DEVNULL)
    return folder


def clean_environment() -> dict[str, str]:
    """Return an environment in which Python does not find the sources."""
    return {name: text for name, text in os.environ.items() if not name.startswith(("PYTHON", "DICOM_ADAPTER"))}


class Environment:
    """A virtual environment that is empty at first, not even with pip, and does not use the network."""

    def __init__(self, folder: Path, sources: Sequence[Path]) -> None:
        """Make the environment. `sources` are folders with packages, one of them with a wheel of pip."""
        self.folder = folder
        self._sources = sources
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)

    def install(self, *names: str) -> Path:
        """Install packages with all that they require; return the folder of programs.

        Modules are compiled when they are imported: an installation that compiles all takes three times as long.
        """
        [pip] = [path for source in self._sources for path in source.glob("pip-*.whl")]
        places = [word for source in self._sources for word in ("--find-links", source)]
        command = [self.folder / "bin/python", f"{pip}/pip", "install", "--no-index", "--no-compile", "--quiet"]
        subprocess.run([*command, *places, *names], check=True, env=clean_environment(), cwd=self.folder)
        return self.folder / "bin"
