"""Hide modules from a library that imports them, but does not need them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def hidden_modules(*names: str) -> Iterator[None]:
    """In this block, imports of these modules fail as if they were not installed, unless they are loaded already."""
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # so that its import fails
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextmanager
def replaced_module(replacement: ModuleType) -> Iterator[None]:
    """In this block, imports of the module with this name return `replacement`, unless the module is loaded already."""
    name = replacement.__name__
    is_loaded = name in sys.modules
    if not is_loaded:
        sys.modules[name] = replacement
    try:
        yield
    finally:
        if not is_loaded:
            del sys.modules[name]
