"""Storage commitment: requests, reports on the same or another association, failures, restarts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from pydicom.dataset import Dataset

from dicom_adapter import Job, Permanent, PlatformStatus, Retriable, Upload
from dicom_adapter.testing.submitter_jobs import make_job
from dicom_adapter_delivery.dicom_commitment import COMMITMENT, WELL_KNOWN_INSTANCE
from dicom_adapter_delivery.dicom_submitter import DicomSubmitter

from .conftest import ScriptedNode, StartNode, uploads_of_study

Connect = Callable[..., DicomSubmitter]
JOB = make_job(1, "results", instance_count=3)
MAX_S = 30.0  # time limit for a job to end


def report_of(request: Dataset, failed: dict[str, int]) -> tuple[Dataset, int]:
    """Return the data set of a report, and its event type."""
    report = Dataset()
    report.TransactionUID = request.TransactionUID
    report.ReferencedSOPSequence, report.FailedSOPSequence = [], []
    for item in request.ReferencedSOPSequence:
        if item.ReferencedSOPInstanceUID in failed:
            item.FailureReason = failed[item.ReferencedSOPInstanceUID]
            report.FailedSOPSequence.append(item)
        else:
            report.ReferencedSOPSequence.append(item)
    if not failed:
        del report.FailedSOPSequence
    return report, 2 if failed else 1


class CommittingNode(ScriptedNode):
    """A node that reports on the association of the request."""

    def __init__(self) -> None:
        super().__init__(with_commitment=True)
        self.failed: dict[str, int] = {}  # failure reasons by SOP Instance UID
        self.is_silent = False
        self.status = 0
        self.requests: list[Dataset] = []
        self.replies: list[Any] = []

    def act(self, event: Any) -> tuple[int, None]:
        request = event.action_information
        self.requests.append(request)
        if not self.is_silent and not self.status:
            threading.Thread(target=self._report, args=(event.assoc, request)).start()
        return self.status, None

    def _report(self, association: Any, request: Dataset) -> None:
        time.sleep(0.1)  # after the response
        report, kind = report_of(request, self.failed)
        self.replies.append(
            association.send_n_event_report(report, kind, COMMITMENT.sop_class_uid, WELL_KNOWN_INSTANCE)[0]
        )


@pytest.fixture
def committing() -> Any:
    node = CommittingNode()
    yield node
    node.close()


@pytest.fixture
def uploads() -> list[Upload]:
    return uploads_of_study(3)


def delivered(submitter: DicomSubmitter, uploads: list[Upload], job: Job = JOB) -> Job:
    """Upload the instances and start the job. Return the job."""
    for upload in uploads:
        submitter.upload(job, upload)
    submitter.start(job)
    return job


def end_of(submitter: DicomSubmitter, job: Job) -> PlatformStatus:
    """Wait for the end of the job. Return its last status."""
    end = time.monotonic() + MAX_S
    while not (status := submitter.status(job)).finished:
        assert time.monotonic() < end, status
        time.sleep(0.05)
    return status


def test_job_succeeds_when_all_instances_are_committed(
    committing: CommittingNode, connect: Connect, uploads: list[Upload], tmp_path: Path
) -> None:
    submitter = connect(committing.port, storage_commitment=True)
    assert submitter.follows_jobs
    job = delivered(submitter, uploads)
    assert (True, True) == ((status := end_of(submitter, job)).finished, status.succeeded)
    [request] = committing.requests
    assert {upload.instance.sop_instance_uid for upload in uploads} == {
        item.ReferencedSOPInstanceUID for item in request.ReferencedSOPSequence
    }
    assert [0] == [reply.Status for reply in committing.replies]
    submitter.clean_up(job)
    assert [] == list((tmp_path / "submitters" / "pacs" / "commitment").iterdir())


def test_report_survives_a_restart(committing: CommittingNode, connect: Connect, uploads: list[Upload]) -> None:
    first = connect(committing.port, storage_commitment=True)
    job = delivered(first, uploads)
    first.close()
    again = connect(committing.port, storage_commitment=True)
    again.start(evolve(job, repeated=True))  # the result of `start` was lost in a crash
    assert end_of(again, job).succeeded
    assert 1 == len(committing.requests), "committed instances are not requested again"


def test_instance_that_is_not_committed_fails_the_job_with_the_reason(
    committing: CommittingNode, connect: Connect, uploads: list[Upload]
) -> None:
    uid = uploads[1].instance.sop_instance_uid
    committing.failed = {uid: 0x0122}
    submitter = connect(committing.port, storage_commitment=True)
    status = end_of(submitter, delivered(submitter, uploads))
    assert status.succeeded is False
    assert f"instance {uid} is not committed: 0x0122 (SOP class not supported)" == status.detail


def test_next_run_deletes_the_files_of_the_failed_run(
    committing: CommittingNode, connect: Connect, uploads: list[Upload], tmp_path: Path
) -> None:
    """`clean_up` is called for the last run only. Verified to fail without the deletion in `create_job`."""
    committing.failed = {uploads[1].instance.sop_instance_uid: 0x0122}
    submitter = connect(committing.port, storage_commitment=True)
    job = delivered(submitter, uploads)
    submitter.create_job(evolve(job, run=2))
    assert [] == list((tmp_path / "submitters" / "pacs" / "commitment").iterdir())


def test_instance_that_the_node_does_not_have_yet_is_waited_for(
    committing: CommittingNode, connect: Connect, uploads: list[Upload]
) -> None:
    """Some nodes store an instance after their response. After `commitment-repeat`, the job fails."""
    committing.failed = {uploads[0].instance.sop_instance_uid: 0x0112}
    submitter = connect(committing.port, storage_commitment=True)
    job = delivered(submitter, uploads)
    assert not submitter.status(job).finished
    impatient = connect(committing.port, storage_commitment=True, commitment_repeat=1)
    started = evolve(job, started_at=JOB.created_at)
    time.sleep(1)
    assert "0x0112 (no such SOP instance)" in end_of(impatient, started).detail


def test_request_without_a_report_is_repeated(
    committing: CommittingNode, connect: Connect, uploads: list[Upload]
) -> None:
    committing.is_silent = True
    submitter = connect(committing.port, storage_commitment=True, commitment_wait=0.1, commitment_repeat=1)
    job = delivered(submitter, uploads)
    assert "waiting for storage commitment" == submitter.status(job).state
    committing.is_silent = False
    patient = connect(committing.port, storage_commitment=True, commitment_repeat=1)
    assert end_of(patient, job).succeeded
    first, second = committing.requests
    assert first.TransactionUID != second.TransactionUID


@pytest.mark.parametrize(("status", "error"), [(0x0213, Retriable), (0x0124, Permanent)])
def test_refused_request_has_the_status(
    committing: CommittingNode, connect: Connect, uploads: list[Upload], status: int, error: type[Exception]
) -> None:
    committing.status = status
    with pytest.raises(error, match=f"the request for storage commitment with 0x{status:04X}"):
        delivered(connect(committing.port, storage_commitment=True), uploads)


def test_node_without_storage_commitment_is_a_permanent_error(
    node: ScriptedNode, connect: Connect, uploads: list[Upload]
) -> None:
    with pytest.raises(Permanent, match=r"does not accept Storage Commitment .*; set storage-commitment = false"):
        delivered(connect(node.port, storage_commitment=True), uploads)


def test_port_of_the_listener_in_use_is_named(make_submitter: Connect, node: ScriptedNode) -> None:
    submitter = make_submitter(104, storage_commitment=True, commitment_port=node.port, commitment_bind="127.0.0.1")
    with pytest.raises(Retriable, match=f"commitment-port {node.port} at 127.0.0.1 cannot be used: "):
        submitter.open()


def test_port_needs_storage_commitment(make_submitter: Connect) -> None:
    with pytest.raises(ValueError, match="commitment-port needs storage-commitment"):
        make_submitter(104, commitment_port=11113)


@pytest.mark.orthanc
def test_orthanc_reports_on_an_association_of_its_own(
    orthanc: StartNode, connect: Connect, uploads: list[Upload], unused_port: int
) -> None:
    """Orthanc knows the address of the adapter from its configuration."""
    modality = {"AET": "DICOM-ADAPTER", "Host": "127.0.0.1", "Port": unused_port}
    with orthanc(DicomModalities={"adapter": modality}) as running:
        submitter = connect(
            running.port,
            storage_commitment=True,
            commitment_port=unused_port,
            commitment_bind="127.0.0.1",
            commitment_wait=0,
        )
        assert end_of(submitter, delivered(submitter, uploads)).succeeded
        incomplete = make_job(2, "results", instance_count=4)
        missing = uploads_of_study(1)[0].instance
        submitter._commitment.record_delivery(incomplete, missing)  # an instance that was never sent
        job = delivered(submitter, uploads, incomplete)
        end = time.monotonic() + MAX_S
        while not (status := submitter.status(job)).detail:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert f"{missing.sop_instance_uid} is not committed: 0x0112" in status.detail
