"""What the tests of commands share."""

from __future__ import annotations

from functools import partial

import pytest

from dicom_adapter.plugins import registry
from dicom_adapter.simulation.platform import MemoryPlugin
from dicom_adapter.testing import Plugin


@pytest.fixture
def memory_submitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands find the submitter `memory`. Without this fixture only a simulated adapter has it."""
    plugin = Plugin(MemoryPlugin(), name="memory")
    monkeypatch.setattr(registry, "discover", partial(registry.discover, plugin))
