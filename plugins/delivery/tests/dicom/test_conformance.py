"""`dicom` passes the conformance suite for submitters.

A DICOM node knows instances and no jobs. The jobs of the suite's platform are those that the submitter was called for;
their files are those that have arrived at the node.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
from attrs import define, evolve, field

from dicom_adapter import Job, PlatformJob, Retriable, Submitter, SubmitterContext, Upload
from dicom_adapter.testing import BaseSubmitterTests, PlatformRecord
from dicom_adapter.testing.submitter_jobs import PATIENT_ID, JobSteps, make_upload
from dicom_adapter_delivery.dicom_settings import DicomSettings
from dicom_adapter_delivery.dicom_submitter import DicomSubmitter

from .conftest import ScriptedNode

MakeSubmitter = Callable[[], Submitter[Any]]
OnPlatform = Callable[[], Sequence[PlatformRecord]]
HEADER = bytes(128) + b"DICM\x02\x00\x00\x00UL\x04\x00" + bytes(4)  # File Meta Information without elements
PIECE_BYTES = 1 << 16


class WithHeader(io.RawIOBase):
    """A file of the suite as the data set of a Part 10 file."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._header = io.BytesIO(HEADER)
        self._file = file

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        return self._header.read(size) or self._file.read(-1 if size is None else size)


@define
class DeliveredJob:
    """A job for which the submitter was called."""

    job_id: str
    metadata: Mapping[str, str] = field(factory=dict)
    uploads: dict[int, tuple[bytes, str]] = field(factory=dict)  # first bytes and SHA-256 by position
    started: bool = False
    cancelled: bool = False


class WatchedDicomSubmitter(DicomSubmitter):
    """The submitter; it also notes its successful calls in `called`."""

    called: dict[str, DeliveredJob]

    def create_job(self, job: Job) -> PlatformJob:
        created = super().create_job(job)
        self.called.setdefault(job.job_id, DeliveredJob(created.job_id))
        return created

    def add_metadata(self, job: Job, metadata: Mapping[str, str]) -> None:
        super().add_metadata(job, metadata)
        self.called[job.job_id].metadata = metadata

    def upload(self, job: Job, upload: Upload) -> None:
        def opened() -> BinaryIO:
            return cast(BinaryIO, WithHeader(upload.open()))

        super().upload(job, evolve(upload, open=opened, size_bytes=upload.size_bytes + len(HEADER)))
        digest = hashlib.sha256()
        with upload.open() as source:
            first = source.read(PIECE_BYTES)
            digest.update(first)
            while piece := source.read(PIECE_BYTES):
                digest.update(piece)
        self.called[job.job_id].uploads[upload.position] = (first, digest.hexdigest())

    def start(self, job: Job) -> None:
        super().start(job)
        self.called[job.job_id].started = True

    def cancel(self, job: Job) -> None:
        super().cancel(job)
        if job.job_id in self.called:
            self.called[job.job_id].cancelled = True


class TestDicom(BaseSubmitterTests):
    """One node for all submitters of a test."""

    large_upload_bytes = None  # the node would need the memory; test_products.py has a test of a large instance

    @pytest.fixture
    def called(self) -> dict[str, DeliveredJob]:
        return {}

    @pytest.fixture
    def checksums(self, node: ScriptedNode) -> set[str]:
        """The checksums of the data sets that have arrived at the node."""
        checksums: set[str] = set()

        def answer(event: Any) -> int:
            checksums.add(hashlib.sha256(event.request.DataSet.getvalue()).hexdigest())
            return 0

        node.answer = answer
        return checksums

    @pytest.fixture
    def make_submitter(  # type: ignore[override] # the fixture of the other tests has parameters
        self, node: ScriptedNode, checksums: set[str], called: dict[str, DeliveredJob], tmp_path: Path
    ) -> MakeSubmitter:
        context = SubmitterContext(name="suite", data_folder=tmp_path / "submitter")

        def make() -> Submitter[Any]:
            settings = DicomSettings(host="127.0.0.1", port=node.port, ae_title="PACS", associations=2)
            submitter = WatchedDicomSubmitter(settings, context)
            submitter.called = called
            return submitter

        return make

    @pytest.fixture
    def connect(self, make_submitter: MakeSubmitter) -> Any:
        """A factory of open submitters, as in the suite: the fixture of the other tests has parameters."""
        opened: list[Submitter[Any]] = []

        def make() -> Submitter[Any]:
            opened.append(make_submitter())
            opened[-1].open()
            return opened[-1]

        yield make
        for submitter in opened:
            submitter.close()

    @pytest.fixture
    def unreachable(self, tmp_path: Path, unused_port: int) -> MakeSubmitter:
        settings = DicomSettings(host="127.0.0.1", port=unused_port, ae_title="PACS")
        return lambda: DicomSubmitter(settings, SubmitterContext(name="suite", data_folder=tmp_path / "submitter"))

    @pytest.fixture
    def on_platform(self, checksums: set[str], called: dict[str, DeliveredJob]) -> OnPlatform:
        def look() -> Sequence[PlatformRecord]:
            return [
                PlatformRecord(
                    platform_job_id=job.job_id,
                    metadata=job.metadata,
                    files=[first for _, (first, checksum) in sorted(job.uploads.items()) if checksum in checksums],
                    started=job.started,
                    cancelled=job.cancelled,
                )
                for job in called.values()
            ]

        return look

    def test_cancelled_job_does_not_start(self, submitter: Submitter[Any], steps: JobSteps) -> None:
        """Nothing runs on a DICOM node, and instances that it has stored stay there: both calls do nothing."""
        steps.create(submitter)
        submitter.cancel(steps.job)
        steps.start(submitter)

    @pytest.mark.parametrize("step", ["upload"])
    def test_unreachable_platform_is_a_retriable_error(
        self, unreachable: MakeSubmitter, steps: JobSteps, step: str
    ) -> None:
        """Only `upload` calls the node."""
        submitter = unreachable()
        submitter.open()
        steps.create(submitter)
        content = HEADER + b"an instance"
        with pytest.raises(Retriable, match="cannot be reached: connection refused") as raised:
            steps.upload(submitter, make_upload(0, content))
        submitter.close()
        assert PATIENT_ID not in str(raised.value)
