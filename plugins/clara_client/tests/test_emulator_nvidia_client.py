"""NVIDIA's own published client works with the emulated platform."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter_clara_client.emulator.grpc_face import serve
from dicom_adapter_clara_client.emulator.record import CallLog
from dicom_adapter_clara_client.emulator.state import EmulatedPlatform

REQUIREMENTS = ["nvidia-clara-client==0.8.1.7", "protobuf==3.20.*"]  # later ones refuse the client's modules
SESSION = Path(__file__).with_name("nvidia_session.py")
NOON = datetime(2026, 9, 1, 12, tzinfo=timezone.utc)
RUNNING, STOPPED = 2, 3
HEALTHY, CANCELED = 1, 3
HIGHER = 3

pytestmark = [pytest.mark.slow, pytest.mark.nvidia, pytest.mark.timeout(300)]  # installs the client at the first time


@pytest.fixture(scope="module")
def log() -> CallLog:
    return CallLog()


@pytest.fixture(scope="module")
def told(
    environment: Callable[[str, list[str]], Path], log: CallLog, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the client made of the answers of one whole session."""
    python = environment("nvidia", REQUIREMENTS)
    folder = tmp_path_factory.mktemp("nvidia")
    platform = EmulatedPlatform(folder=folder / "platform", clock=lambda: NOON)
    with serve(platform, log=log) as server:
        command: list[str | Path] = [python, SESSION, server.address, folder]
        session = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert 0 == session.returncode, session.stderr
    return dict(json.loads(session.stdout))


def test_it_registers_and_reads_pipelines(told: dict[str, Any]) -> None:
    """Create, list, details, and a removed pipeline that makes no more jobs."""
    assert [[told["pipeline"], "lung"]] == told["pipelines"]
    assert "lung" == told["pipeline name"]
    assert f"no pipeline {told['pipeline']}" == told["removed pipeline"]


def test_it_runs_a_job(told: dict[str, Any]) -> None:
    """Create, metadata, start and status, with times that it reads as they are."""
    assert {"Source": "AE", "Instances": "1", "Spare": "x"} == told["added"]
    assert {"Source": "AE", "Instances": "1"} == told["left"]
    assert [RUNNING, HEALTHY, HIGHER] == told["started"]
    assert [STOPPED, HEALTHY, HIGHER, "ae-lung-1", {"Source": "AE", "Instances": "1"}] == told["status"]
    assert [NOON.isoformat(), NOON.isoformat()] == told["times"]


def test_it_moves_files(told: dict[str, Any]) -> None:
    """Upload, details, removal and download; what comes back is what went there."""
    assert ["input/dcm/1.dcm", 300_000] == told["uploaded"]
    assert [["input/dcm/1.dcm", 300_000]] == told["files"]
    assert told["downloaded"]


def test_it_reads_what_is_empty(told: dict[str, Any]) -> None:
    """An empty payload is one file without a name to it, empty lists and logs are empty."""
    assert ([""], [], []) == (told["no files"], told["faulted jobs"], told["logs"])


def test_it_lists_and_cancels_jobs(told: dict[str, Any]) -> None:
    """Filters reach the platform; a canceled job is stopped."""
    assert [STOPPED, CANCELED] == told["canceled"]
    assert ["ae-lung-1", "ae-lung-2"] == told["jobs"]
    assert [True] == told["healthy jobs"]


def test_it_uses_reusable_payloads(told: dict[str, Any]) -> None:
    """Their files are copied into the job that is given them."""
    assert ({"kind": "atlas", "of": "lung"}, {"of": "lung"}) == (told["payload metadata"], told["payload left"])
    assert ["input/atlas.nii"] == told["inputs"]


def test_it_raises_what_is_refused(told: dict[str, Any]) -> None:
    """Messages of refusals are the texts of its exceptions."""
    assert "job name 'Not A Name' must be" in told["refused name"]
    assert "only a pending job can be started" in told["second start"]
    assert "metadata key 'INSTANCES' is present already" in told["repeated metadata"]
    assert "an upload must have a message" in told["empty upload"]


def test_its_calls_are_recorded(told: dict[str, Any], log: CallLog) -> None:
    """The client's uploads come in pieces of one call each."""
    assert "emulator" == told["version"]
    assert 4 == len(log.calls("Payloads.Upload"))
