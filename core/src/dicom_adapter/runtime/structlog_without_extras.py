"""Import structlog without modules that it does not need. This saves up to 14 MB in each process.

This module is imported first in receiver, host and service processes. Code that needs these modules can import them
afterwards:

- rich, for coloured tracebacks (6 MB)
- greenlet, for contexts of greenlets (1 MB)
- asyncio, for loggers of coroutines, with ssl (7 MB): the supervisor has no event loop
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

from dicom_adapter.runtime.hidden_modules import hidden_modules, replaced_module


class _ImportedOnUse(ModuleType):
    """Stands for a module, and imports it when one of its names is used."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self.__name__), name)


with hidden_modules("rich", "greenlet"), replaced_module(_ImportedOnUse("asyncio")):
    import structlog  # noqa: F401 - imported for its side effect
