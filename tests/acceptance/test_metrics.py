"""`/metrics` of the real service: all processes, access, a killed receiver, and a changed configuration."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE, send, write_study
from support.requirements import required

VIEWER, WRONG = "v" * 20, "w" * 20
CONFIGURATION = (
    STORAGE
    + """
[http]
port = 0
[http.tokens.prometheus]
role = "viewer"
secret = { env = "VIEWER_TOKEN" }
[ae-titles.LUNG.settings]
timeout = 5
group-by = "study"
pipeline-a = "pipeline-1"
"""
)


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEWER_TOKEN", VIEWER)


class Metrics:
    """The metrics of a service."""

    def __init__(self, service: LaunchedService) -> None:
        self._port = service.wait_for("http_listening")["port"]

    def read(self, token: str = VIEWER) -> str:
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/metrics")
        request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=60) as response:
            text: str = response.read().decode()
            return text

    def values(self, name: str) -> dict[tuple[str, ...], float]:
        """Return the values of a metric that are not zero, by the values of its labels."""
        return {
            tuple(sample.labels.values()): sample.value
            for family in text_string_to_metric_families(self.read())
            for sample in family.samples
            if sample.name == name and sample.value
        }


def test_the_metrics_of_all_processes_survive_a_kill_and_a_reload(
    tmp_path: Path, launch_service: LaunchService
) -> None:
    """The counts of a killed receiver are not lost. No patient data is in any metric."""
    service = launch_service(CONFIGURATION)
    service.port()
    metrics = Metrics(service)
    send(write_study(tmp_path / "a", patient_id="SECRET-1"), service, "LUNG")
    received = {("LUNG", "stored"): 2.0}
    assert received == metrics.values("dicom_adapter_received_instances_total")
    assert {("LUNG",): 2.0} == metrics.values("dicom_adapter_store_response_seconds_count")
    assert {("service",), ("host",), ("receiver",)} == metrics.values("dicom_adapter_process_open_fds").keys()
    assert 0 < metrics.values("dicom_adapter_lane_turn_seconds_count")["LUNG",]

    os.kill(service.pids()[-1], signal.SIGKILL)
    service.wait_for("receiver_listening", times=2)
    assert received == metrics.values("dicom_adapter_received_instances_total")

    service.configuration.write_text(CONFIGURATION.replace("timeout = 5", "timeout = 6"), encoding="utf-8")
    os.kill(service.pids()[0], signal.SIGHUP)
    service.wait_for("reload_applied")
    send(write_study(tmp_path / "b", patient_id="SECRET-2"), service, "LUNG")
    assert {("LUNG", "stored"): 4.0} == metrics.values("dicom_adapter_received_instances_total")
    assert "SECRET" not in metrics.read()


@pytest.mark.prometheus
def test_promtool_finds_nothing_in_the_metrics_of_all_processes(tmp_path: Path, launch_service: LaunchService) -> None:
    """`promtool check metrics` reports invalid syntax, and names, units and help texts that break a convention.

    Verified to fail when a metric has no help text, and when the name of a gauge ends with `_total`.
    """
    promtool = required(shutil.which("promtool"), "prometheus", "promtool of Prometheus is not installed")
    service = launch_service(CONFIGURATION + "[dicom]\nreceivers = 2\n")
    service.port()
    metrics = Metrics(service)
    send(write_study(tmp_path / "study"), service, "LUNG")
    processes = {("service",), ("host",), ("receiver 1",), ("receiver 2",)}
    assert processes == metrics.values("dicom_adapter_process_open_fds").keys()
    assert {("LUNG", "stored"): 2.0} == metrics.values("dicom_adapter_received_instances_total")
    command = [promtool, "check", "metrics"]
    checked = subprocess.run(command, input=metrics.read(), capture_output=True, text=True, check=False)
    assert (0, "") == (checked.returncode, checked.stdout + checked.stderr)


@pytest.mark.parametrize("token", ["", WRONG])
def test_metrics_need_a_token(launch_service: LaunchService, token: str) -> None:
    service = launch_service(CONFIGURATION)
    metrics = Metrics(service)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        metrics.read(token)
