"""Fixtures of all tests of the core. The tests run without the plugin packages of this project.

The job processor of the tests is `by-study` of `support.grouping`; the submitter is `memory` of the simulated adapter.
"""

from __future__ import annotations

from functools import partial

import importlib_metadata
import pytest
from importlib_metadata import EntryPoint, EntryPoints

from dicom_adapter.api.hookspecs import PROJECT
from dicom_adapter.plugins import registry
from dicom_adapter.simulation.platform import MemoryPlugin
from dicom_adapter.testing import Plugin

BY_STUDY = EntryPoint(name="by-study", value="support.grouping", group=PROJECT)
PLUGIN_PACKAGES = {
    "dicom-adapter-aetitle",
    "dicom-adapter-cache",
    "dicom-adapter-clara-client",
    "dicom-adapter-delivery",
    "dicom-adapter-notify",
    "dicom-adapter-pipelines",
}


@pytest.fixture(autouse=True)
def _installed_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the plugin packages of this project from this process, and install the plugin `by-study`."""
    entry_points = importlib_metadata.entry_points

    def without_plugin_packages() -> EntryPoints:
        points = [point for point in entry_points() if point.dist is None or point.dist.name not in PLUGIN_PACKAGES]
        return EntryPoints([*points, BY_STUDY])

    monkeypatch.setattr(importlib_metadata, "entry_points", without_plugin_packages)


@pytest.fixture
def memory_submitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands find the submitter `memory`. Without this fixture, only a simulated adapter has this submitter."""
    plugin = Plugin(MemoryPlugin(), name="memory")
    monkeypatch.setattr(registry, "discover", partial(registry.discover, plugin))
