"""Core dumps of the service's processes are off, because they contain patient data, unless a setting enables them."""

from __future__ import annotations

import resource

import pytest

from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE

CONFIGURATION = (
    STORAGE
    + """
[ae-titles.LUNG.settings]
pipeline-a = "pipeline-1"
"""
)
OFF = 1  # byte: no core dump is written, and none is piped to a program


@pytest.mark.parametrize("setting", ["", "[log]\ncore-dumps = true\n"])
def test_the_processes_of_the_service_write_core_dumps_only_if_configured(
    launch_service: LaunchService, setting: str
) -> None:
    """The limit is that of supervisor, host and receiver. Verified to fail when the setting is ignored."""
    service = launch_service(setting + CONFIGURATION)
    service.port()
    limits = {resource.prlimit(pid, resource.RLIMIT_CORE) for pid in service.pids()}
    [(soft, hard)] = limits
    assert (soft == hard) if setting else (soft == OFF)
    assert 0 == service.stop()
