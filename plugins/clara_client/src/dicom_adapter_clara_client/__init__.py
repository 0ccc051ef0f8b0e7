"""Submitters for an inference platform, and an emulator of the platform.

`clara-grpc` uses the gRPC services of the Clara Platform, `clara-rest` the API of `docs/clara-rest-openapi.yaml`.
`fake` replaces a platform in tests: this submitter stores the jobs, and fails on demand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dicom_adapter import Submitter, hookimpl
from dicom_adapter_clara_client.fake import FakeEnd, FakeFault, FakeFaultKind, FakeSettings, FakeSubmitter
from dicom_adapter_clara_client.fake_records import (
    FakeCall,
    FakeInstance,
    FakeJob,
    FakeOutcome,
    FakeState,
    SubmitterCall,
)

__all__ = [
    "FakeCall",
    "FakeEnd",
    "FakeFault",
    "FakeFaultKind",
    "FakeInstance",
    "FakeJob",
    "FakeOutcome",
    "FakeSettings",
    "FakeState",
    "FakeSubmitter",
    "SubmitterCall",
]


@hookimpl
def dicom_adapter_submitters() -> Iterable[type[Submitter[Any]]]:
    """Register the submitters of this plugin."""
    # Imported only when needed, because the libraries of these submitters take time and memory.
    from dicom_adapter_clara_client.grpc_submitter import ClaraGrpcSubmitter
    from dicom_adapter_clara_client.rest_submitter import ClaraRestSubmitter

    return [ClaraGrpcSubmitter, ClaraRestSubmitter, FakeSubmitter]


@hookimpl
def dicom_adapter_commands() -> Iterable[Callable[..., None]]:
    """Register `dicom-adapter emulate-platform`."""
    from dicom_adapter_clara_client.emulator.command import emulate_platform

    return [emulate_platform]
