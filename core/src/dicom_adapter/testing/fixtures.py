"""The pytest plugin: it comes with the installation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from dicom_adapter.launch import LaunchedService
    from dicom_adapter.testing.adapter import Adapter, Plugin

MakeAdapter = Callable[..., "Adapter"]
LaunchService = Callable[..., "LaunchedService"]


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


@pytest.fixture
def launch_service(tmp_path: Path) -> Iterator[LaunchService]:
    """Start `dicom-adapter run` on a free port, with a TOML text as its configuration; killed when the test ends.

    The configuration's folder is `tmp_path / name`; a second launch with the same name starts the service again there.
    """
    from dicom_adapter.launch import LaunchedService

    launched: list[LaunchedService] = []

    def launch(configuration: str, *arguments: str, name: str = "service", **options: str) -> LaunchedService:
        path = tmp_path / name / "adapter.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(configuration, encoding="utf-8")
        launched.append(LaunchedService(path, "--port", "0", *arguments, **options))
        return launched[-1]

    yield launch
    for service in launched:
        service.kill()
