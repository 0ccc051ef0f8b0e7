"""NVIDIA's own published client works with the emulated platform."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter_clara_client.emulator.grpc_server import serve
from dicom_adapter_clara_client.emulator.record import CallLog
from dicom_adapter_clara_client.emulator.state import EmulatedPlatform

REQUIREMENTS = ["nvidia-clara-client==0.8.1.7", "protobuf==3.20.*"]  # newer versions cannot load the client's modules
SESSION = Path(__file__).with_name("nvidia_session.py")
NOON = datetime(2026, 9, 1, 12, tzinfo=timezone.utc)
RUNNING, STOPPED = 2, 3
HEALTHY, CANCELED = 1, 3
HIGHER = 3

pytestmark = [pytest.mark.slow, pytest.mark.nvidia, pytest.mark.timeout(300)]  # the first run installs the client


@pytest.fixture(scope="module")
def log() -> CallLog:
    return CallLog()


@pytest.fixture(scope="module")
def results(
    environment: Callable[[str, list[str]], Path], log: CallLog, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Return the results that the client reports for one session."""
    python = environment("nvidia", REQUIREMENTS)
    folder = tmp_path_factory.mktemp("nvidia")
    platform = EmulatedPlatform(folder=folder / "platform", clock=lambda: NOON)
    with serve(platform, log=log) as server:
        command: list[str | Path] = [python, SESSION, server.address, folder]
        session = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert 0 == session.returncode, session.stderr
    return dict(json.loads(session.stdout))


def test_the_client_registers_and_reads_pipelines(results: dict[str, Any]) -> None:
    """The client can create, list and read pipelines; it cannot create a job for a removed pipeline."""
    assert [[results["pipeline"], "lung"]] == results["pipelines"]
    assert "lung" == results["pipeline name"]
    assert f"no pipeline {results['pipeline']}" == results["removed pipeline"]


def test_the_client_runs_a_job(results: dict[str, Any]) -> None:
    """The client can create and start a job, change its metadata and read its status and times."""
    assert {"Source": "AE", "Instances": "1", "Spare": "x"} == results["added metadata"]
    assert {"Source": "AE", "Instances": "1"} == results["remaining metadata"]
    assert [RUNNING, HEALTHY, HIGHER] == results["started"]
    assert [STOPPED, HEALTHY, HIGHER, "ae-lung-1", {"Source": "AE", "Instances": "1"}] == results["status"]
    assert [NOON.isoformat(), NOON.isoformat()] == results["times"]


def test_the_client_transfers_files(results: dict[str, Any]) -> None:
    """The client can upload, list, remove and download files; a downloaded file equals the uploaded file."""
    assert ["input/dcm/1.dcm", 300_000] == results["uploaded"]
    assert [["input/dcm/1.dcm", 300_000]] == results["files"]
    assert results["downloaded"]


def test_the_client_reads_empty_responses(results: dict[str, Any]) -> None:
    """The client reads an empty payload as one file without a name; empty lists and logs are empty."""
    assert ([""], [], []) == (results["no files"], results["faulted jobs"], results["logs"])


def test_the_client_lists_and_cancels_jobs(results: dict[str, Any]) -> None:
    """Filters are applied; a canceled job is stopped."""
    assert [STOPPED, CANCELED] == results["canceled"]
    assert ["ae-lung-1", "ae-lung-2"] == results["jobs"]
    assert [True] == results["healthy jobs"]


def test_the_client_uses_reusable_payloads(results: dict[str, Any]) -> None:
    """The files of the reusable payload are copied into the job's payload."""
    assert ({"kind": "atlas", "of": "lung"}, {"of": "lung"}) == (
        results["payload metadata"],
        results["remaining payload metadata"],
    )
    assert ["input/atlas.nii"] == results["inputs"]


def test_the_client_raises_refusals(results: dict[str, Any]) -> None:
    """The texts of the client's exceptions are the platform's messages."""
    assert "job name 'Not A Name' must be" in results["refused name"]
    assert "only a pending job can be started" in results["second start"]
    assert "metadata key 'INSTANCES' is present already" in results["repeated metadata"]
    assert "an upload must have at least one message" in results["empty upload"]


def test_the_clients_calls_are_recorded(results: dict[str, Any], log: CallLog) -> None:
    """Each upload of the client is one call, whatever the number of pieces."""
    assert "emulator" == results["version"]
    assert 4 == len(log.calls("Payloads.Upload"))
