"""The checked-in modules match the `.proto` files."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
TOOL = ROOT / "tools" / "generate.py"


@pytest.mark.timeout(300)  # the first run installs the tools
def test_the_checked_in_modules_are_up_to_date(environment: Callable[[str, list[str]], Path], tmp_path: Path) -> None:
    """The pinned tools generate exactly the checked-in modules."""
    python = environment("generate", _requirements())
    subprocess.run([python, TOOL, tmp_path], check=True)
    generated = _modules(tmp_path)
    assert {"cache_pb2.py", "clara_pb2.py"} <= generated.keys()
    assert _modules(ROOT / "plugins", "*/src/") == generated


def _requirements() -> list[str]:
    spec = importlib.util.spec_from_file_location("generate", TOOL)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return list(tool.REQUIREMENTS)


def _modules(root: Path, below: str = "") -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(root.glob(f"{below}*/wire/*_pb2*"))}
