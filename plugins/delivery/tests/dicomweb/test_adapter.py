"""The whole adapter with `dicomweb` as its submitter, on a virtual clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import dcmread

from dicom_adapter import JobState
from dicom_adapter.testing import Adapter, make_study
from support.stow_server import Answer, SeenRequest, StowServer, failed, stored

HOUR_S = 3600


@pytest.fixture
def adapter_configuration(server: StowServer) -> str:
    return f"""
        [submitters.archive]
        type = "dicomweb"
        url = "{server.url}"
        retry-for = 604800

        [ae-titles.ROUTER.settings]
        group-by = "study"
        timeout = 5
        pipeline-archive = "archive"
    """


def uids(study: list[Dataset]) -> list[str]:
    return sorted(str(instance.SOPInstanceUID) for instance in study)


def uid_of(request: SeenRequest) -> str:
    return str(dcmread(DicomBytesIO(request.part)).SOPInstanceUID)


class Archive:
    """What the server has stored. `refuse` returns the failure reason for an instance, or None."""

    def __init__(self, server: StowServer) -> None:
        self.stored: list[str] = []
        self.is_up = True
        self.refuse: Callable[[str], int | None] = lambda _uid: None
        server.answer = self._answer

    def _answer(self, request: SeenRequest) -> Answer:
        if not self.is_up:
            return Answer(status=503, headers={"Retry-After": "3600"})
        uid = uid_of(request)
        reason = self.refuse(uid)
        if reason is not None:
            return Answer(status=409, body=failed(uid, reason))
        self.stored.append(uid)
        return Answer(body=stored(uid))


@pytest.fixture
def archive(server: StowServer) -> Archive:
    return Archive(server)


def test_server_that_is_down_for_hours_receives_everything_once(adapter: Adapter, archive: Archive) -> None:
    archive.is_up = False
    studies = [make_study(instances=3) for _number in range(4)]
    for number, study in enumerate(studies):
        adapter.receive(*study, at=number * HOUR_S / 2)
    adapter.advance(HOUR_S / 2)
    assert {JobState.METADATA_SENT} == {job.state for job in adapter.jobs}
    assert any("503 Service Unavailable; it asks to retry after 3600 s" in job.last_error for job in adapter.jobs)
    archive.is_up = True
    adapter.advance(10 * 60)
    assert {JobState.SUBMITTED} == {job.state for job in adapter.jobs}
    assert sorted(uid for study in studies for uid in uids(study)) == sorted(archive.stored)


def test_only_missing_instances_are_sent_again(adapter: Adapter, archive: Archive) -> None:
    """The server stores 70 of 100 instances, and then has no space for some minutes."""
    archive.refuse = lambda _uid: 0xA700 if len(archive.stored) >= 70 else None
    study = make_study(instances=100)
    adapter.receive(*study)
    adapter.advance(5 * 60)
    [job] = adapter.jobs
    assert (JobState.METADATA_SENT, 70) == (job.state, len(archive.stored))
    assert "0xA700 (out of resources)" in job.last_error
    archive.refuse = lambda _uid: None
    adapter.advance(10 * 60)
    assert [JobState.SUBMITTED] == [job.state for job in adapter.jobs]
    assert uids(study) == sorted(archive.stored)


def test_refused_instance_faults_the_job_and_the_others_are_delivered(adapter: Adapter, archive: Archive) -> None:
    """The error of the job contains the reason."""
    study = make_study(instances=30)
    bad = str(study[10].SOPInstanceUID)
    archive.refuse = lambda uid: 0x0122 if uid == bad else None
    adapter.receive(*study)
    adapter.advance(60)
    [job] = adapter.jobs
    assert JobState.FAULTED is job.state
    assert "failure reason 0x0122 (SOP class not supported)" in job.last_error
    assert sorted(set(uids(study)) - {bad}) == sorted(archive.stored)
