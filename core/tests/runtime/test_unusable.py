"""Failures at the start of a process: the reason, whether it is transient, and no patient data."""

from __future__ import annotations

from typing import Any, cast

import pytest

from dicom_adapter.api.errors import LedgerUnavailable, StorageFull
from dicom_adapter.runtime.channel import Channel
from dicom_adapter.runtime.data_folder import UNUSABLE, report_unusable


class Reports:
    """A substitute for the pipe to the service."""

    def __init__(self) -> None:
        self.reported: list[dict[str, Any]] = []

    def report(self, event: str, **fields: Any) -> None:
        self.reported.append({"event": event, **fields})


@pytest.mark.parametrize(
    ("failure", "reason", "transient"),
    [
        (LedgerUnavailable("database or disk is full", is_full=True), "the ledger is not available: database or", True),
        (LedgerUnavailable("disk I/O error"), "disk I/O error", False),
        (OSError(28, "No space left on device"), "No space left", True),
        (StorageFull("no space"), "no space", True),
        (PermissionError(13, "Permission denied"), "Permission denied", False),
    ],
)
def test_a_failed_start_is_reported_with_its_reason(failure: Exception, reason: str, transient: bool) -> None:
    """The service restarts the process if the reason is transient."""
    assert isinstance(failure, UNUSABLE)
    reports = Reports()
    report_unusable(cast(Channel, reports), "the ledger cannot be used", failure)
    [reported] = reports.reported
    assert ("failed", transient) == (reported["event"], reported["transient"])
    assert reported["reason"].startswith("the ledger cannot be used: ")
    assert reason in reported["reason"]
