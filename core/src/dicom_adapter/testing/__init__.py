"""Tools for testing plugins: a complete adapter in the test process, on a virtual clock.

    def test_each_arrival_restarts_the_quiet_period(adapter):
        study = make_study(instances=3)
        for second, instance in zip((0, 4, 8), study):
            adapter.receive(instance, at=second)
        adapter.expect_jobs(ExpectedJob("pipeline-1", instances=study, at=13), by=60)

The pytest fixtures `adapter`, `make_adapter` and `launch_service` are installed with the package. The conformance
suites `BaseProcessorTests`, `BaseSubmitterTests` and `BaseStorageBackendTests` test the rules that plugins must follow.
"""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from typing import Any


def _read_stub() -> dict[str, str]:
    """Return the module of each public name, from the stub `__init__.pyi`, which is the only list of public names."""
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = (node for node in stub.body if isinstance(node, ast.ImportFrom) and node.module)
    return {alias.name: node.module for node in imports for alias in node.names}  # type: ignore[misc] # filtered above


_MODULES = _read_stub()
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    """Import a public name on first use: pytest imports this package at each start, even if no test uses it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
