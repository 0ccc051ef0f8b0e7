"""Hide modules from a library that imports them if they are installed, but does not need them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


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
