"""`dicomweb` passes the conformance suite for submitters.

A DICOMweb server knows instances and no jobs. The jobs of the suite's platform are those that the submitter was called
for; their files are those that have arrived at the server.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from dicom_adapter import Job, Permanent, PlatformJob, Retriable, Submitter, SubmitterContext, Upload
from dicom_adapter.testing import BaseSubmitterTests, PlatformRecord
from dicom_adapter.testing.submitter_jobs import PATIENT_ID, JobSteps, make_job, make_upload
from dicom_adapter_delivery.dicomweb_settings import DicomwebSettings
from dicom_adapter_delivery.dicomweb_submitter import DicomwebSubmitter
from support.stow_server import Answer, StowServer, serving

MakeSubmitter = Callable[[], Submitter[Any]]
OnPlatform = Callable[[], Sequence[PlatformRecord]]
PIECE_BYTES = 1 << 16


@define
class CalledJob:
    """A job for which the submitter was called."""

    job_id: str
    metadata: Mapping[str, str] = field(factory=dict)
    uploads: dict[int, bytes] = field(factory=dict)  # the first bytes by position
    checksums: dict[int, str] = field(factory=dict)  # SHA-256 by position
    started: bool = False
    cancelled: bool = False


class WatchedSubmitter(DicomwebSubmitter):
    """The submitter; it also notes its successful calls in `called`."""

    called: dict[str, CalledJob]

    def create_job(self, job: Job) -> PlatformJob:
        created = super().create_job(job)
        self.called.setdefault(job.job_id, CalledJob(created.job_id))
        return created

    def add_metadata(self, job: Job, metadata: Mapping[str, str]) -> None:
        super().add_metadata(job, metadata)
        self.called[job.job_id].metadata = metadata

    def upload(self, job: Job, upload: Upload) -> None:
        super().upload(job, upload)
        digest = hashlib.sha256()
        with upload.open() as source:
            first = source.read(PIECE_BYTES)
            digest.update(first)
            while piece := source.read(PIECE_BYTES):
                digest.update(piece)
        self.called[job.job_id].uploads[upload.position] = first
        self.called[job.job_id].checksums[upload.position] = digest.hexdigest()

    def start(self, job: Job) -> None:
        super().start(job)
        self.called[job.job_id].started = True

    def cancel(self, job: Job) -> None:
        super().cancel(job)
        if job.job_id in self.called:
            self.called[job.job_id].cancelled = True


class TestDicomweb(BaseSubmitterTests):
    """One server for all submitters of a test."""

    @pytest.fixture
    def server(self) -> Iterator[StowServer]:
        server = StowServer()
        server.answer = lambda request: Answer(body=[] if request.method == "GET" else b"")
        yield from serving(server)

    @pytest.fixture
    def called(self) -> dict[str, CalledJob]:
        return {}

    @pytest.fixture
    def context(self, tmp_path: Path) -> SubmitterContext:
        return SubmitterContext(name="suite", data_folder=tmp_path / "submitter")

    @pytest.fixture
    def make_submitter(
        self, server: StowServer, called: dict[str, CalledJob], context: SubmitterContext
    ) -> MakeSubmitter:
        def make() -> Submitter[Any]:
            submitter = WatchedSubmitter(DicomwebSettings(url=server.url), context)
            submitter.called = called
            return submitter

        return make

    @pytest.fixture
    def unreachable(self, context: SubmitterContext) -> MakeSubmitter:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            closed_port = listener.getsockname()[1]
        return lambda: DicomwebSubmitter(DicomwebSettings(url=f"http://127.0.0.1:{closed_port}"), context)

    @pytest.fixture
    def on_platform(self, server: StowServer, called: dict[str, CalledJob]) -> OnPlatform:
        def look() -> Sequence[PlatformRecord]:
            return [
                PlatformRecord(
                    platform_job_id=job.job_id,
                    metadata=job.metadata,
                    files=[
                        job.uploads[place] for place in sorted(job.uploads) if job.checksums[place] in server.checksums
                    ],
                    started=job.started,
                    cancelled=job.cancelled,
                )
                for job in called.values()
            ]

        return look

    def test_cancelled_job_does_not_start(self, submitter: Submitter[Any], steps: JobSteps) -> None:
        """Nothing runs on a DICOMweb server, and instances that it has stored stay there: both calls do nothing."""
        steps.create(submitter)
        submitter.cancel(steps.job)
        steps.start(submitter)

    @pytest.mark.parametrize("step", ["upload"])
    def test_unreachable_platform_is_a_retriable_error(
        self, unreachable: MakeSubmitter, steps: JobSteps, step: str
    ) -> None:
        """Only `upload` calls the server."""
        submitter = unreachable()
        submitter.open()
        steps.create(submitter)
        with pytest.raises(Retriable, match="no connection to the server") as raised:
            steps.upload(submitter, make_upload(0, b"an instance"))
        submitter.close()
        assert PATIENT_ID not in str(raised.value)

    def test_incomplete_upload_is_not_confirmed(self, submitter: Submitter[Any], server: StowServer) -> None:
        """A file that is shorter or longer than recorded never becomes a complete request."""
        job = make_job(3, self.pipeline_id)
        for recorded in (3, 5, 0):
            with pytest.raises(Permanent, match=r"has .* bytes where"):
                submitter.upload(job, make_upload(0, b"four", size_bytes=recorded))
        assert set() == server.checksums
