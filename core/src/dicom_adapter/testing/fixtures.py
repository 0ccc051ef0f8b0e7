"""The pytest plugin: it comes with the installation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from dicom_adapter.testing.adapter import Adapter, Plugin

MakeAdapter = Callable[..., "Adapter"]


@pytest.fixture
def make_adapter(tmp_path: Path) -> Iterator[MakeAdapter]:
    """Make an `Adapter` from a TOML text, and plugins that are not installed, in the test's temporary folder."""
    from dicom_adapter.testing.adapter import Adapter

    made: list[Adapter] = []

    def make(configuration: str, *plugins: Plugin) -> Adapter:
        made.append(Adapter(tmp_path, configuration, plugins))
        return made[-1]

    yield make
    for adapter in made:
        adapter.close()
