"""A real Prometheus, and the alerts about a disk and a job processor that hang (see also `test_alerts.py`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from isolation_plugins import write_plugins

from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE, send, write_study
from support.hanging_disk import HangingDisk
from support.prometheus import Prometheus, rules, wait_for

pytestmark = [pytest.mark.prometheus, pytest.mark.slow]

# Its group is due after a second. Then the processor waits for ever, for example for a server that does not answer.
BLOCKING = """
import threading
from datetime import timedelta

from dicom_adapter import JobProcessorBase, Waiting, hookimpl

NEVER = threading.Event()


class Blocking(JobProcessorBase):
    name = "blocking"

    def open(self):
        self.groups = []

    def handle_instance(self, instance):
        self.groups.append(Waiting(label="group 1", instance_count=1, until=self.now() + timedelta(seconds=1)))
        self.call_later(1, NEVER.wait)

    def waiting(self):
        return self.groups


@hookimpl
def dicom_adapter_processors():
    return [Blocking]
"""
CONFIGURATION = (
    STORAGE
    + """
[http]
port = 0

[ae-titles.LUNG.settings]
pipeline-a = "pipeline-1"

[ae-titles.BLOCKS]
processor = "blocking"
"""
)
LATE, OLD = "DicomAdapterGroupsLate", "DicomAdapterMetricsOld"
# A test cannot wait for minutes. Without a hang, groups are late and samples old for about a second at most.
SHORTENED = {LATE: ("> 60", "> 5"), OLD: ("> 120", "> 5")}


@pytest.fixture
def _blocking_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plugins").mkdir()
    write_plugins(tmp_path / "plugins", {"blocking": BLOCKING})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "plugins"), prepend=os.pathsep)


@pytest.fixture
def hanging_disks() -> Iterator[list[HangingDisk]]:
    """Return a list of disks, which are removed after the test."""
    disks: list[HangingDisk] = []
    yield disks
    for disk in disks:
        disk.remove()


@pytest.mark.timeout(300)  # on a busy machine
@pytest.mark.usefixtures("_blocking_plugin")
def test_alerts_fire_when_a_processor_and_a_disk_hang(
    launch_service: LaunchService, tmp_path: Path, hanging_disks: list[HangingDisk]
) -> None:
    """Each alert fires only after its reason was caused. That of the disk ends with it.

    Verified to fail when the exposed age of the samples, or the time since a group was due, is always 0.
    """
    service = launch_service(CONFIGURATION)
    service.port()
    prometheus = Prometheus(tmp_path / "prometheus", service.wait_for("http_listening")["port"], rules(SHORTENED))
    study = write_study(tmp_path / "study", instances=1)
    try:
        assert [True] == [result.ok for result in send(study, service, "LUNG")]
        service.wait_for("job_submitted")
        wait_for(lambda: prometheus.values("dicom_adapter_sample_age_seconds"), "the service is measured")
        assert not {LATE, OLD} & prometheus.firing()

        assert [True] == [result.ok for result in send(study, service, "BLOCKS")]
        prometheus.wait_until_firing(LATE)
        late = prometheus.query(f'ALERTS{{alertname="{LATE}"}}')
        assert ["BLOCKS"] == [alert["metric"]["ae_title"] for alert in late]

        assert OLD not in prometheus.firing()
        hanging_disks.append(HangingDisk(service.configuration.parent / "data" / "instances"))
        prometheus.wait_until_firing(OLD)
        hanging_disks[0].remove()
        wait_for(lambda: OLD not in prometheus.firing(), "the metrics are up to date")
        assert 0 == service.stop()
    finally:
        prometheus.close()
