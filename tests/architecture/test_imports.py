"""Import rules: the contracts of [tool.importlinter], and the public modules that plugins may import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = sorted(folder for folder in (ROOT / "plugins").iterdir() if (folder / "pyproject.toml").exists())
PUBLIC_MODULES = ("dicom_adapter", "dicom_adapter.testing")
PUBLIC_NAMES = {f"{module}.{name}" for module in PUBLIC_MODULES for name in import_module(module).__all__}


def test_the_import_contracts_hold(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The contracts in the root pyproject.toml hold, as `make lint` checks them."""
    monkeypatch.chdir(ROOT)  # the linter reads the contracts from the working directory
    status = lint_imports(no_cache=True)
    assert EXIT_STATUS_SUCCESS == status, capfd.readouterr().out


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)
def test_plugins_import_only_the_public_modules(plugin: Path) -> None:
    """A plugin of this repository imports public names only. If it needs more, the public API must change."""
    sources = sorted((plugin / "src").rglob("*.py"))
    assert sources
    problems = [
        f"{path.relative_to(ROOT)}:{line} imports {name}" for path in sources for line, name in internal_imports(path)
    ]
    assert [] == problems


def internal_imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and name of each import of a private name of the core."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for name in imported_names(node):
            if name.split(".")[0] == "dicom_adapter" and name not in {*PUBLIC_MODULES, *PUBLIC_NAMES}:
                yield node.lineno, name  # type: ignore[attr-defined] # every statement has a line number


def imported_names(node: ast.AST) -> list[str]:
    """Return the full names that a statement imports.

    Relative imports are ignored, because they stay within the plugin.
    """
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


@pytest.mark.parametrize(
    "statement",
    [
        "import dicom_adapter.ledger",
        "import dicom_adapter.api.values as values",
        "from dicom_adapter import ledger",
        "from dicom_adapter.api.values import Job",
        "from dicom_adapter.dicom.synthetic import write",
        "from dicom_adapter.simulation.clock import VirtualClock",
        "def later():\n    from dicom_adapter.flow import submit",
    ],
)
def test_each_form_of_internal_import_is_detected(tmp_path: Path, statement: str) -> None:
    source = tmp_path / "plugin.py"
    source.write_text(f"from dicom_adapter import Job, testing\nfrom dicom_adapter_own.part import x\n{statement}\n")
    assert 1 == len(list(internal_imports(source)))
