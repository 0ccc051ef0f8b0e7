"""A page for each hook, generated from its specification in `hookspecs.py`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from dicom_adapter.api import hookspecs

Hook = Callable[..., Any]
EXAMPLE = "Example::\n"
REGISTERS = "A registration hook: the adapter uses the classes or objects that it returns."
OBSERVES = "An observer hook: the adapter calls it after an event was committed."


def hooks() -> Mapping[str, Hook]:
    """Return all specifications by name."""
    mark = f"{hookspecs.PROJECT}_spec"  # an attribute that pluggy sets on every specification
    return {name: each for name, each in vars(hookspecs).items() if hasattr(each, mark)}


def page(name: str, hook: Hook) -> str:
    """Return the page of a hook: signature, meaning, example."""
    body, _, example = inspect.cleandoc(hook.__doc__ or "").partition(EXAMPLE)
    kind = OBSERVES if hook.__annotations__["return"] == "None" else REGISTERS
    parts = [f"# {name}", kind, fenced(signature(name, hook)), escaped(body.strip())]
    if example:
        parts += ["## Example", fenced(inspect.cleandoc(example))]
    return "\n\n".join([*parts, "[Writing plugins](../../plugins.md#all-hooks) shows all hooks side by side."]) + "\n"


def signature(name: str, hook: Hook) -> str:
    """Return the definition of the specification as it is written."""
    notes = dict(hook.__annotations__)
    result = notes.pop("return")
    return f"def {name}({', '.join(f'{parameter}: {type_}' for parameter, type_ in notes.items())}) -> {result}"


def index() -> str:
    """Return a list of the hooks with their first sentences and links."""
    rows = [f"| [`{name}`]({name}.md) | {_first_sentence(hook)} |\n" for name, hook in hooks().items()]
    pages = "".join(f"{name}\n" for name in hooks())
    tree = f"```{{toctree}}\n:hidden:\n\n{pages}```\n"
    return f"# Hooks\n\n{escaped(_introduction())}\n\n| hook | |\n|---|---|\n{''.join(rows)}\n{tree}"


def _introduction() -> str:
    """Return the docstring of the module, with its example as a block."""
    return inspect.cleandoc(hookspecs.__doc__ or "")


def _first_sentence(hook: Hook) -> str:
    line = " ".join(inspect.cleandoc(hook.__doc__ or "").split("\n\n")[0].split())
    return escaped(line).replace("|", "\\|")


def fenced(code: str) -> str:
    return f"```python\n{code.strip()}\n```"


def escaped(text: str) -> str:
    """Return Markdown in which `<name>` outside of code is not HTML."""
    parts = text.split("`")
    return "`".join(part.replace("<", "\\<") if at % 2 == 0 else part for at, part in enumerate(parts))
