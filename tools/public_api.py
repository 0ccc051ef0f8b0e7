"""Snapshot of the public API: `make api` writes the snapshot, a test compares it with the code.

The snapshot has one line with the signature of each public name, each member of a public class, each hook and each
pytest fixture. The sources are parsed by griffe and not imported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import griffe

ROOT = Path(__file__).resolve().parents[1]
SNAPSHOT = ROOT / "tests" / "architecture" / "public_api.txt"
PUBLIC_MODULES = ("dicom_adapter", "dicom_adapter.testing")
HOOKS = "dicom_adapter.api.hookspecs"  # plugins implement the functions that are marked as hookspecs
FIXTURES = "dicom_adapter.testing.fixtures"  # tests use the functions that are marked as fixtures
SPECIAL_METHODS = {"__init__", "__call__", "__enter__", "__exit__", "__iter__", "__len__", "__getitem__"}


def describe(source: Path = ROOT / "core" / "src") -> str:
    """Return the snapshot of the package in `source`, one line for each item, sorted."""
    package = griffe.load("dicom_adapter", search_paths=[source], resolve_aliases=True)
    lines: set[str] = set()
    for module in PUBLIC_MODULES:
        for name in _public_names(package, module):
            lines.update(_describe(f"{module}.{name}", _member(package, f"{module}.{name}")))
    for module in (HOOKS, FIXTURES):
        lines.update(_decorated(_member(package, module)))
    lines.update(_describe(f"{HOOKS}.API_VERSION", _member(package, f"{HOOKS}.API_VERSION")))
    return "".join(f"{line}\n" for line in sorted(lines))


def _member(package: griffe.Object | griffe.Alias, path: str) -> griffe.Object:
    """Return the definition behind a dotted path, not an import of it."""
    relative = path.removeprefix("dicom_adapter").removeprefix(".")
    found = package[relative] if relative else package
    return found.final_target if isinstance(found, griffe.Alias) else found


def _public_names(package: griffe.Object | griffe.Alias, module: str) -> list[str]:
    """Return the names that a module lists in `__all__`; without `__all__`, those that its stub imports."""
    found = _member(package, module)
    if found.exports:
        return [str(export) for export in found.exports]
    imports = (member for member in found.members.values() if isinstance(member, griffe.Alias))  # imports of a stub
    return [member.name for member in imports if member.target_path.startswith("dicom_adapter.")]


def _describe(path: str, item: griffe.Object) -> Iterator[str]:
    if isinstance(item, griffe.Function):
        yield f"{path}{_signature(item)}"
    elif isinstance(item, griffe.Attribute):
        yield f"{path}{_declaration(item)}"
    elif isinstance(item, griffe.Class):
        yield f"{path} = class({', '.join(map(str, item.bases))}){_decorators(item)}"
        for name, member in item.all_members.items():
            if name in SPECIAL_METHODS or not name.startswith(
                ("_", "test_")
            ):  # tests of suites are not part of the API
                target = member.final_target if isinstance(member, griffe.Alias) else member
                yield from _describe(f"{path}.{name}", target)


def _signature(function: griffe.Function) -> str:
    signature = str(function.signature()).removeprefix(function.name)
    return f"{signature}{_decorators(function)}"


def _declaration(attribute: griffe.Attribute) -> str:
    annotation = "" if attribute.annotation is None else f": {attribute.annotation}"
    is_default = attribute.value is not None and attribute.labels != {"instance-attribute"}
    value = f" = {attribute.value}" if is_default else ""
    kind = " @property" if "property" in attribute.labels else ""
    return f"{annotation}{value}{kind}"


def _decorators(item: griffe.Class | griffe.Function) -> str:
    names = [str(decorator.value) for decorator in item.decorators]
    return f" @{' @'.join(names)}" if names else ""


def _decorated(module: griffe.Object) -> Iterator[str]:
    """Describe the functions of a module that have a decorator: hookspecs and fixtures."""
    for name, member in module.members.items():
        if isinstance(member, griffe.Function) and member.decorators:
            yield from _describe(f"{module.path}.{name}", member)


if __name__ == "__main__":
    before = SNAPSHOT.read_text(encoding="utf-8") if SNAPSHOT.exists() else ""
    after = describe()
    SNAPSHOT.write_text(after, encoding="utf-8")
    sys.stdout.write(f"{SNAPSHOT.relative_to(ROOT)}: {'up to date' if before == after else 'written'}\n")
