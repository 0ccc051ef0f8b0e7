"""The pages of the public modules. Sphinx adds signatures and docstrings."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from enum import Enum
from types import ModuleType
from typing import Any

import attrs

import dicom_adapter
from dicom_adapter import testing

PUBLIC = {"api": dicom_adapter, "testing-api": testing}
TITLES = {"dicom_adapter": "Hooks", "declare": "Settings", "model": "Values"}  # for modules with unclear names


def page(module: ModuleType) -> str:
    """Return the page of a module, with a section for each file that defines public names."""
    title = f"``{module.__name__}``"
    head = f"{title}\n{'=' * len(title)}\n\n.. currentmodule:: {module.__name__}\n"
    return head + "".join(_section(home, names, module) for home, names in _by_home(module).items())


def _by_home(module: ModuleType) -> dict[str, list[str]]:
    """Return the public names by section title, which is the name of the defining module."""
    found: dict[str, list[str]] = {}
    for name in module.__all__:
        thing = getattr(module, name)
        home = thing.__module__ if inspect.isclass(thing) or inspect.isfunction(thing) else module.__name__
        last = home.rpartition(".")[2]
        found.setdefault(TITLES.get(last, last.replace("_", " ").capitalize()), []).append(name)
    return dict(sorted(found.items()))


def _section(title: str, names: Iterable[str], module: ModuleType) -> str:
    entries = "".join(_entry(name, getattr(module, name)) for name in names)
    return f"\n{title}\n{'-' * len(title)}\n\n{entries}"


def _entry(name: str, thing: Any) -> str:
    if inspect.isclass(thing):
        bases = "" if thing.__bases__ == (object,) else "   :show-inheritance:\n"
        return f".. autoclass:: {name}\n   :members:\n{bases}\n"
    return f".. autofunction:: {name}\n\n" if inspect.isfunction(thing) else f".. autodata:: {name}\n   :no-value:\n\n"


def described(thing: Any, lines: Iterable[str]) -> Iterator[str]:
    """Yield a docstring as reStructuredText, with the fields or values of a class, which Sphinx does not find."""
    yield from _with_code(lines)
    yield ""
    if inspect.isclass(thing) and attrs.has(thing):
        yield from _fields(thing)
    elif inspect.isclass(thing) and issubclass(thing, Enum):
        yield f"One of {', '.join(f'``{member.name}`` (``{member.value}``)' for member in thing)}."
    yield ""


def _with_code(lines: Iterable[str]) -> Iterator[str]:
    """Make indented lines code blocks, as in Markdown."""
    before, inside = "", False
    for line in lines:
        indented = line.startswith("    ")
        if indented and not inside and not before.endswith("::"):
            yield from ("::", "")
        yield line
        if line.strip():
            before, inside = line, indented


def _fields(cls: type) -> Iterator[str]:
    """Yield the fields of an attrs class with their comments."""
    comments = dict(_comments(cls))
    for field in attrs.fields(cls):
        if field.init and not field.name.startswith("_"):
            yield f":ivar {field.name}: {comments.get(field.name, '')}".rstrip()
            yield f":vartype {field.name}: {_type(field.type)}"


def _type(type_: Any) -> str:
    return type_ if isinstance(type_, str) else inspect.formatannotation(type_)


def _comments(cls: type) -> Iterator[tuple[str, str]]:
    for ancestor in reversed(cls.__mro__[:-1]):
        for line in inspect.getsource(ancestor).splitlines():
            name, colon, rest = line.strip().partition(":")
            if colon and name.isidentifier() and "  # " in rest:
                yield name, rest.partition("  # ")[2]
