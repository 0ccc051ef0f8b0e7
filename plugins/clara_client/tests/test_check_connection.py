"""`check_connection`, which `check --connect` calls: it changes nothing on the platform or on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dicom_adapter import DicomAdapterError, Retriable, Submitter, SubmitterContext
from dicom_adapter_clara_client.fake import FakeSettings, FakeSubmitter
from dicom_adapter_clara_client.grpc_settings import ClaraGrpcSettings
from dicom_adapter_clara_client.grpc_submitter import ClaraGrpcSubmitter
from dicom_adapter_clara_client.rest_settings import ClaraRestSettings
from dicom_adapter_clara_client.rest_submitter import ClaraRestSubmitter
from dicom_adapter_clara_client.testing import PlatformEmulator

NOBODY = "127.0.0.1:9"  # no program listens on the discard port


@pytest.fixture
def context(tmp_path: Path) -> SubmitterContext:
    return SubmitterContext(name="platform", data_folder=tmp_path / "submitters" / "platform")


def submitter(kind: str, address: str, context: SubmitterContext) -> Submitter[Any]:
    if kind == "grpc":
        return ClaraGrpcSubmitter(ClaraGrpcSettings(endpoint=address), context)
    return ClaraRestSubmitter(ClaraRestSettings(endpoint=address), context)


@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_the_check_only_lists_jobs(platform_emulator: PlatformEmulator, context: SubmitterContext, kind: str) -> None:
    """No data folder is created, because the submitter is not open."""
    address = platform_emulator.grpc if kind == "grpc" else platform_emulator.rest
    checked = submitter(kind, address, context)
    assert checked.check_connection().startswith(f"{address} answers")
    (call,) = platform_emulator.log.wait_for("Jobs.List")
    assert [call] == list(platform_emulator.log.calls())
    assert not context.data_folder.exists()


@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_a_platform_that_does_not_answer_is_an_error(context: SubmitterContext, kind: str) -> None:
    with pytest.raises(Retriable, match="list the newest jobs: "):
        submitter(kind, NOBODY if kind == "grpc" else f"http://{NOBODY}", context).check_connection()


def test_the_folder_of_the_fake_platform_must_be_a_folder(context: SubmitterContext, tmp_path: Path) -> None:
    """The folder is created by `open`, not by the check."""
    (tmp_path / "file").touch()

    def check(folder: Path | None) -> str:
        return FakeSubmitter(FakeSettings(folder=folder), context).check_connection()

    assert "jobs are kept in memory" == check(None)
    assert f"jobs are kept in {tmp_path / 'new'}" == check(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(DicomAdapterError, match="must be a folder that the service's user can write"):
        check(tmp_path / "file" / "inside")
