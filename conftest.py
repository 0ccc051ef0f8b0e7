"""The treatment of warnings in slow tests, and work that each process of tests does once instead of for each test.

The work is to find plugins, to compile SQL statements, and to make the commands of a command line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import importlib_metadata
import pytest
import typer.testing
from attrs import frozen
from importlib_metadata import EntryPoint
from sqlalchemy import create_engine
from typer.main import get_command

from dicom_adapter.ledger import connection
from dicom_adapter.plugins.entry_points import version_of


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let slow tests ignore sockets that were not closed.

    pynetdicom does not close the socket of a requestor whose peer is killed. The warning appears when the memory is
    freed, which may be during another test.
    """
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"))


class CompiledStatements(dict[Hashable, Any]):
    """Compiled statements of all ledgers. SQLAlchemy compiles for each engine, because engines may differ.

    The engines of ledgers do not differ, so the first part of each key, the dialect of the engine, is left out.
    """

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(key[1:], default)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key[1:], value)


@frozen
class KnownDistribution:
    """Name and version of a distribution. Otherwise each look at one of them parses its metadata."""

    name: str
    version: str


@frozen
class KnownPoint:
    """An entry point of a plugin."""

    name: str
    value: str
    group: str
    dist: KnownDistribution | None
    load: Callable[[], Any]


find_entry_points = importlib_metadata.entry_points


def entry_points() -> tuple[KnownPoint, ...]:
    """Return the entry points of all plugins. The folders of sys.path are read again only if one of them has changed.

    Without this function, each configuration that a test loads takes 30 to 70 ms longer.
    """
    folders = (Path(folder) for folder in sys.path)
    return _entry_points(tuple((folder, folder.stat().st_mtime_ns) for folder in folders if folder.exists()))


@cache
def _entry_points(_folders: tuple[tuple[Path, int], ...]) -> tuple[KnownPoint, ...]:
    return tuple(_known(point) for point in find_entry_points() if version_of(point.group) is not None)


def _known(point: EntryPoint) -> KnownPoint:
    dist = None if point.dist is None else KnownDistribution(name=point.dist.name, version=point.dist.version)
    return KnownPoint(name=point.name, value=point.value, group=point.group, dist=dist, load=point.load)


@pytest.fixture(scope="session", autouse=True)
def _once_per_process() -> Iterator[None]:
    """Let all tests of this process share what is found and compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib_metadata, "entry_points", entry_points)
        engine = partial(create_engine, execution_options={"compiled_cache": CompiledStatements()})
        patch.setattr(connection, "create_engine", engine)
        # To make the commands takes twice as long as to run a short one. A command has no state between two calls.
        patch.setattr(typer.testing, "_get_command", cache(get_command))
        yield
