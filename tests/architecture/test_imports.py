"""Arrows run one way: the rules of [tool.importlinter], and the public door that plugins enter by."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = sorted(folder for folder in (ROOT / "plugins").iterdir() if (folder / "pyproject.toml").exists())
PUBLIC = {"dicom_adapter", "dicom_adapter.testing"}


def test_the_import_contracts_hold(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The contracts in the root pyproject.toml, as `make lint` checks them."""
    monkeypatch.chdir(ROOT)  # where the linter looks for its contracts
    status = lint_imports(no_cache=True)
    assert EXIT_STATUS_SUCCESS == status, capfd.readouterr().out


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)
def test_a_plugin_imports_the_public_interface_and_nothing_deeper(plugin: Path) -> None:
    """If a plugin of the house needs more, the interface is what is wrong."""
    sources = sorted((plugin / "src").rglob("*.py"))
    assert sources
    found = [f"{path.relative_to(ROOT)}:{line} imports {name}" for path in sources for line, name in deeper(path)]
    assert [] == found


def deeper(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of each import of the core that goes past its public interface."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for name in imported(node):
            if name.split(".")[0] == "dicom_adapter" and not is_public(name):
                yield node.lineno, name  # type: ignore[attr-defined] # every statement has one


def imported(node: ast.AST) -> list[str]:
    """The full names that a statement imports; relative imports stay within the plugin."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def is_public(name: str) -> bool:
    """Whether it is the public package, its testing package, or something that one of them exports."""
    if name in PUBLIC:
        return True
    module, _, attribute = name.rpartition(".")
    return module in PUBLIC and attribute in exported(module)


def exported(module: str) -> list[str]:
    """What a public package lists in `__all__`: a submodule, which could be imported all the same, is not there."""
    package = ROOT / "core" / "src" / Path(*module.split(".")) / "__init__.py"
    for node in ast.parse(package.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            names: list[str] = ast.literal_eval(node.value)
            return names
    raise AssertionError(f"{module} has no __all__")


@pytest.mark.parametrize(
    "statement",
    [
        "import dicom_adapter.ledger",
        "import dicom_adapter.api.values as values",
        "from dicom_adapter import ledger",
        "from dicom_adapter.api.values import Job",
        "from dicom_adapter.simulation.clock import VirtualClock",
        "def later():\n    from dicom_adapter.flow import submit",
    ],
)
def test_a_deeper_import_is_found(tmp_path: Path, statement: str) -> None:
    """Whatever way it is written."""
    source = tmp_path / "plugin.py"
    source.write_text(f"from dicom_adapter import Job, testing\nfrom dicom_adapter_own.part import x\n{statement}\n")
    assert 1 == len(list(deeper(source)))
