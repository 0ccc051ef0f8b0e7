"""Fixtures for tests of uploads."""

from __future__ import annotations

import pytest


@pytest.fixture
def batch(monkeypatch: pytest.MonkeyPatch) -> int:
    """Make the batches of uploads small. Return their number of files."""
    monkeypatch.setattr("dicom_adapter.flow.submit.uploading.UPLOADS_PER_COMMIT", 8)
    return 8
