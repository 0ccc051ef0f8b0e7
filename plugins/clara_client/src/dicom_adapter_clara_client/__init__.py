"""Submitters that hand jobs to an inference platform.

`fake` stands in for a platform: it keeps what it is given, and fails when it is told to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dicom_adapter import Submitter, hookimpl
from dicom_adapter_clara_client.fake import FakeSettings, FakeSubmitter, Fault, FaultKind
from dicom_adapter_clara_client.fake_records import Call, FakeCall, FakeInstance, FakeJob, FakeState, Outcome

__all__ = [
    "Call",
    "FakeCall",
    "FakeInstance",
    "FakeJob",
    "FakeSettings",
    "FakeState",
    "FakeSubmitter",
    "Fault",
    "FaultKind",
    "Outcome",
]


@hookimpl
def dicom_adapter_submitters() -> Iterable[type[Submitter[Any]]]:
    """The submitters of this plugin."""
    return [FakeSubmitter]
