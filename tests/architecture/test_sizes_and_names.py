"""Limits: class names are unique in the whole project, files and functions are short."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (ROOT / "core" / "src", *sorted(ROOT.glob("plugins/*/src")))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50


def modules(*folders: Path) -> Iterator[Path]:
    """Yield all modules except generated modules, and migrations, which never change."""
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            if "_pb2" not in path.name and path.parent.name != "versions":
                yield path


def find_duplicate_classes(*folders: Path) -> dict[str, list[str]]:
    """Return the class names that are defined more than once, with the locations of their definitions."""
    places = defaultdict(list)
    for path in modules(*folders):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path}:{node.lineno}")
    return {name: files for name, files in sorted(places.items()) if len(files) > 1}


def find_too_long(path: Path) -> list[str]:
    """Return a message for a file that is too long, and for each function that is too long without its decorators."""
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    file = [f"it has {lines} lines"] if lines > MAX_FILE_LINES else []
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    definitions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, functions)]
    lengths = ((node.name, (node.end_lineno or node.lineno) - node.lineno + 1) for node in definitions)
    return file + [f"{name} has {length} lines" for name, length in lengths if length > MAX_FUNCTION_LINES]


def test_no_class_name_is_defined_twice() -> None:
    """A class name has the same meaning in the core and in all plugins."""
    assert {} == find_duplicate_classes(*SOURCES)


def test_files_and_functions_are_short() -> None:
    """A file has at most 400 lines, a function at most 50."""
    problems = [f"{path.relative_to(ROOT)}: {problem}" for path in modules(*SOURCES) for problem in find_too_long(path)]
    assert [] == problems


def test_duplicate_classes_and_long_functions_are_detected(tmp_path: Path) -> None:
    """Nested classes and methods are checked, too."""
    body = "        pass\n" * MAX_FUNCTION_LINES
    (tmp_path / "a.py").write_text(f"class Twice:\n    async def long(self):\n{body}")
    (tmp_path / "b.py").write_text("def f():\n    class Twice: pass\n")
    assert ["Twice"] == list(find_duplicate_classes(tmp_path))
    assert ["long has 51 lines"] == find_too_long(tmp_path / "a.py")
    (tmp_path / "c.py").write_text("x = 1\n" * (MAX_FILE_LINES + 1))
    assert ["it has 401 lines"] == find_too_long(tmp_path / "c.py")
