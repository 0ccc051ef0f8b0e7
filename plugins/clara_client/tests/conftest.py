"""Virtual environments for packages that conflict with a current protobuf."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

SOURCES_ONLY = ["--no-binary=nvidia-clara-client"]  # published without a wheel; nothing else may be compiled

MakeEnvironment = Callable[[str, list[str]], Path]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "nvidia: uses NVIDIA's published client, from the package registry")


@pytest.fixture(scope="session")
def environment() -> MakeEnvironment:
    """Return a function that creates or reuses a virtual environment with requirements, and returns its Python."""

    def make(name: str, requirements: list[str]) -> Path:
        key = hashlib.sha256("\n".join([sys.version, *requirements]).encode()).hexdigest()[:12]
        cache = Path(tempfile.gettempdir(), f"dicom-adapter-tests-{os.getuid()}")
        cache.mkdir(mode=0o700, exist_ok=True)
        with (cache / f"{name}-{key}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return _environment(cache / f"{name}-{key}", requirements)

    return make


def _environment(folder: Path, requirements: list[str]) -> Path:
    python, complete = folder / "bin" / "python", folder / "complete"
    if complete.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--only-binary=:all:", *SOURCES_ONLY, *requirements]
    try:
        subprocess.run(install, check=True, capture_output=True, text=True, timeout=90)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"cannot install {' '.join(requirements)}: {error.stderr.strip().splitlines()[-1:]}")
    except subprocess.TimeoutExpired:
        pytest.skip(f"cannot install {' '.join(requirements)} within 90 s")
    complete.touch()
    return python
