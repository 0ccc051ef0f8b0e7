"""Common fixtures of the core's tests: their job processor is `by-study`, their submitter `memory`."""

from __future__ import annotations

import importlib_metadata
import pytest
from importlib_metadata import EntryPoint, EntryPoints

from dicom_adapter.api.hookspecs import PROJECT

BY_STUDY = EntryPoint(name="by-study", value="support.grouping", group=PROJECT)


@pytest.fixture(autouse=True)
def _installed_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the plugin `support.grouping` in this process."""
    entry_points = importlib_metadata.entry_points
    monkeypatch.setattr(importlib_metadata, "entry_points", lambda: EntryPoints([*entry_points(), BY_STUDY]))
