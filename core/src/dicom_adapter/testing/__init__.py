"""What authors of plugins need to test them: a whole adapter in the process, under a virtual clock.

    def test_every_arrival_starts_the_wait_anew(adapter):
        study = make_study(instances=3)
        for second, instance in zip((0, 4, 8), study):
            adapter.receive(instance, at=second)
        adapter.expect_jobs(ExpectedJob("pipeline-1", instances=study, at=13), by=60)

The pytest fixtures come with the installation: `adapter`, `make_adapter` and `launch_service`. The suites
`BaseProcessorTests`, `BaseSubmitterTests` and `BaseStorageBackendTests` check all that the host relies on.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dicom_adapter.dicom.synthetic import make_instance, make_study
    from dicom_adapter.simulation.adapter import Plugin
    from dicom_adapter.simulation.clock import VirtualClock
    from dicom_adapter.simulation.platform import HandedOver, Platform
    from dicom_adapter.testing.adapter import Adapter
    from dicom_adapter.testing.expectation import ExpectedJob
    from dicom_adapter.testing.processor_suite import BaseProcessorTests
    from dicom_adapter.testing.processor_traffic import Arrival
    from dicom_adapter.testing.service import Service
    from dicom_adapter.testing.storage_suite import BaseStorageBackendTests
    from dicom_adapter.testing.submitter_jobs import PlatformRecord
    from dicom_adapter.testing.submitter_suite import BaseSubmitterTests

_HOMES = {
    "Adapter": "dicom_adapter.testing.adapter",
    "Arrival": "dicom_adapter.testing.processor_traffic",
    "BaseProcessorTests": "dicom_adapter.testing.processor_suite",
    "BaseStorageBackendTests": "dicom_adapter.testing.storage_suite",
    "BaseSubmitterTests": "dicom_adapter.testing.submitter_suite",
    "ExpectedJob": "dicom_adapter.testing.expectation",
    "HandedOver": "dicom_adapter.simulation.platform",
    "Platform": "dicom_adapter.simulation.platform",
    "PlatformRecord": "dicom_adapter.testing.submitter_jobs",
    "Plugin": "dicom_adapter.simulation.adapter",
    "Service": "dicom_adapter.testing.service",
    "VirtualClock": "dicom_adapter.simulation.clock",
    "make_instance": "dicom_adapter.dicom.synthetic",
    "make_study": "dicom_adapter.dicom.synthetic",
}

__all__ = [
    "Adapter",
    "Arrival",
    "BaseProcessorTests",
    "BaseStorageBackendTests",
    "BaseSubmitterTests",
    "ExpectedJob",
    "HandedOver",
    "Platform",
    "PlatformRecord",
    "Plugin",
    "Service",
    "VirtualClock",
    "make_instance",
    "make_study",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for: pytest imports this package at every start, of whatever tests."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
