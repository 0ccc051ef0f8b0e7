"""All submitters of this plugin pass the conformance suite."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter import Job, Submitter, SubmitterContext
from dicom_adapter.testing import BaseSubmitterTests, PlatformRecord
from dicom_adapter_clara_client import FakeEnd, FakeSettings, FakeSubmitter
from dicom_adapter_clara_client.emulator.values import ClaraJobState, ClaraJobStatus, RunPlan
from dicom_adapter_clara_client.fake_records import FakeJob, FakeState
from dicom_adapter_clara_client.grpc_settings import ClaraGrpcSettings
from dicom_adapter_clara_client.grpc_submitter import ClaraGrpcSubmitter
from dicom_adapter_clara_client.rest_settings import ClaraRestSettings
from dicom_adapter_clara_client.rest_submitter import ClaraRestSubmitter
from dicom_adapter_clara_client.testing import PlatformEmulator

MakeSubmitter = Callable[[], Submitter[Any]]
OnPlatform = Callable[[], Sequence[PlatformRecord]]
EndJob = Callable[[Job, Mapping[str, bytes] | None], None]
SECONDS = 20.0  # limit of a call on a busy machine
FOLLOWED: dict[str, Any] = {"outcome": FakeEnd.SUCCEEDS, "run_seconds": 1e6}  # until the test ends the job


@pytest.fixture
def context(tmp_path: Path) -> SubmitterContext:
    return SubmitterContext(name="suite", data_folder=tmp_path / "submitter")


@pytest.fixture
def closed_port() -> int:
    """Return a port on which no process listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


# --- fake -------------------------------------------------------------------------------------------------------------


def fake_record(job: FakeJob, folder: Path | None) -> PlatformRecord:
    if folder is None:
        files = [instance.data or b"" for instance in job.instances]
    else:
        files = [(folder / job.job_id / "dcm" / f"{item.position:05}.dcm").read_bytes() for item in job.instances]
    return PlatformRecord(
        platform_job_id=f"fake-{job.job_id}",
        metadata=job.metadata,
        files=files,
        started=job.started,
        cancelled=job.state is FakeState.STOPPED and job.succeeded is None,
    )


def end(submitter: FakeSubmitter, job: Job, outputs: Mapping[str, bytes] | None) -> None:
    submitter.open()
    submitter.end_job(job.run_id, succeeds=outputs is not None, outputs=outputs)


class TestFakeInFolder(BaseSubmitterTests):
    """A new submitter finds the jobs of an earlier one in the folder."""

    @pytest.fixture
    def make_submitter(self, tmp_path: Path, context: SubmitterContext) -> MakeSubmitter:
        return lambda: FakeSubmitter(FakeSettings(folder=tmp_path / "platform", **FOLLOWED), context)

    @pytest.fixture
    def end_job(self, tmp_path: Path, context: SubmitterContext) -> EndJob:
        return lambda job, outputs: end(
            FakeSubmitter(FakeSettings(folder=tmp_path / "platform"), context), job, outputs
        )

    @pytest.fixture
    def on_platform(self, tmp_path: Path, context: SubmitterContext) -> OnPlatform:
        folder = tmp_path / "platform"

        def look() -> Sequence[PlatformRecord]:
            reader = FakeSubmitter(FakeSettings(folder=folder), context)
            reader.open()
            return [fake_record(job, folder) for job in reader.jobs.values()]

        return look


class TestFakeInMemory(BaseSubmitterTests):
    """The submitter is also the platform, so the tests use a single object."""

    large_upload_bytes = None

    @pytest.fixture
    def fake(self, context: SubmitterContext) -> FakeSubmitter:
        return FakeSubmitter(FakeSettings(**FOLLOWED), context)

    @pytest.fixture
    def end_job(self, fake: FakeSubmitter) -> EndJob:
        return lambda job, outputs: end(fake, job, outputs)

    @pytest.fixture
    def make_submitter(self, fake: FakeSubmitter) -> MakeSubmitter:
        return lambda: fake

    @pytest.fixture
    def on_platform(self, fake: FakeSubmitter) -> OnPlatform:
        return lambda: [fake_record(job, None) for job in fake.jobs.values()]


# --- the Clara Platform -----------------------------------------------------------------------------------------------


class Clara(BaseSubmitterTests):
    """Common fixtures for both protocols."""

    pipeline_id = 32 * "a"
    unknown_pipeline_id = "not-an-id"

    @pytest.fixture(autouse=True)
    def jobs_run_until_they_are_stopped(self, platform_emulator: PlatformEmulator) -> None:
        platform_emulator.platform.jobs.set_run(RunPlan(seconds=None))

    @pytest.fixture
    def end_job(self, platform_emulator: PlatformEmulator) -> EndJob:
        platform = platform_emulator.platform

        def end_job(job: Job, outputs: Mapping[str, bytes] | None) -> None:
            for name, content in (outputs or {}).items():
                platform.payloads.add_output(job.platform_payload_id, f"operators/writer/{name}", content)
            status = ClaraJobStatus.FAULTED if outputs is None else ClaraJobStatus.HEALTHY
            platform.jobs.finish(job.platform_job_id, status)

        return end_job

    @pytest.fixture
    def on_platform(self, platform_emulator: PlatformEmulator) -> OnPlatform:
        platform = platform_emulator.platform

        def content(payload_id: str, name: str) -> bytes:
            with platform.payloads.download(payload_id, name)[1] as file:
                return file.read()

        def look() -> Sequence[PlatformRecord]:
            return [
                PlatformRecord(
                    platform_job_id=job.job_id,
                    metadata=job.metadata,
                    files=[
                        content(job.payload_id, file.name) for file in platform.payloads.details(job.payload_id).files
                    ],
                    started=job.started is not None,
                    cancelled=(job.state, job.status) == (ClaraJobState.STOPPED, ClaraJobStatus.CANCELED),
                )
                for job in platform.jobs.list()
            ]

        return look


class TestClaraGrpc(Clara):
    """`clara-grpc` and the emulator."""

    @pytest.fixture
    def make_submitter(self, platform_emulator: PlatformEmulator, context: SubmitterContext) -> MakeSubmitter:
        settings = ClaraGrpcSettings(endpoint=platform_emulator.grpc, deadline=SECONDS, delete_payloads=True)
        return lambda: ClaraGrpcSubmitter(settings, context)

    @pytest.fixture
    def unreachable(self, closed_port: int, context: SubmitterContext) -> MakeSubmitter:
        settings = ClaraGrpcSettings(endpoint=f"127.0.0.1:{closed_port}", deadline=SECONDS)
        return lambda: ClaraGrpcSubmitter(settings, context)


class TestClaraRest(Clara):
    """`clara-rest` and the emulator."""

    @pytest.fixture
    def make_submitter(self, platform_emulator: PlatformEmulator, context: SubmitterContext) -> MakeSubmitter:
        settings = ClaraRestSettings(endpoint=platform_emulator.rest, timeout=SECONDS, delete_payloads=True)
        return lambda: ClaraRestSubmitter(settings, context)

    @pytest.fixture
    def unreachable(self, closed_port: int, context: SubmitterContext) -> MakeSubmitter:
        settings = ClaraRestSettings(endpoint=f"http://127.0.0.1:{closed_port}", timeout=SECONDS)
        return lambda: ClaraRestSubmitter(settings, context)
