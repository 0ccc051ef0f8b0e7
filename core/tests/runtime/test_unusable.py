"""What a process says when it cannot begin: why, whether that may pass, and nothing of a patient."""

from __future__ import annotations

from typing import Any, cast

import pytest

from dicom_adapter.api.errors import LedgerUnavailable, StorageFull
from dicom_adapter.runtime.channel import Channel
from dicom_adapter.runtime.data_folder import UNUSABLE, report_unusable


class Reports:
    """In place of the pipe to the service."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def report(self, event: str, **fields: Any) -> None:
        self.told.append({"event": event, **fields})


@pytest.mark.parametrize(
    ("failure", "said", "transient"),
    [
        (LedgerUnavailable("database or disk is full", is_full=True), "the ledger is not available: database or", True),
        (LedgerUnavailable("disk I/O error"), "disk I/O error", False),
        (OSError(28, "No space left on device"), "No space left", True),
        (StorageFull("no room"), "no room", True),
        (PermissionError(13, "Permission denied"), "Permission denied", False),
    ],
)
def test_why_a_process_cannot_begin(failure: Exception, said: str, transient: bool) -> None:
    """The service starts it again when that may pass."""
    assert isinstance(failure, UNUSABLE)
    reports = Reports()
    report_unusable(cast(Channel, reports), "the ledger cannot be used", failure)
    [told] = reports.told
    assert ("failed", transient) == (told["event"], told["transient"])
    assert told["reason"].startswith("the ledger cannot be used: ")
    assert said in told["reason"]
