"""The modules that are checked in are those that the `.proto` files make."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
TOOL = ROOT / "tools" / "generate.py"


@pytest.mark.timeout(300)  # installs the tools at the first time
def test_generating_again_makes_the_same_files(environment: Callable[[str, list[str]], Path], tmp_path: Path) -> None:
    """Generated with the pinned tools, every module is the one that is checked in."""
    python = environment("generate", _requirements())
    subprocess.run([python, TOOL, tmp_path], check=True)
    made = _modules(tmp_path)
    assert {"cache_pb2.py", "clara_pb2.py"} <= made.keys()
    assert _modules(ROOT / "plugins", "*/src/") == made


def _requirements() -> list[str]:
    spec = importlib.util.spec_from_file_location("generate", TOOL)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return list(tool.REQUIREMENTS)


def _modules(root: Path, below: str = "") -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(root.glob(f"{below}*/wire/*_pb2*"))}
