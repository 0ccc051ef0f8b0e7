"""The Makefile installs what a target needs, and names the interpreter of the environment."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment of another interpreter."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho 3.9.1 of /opt/python\n", encoding="utf-8")
    python.chmod(0o755)
    return tmp_path / "venv"


def test_the_demo_does_not_need_the_tools_of_the_developers(tmp_path: Path) -> None:
    """Verified to fail when the demo depends on the same stamp as the tests."""
    assert "[dev,docs]" not in make("--dry-run", "demo", f"VENV={tmp_path}/new").stdout
    assert "[dev,docs]" in make("--dry-run", "test", f"VENV={tmp_path}/new").stdout


def test_another_interpreter_than_that_of_the_environment_is_refused(environment: Path) -> None:
    """Otherwise the tests would silently run with the interpreter of the environment."""
    refused = make("interpreter", f"VENV={environment}", f"PYTHON={sys.executable}")
    assert refused.returncode
    assert f"{environment} has Python 3.9.1 of /opt/python, not {sys.executable}: run `make clean`" in refused.stdout
    for arguments in ([f"VENV={environment}"], [f"VENV={environment}", f"PYTHON={environment}/bin/python"]):
        assert "" == make("interpreter", *arguments).stderr


def test_an_environment_without_its_interpreter_is_reported(environment: Path) -> None:
    """For example after an upgrade of the system."""
    (environment / "bin" / "python").write_text("#!/nowhere/python\n", encoding="utf-8")
    assert "does not run any more: run `make clean`" in make("interpreter", f"VENV={environment}").stdout
