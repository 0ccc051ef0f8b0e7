"""`dicomweb` with a real Orthanc and its DICOMweb plugin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_adapter import Job, Permanent, Secret, Upload
from dicom_adapter.testing import Adapter, make_study, write
from dicom_adapter.testing.submitter_jobs import make_job, make_upload
from dicom_adapter_delivery.dicomweb_submitter import DicomwebSubmitter
from support.orthanc_archive import PASSWORD, USER, OrthancArchive, orthanc_archive

pytestmark = pytest.mark.orthanc
Connect = Callable[..., DicomwebSubmitter]
JOB: Job = make_job(1, "results")
CREDENTIALS: dict[str, Any] = {"user": USER, "password": Secret(PASSWORD)}


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[OrthancArchive]:
    yield from orthanc_archive(tmp_path / "orthanc")


@pytest.fixture
def archive(orthanc: OrthancArchive, connect: Connect) -> DicomwebSubmitter:
    return connect(orthanc.url, **CREDENTIALS)


def upload_of(data_set: Dataset, folder: Path, position: int = 0) -> Upload:
    path = folder / f"{position}.dcm"
    write(data_set, path)
    upload = make_upload(position, path.read_bytes(), sop_instance_uid=data_set.SOPInstanceUID)
    instance = evolve(
        upload.instance,
        study_instance_uid=data_set.StudyInstanceUID,
        series_instance_uid=data_set.SeriesInstanceUID,
    )
    return evolve(upload, instance=instance)


def test_instances_arrive_unchanged_and_once(
    orthanc: OrthancArchive, archive: DicomwebSubmitter, tmp_path: Path
) -> None:
    """Orthanc returns exactly the files that were sent, also when each is sent twice."""
    uploads = [upload_of(data_set, tmp_path, place) for place, data_set in enumerate(make_study(instances=5))]
    for upload in uploads * 2:
        archive.upload(JOB, upload)
    assert {upload.open().read() for upload in uploads} == set(orthanc.instances())
    assert len(uploads) == len(orthanc.instances())


@pytest.mark.parametrize("content", [b"no DICOM", b""], ids=["text", "empty"])
def test_instance_that_orthanc_cannot_read_is_refused(
    orthanc: OrthancArchive, archive: DicomwebSubmitter, content: bytes
) -> None:
    """Orthanc answers 400 without a reason."""
    with pytest.raises(Permanent, match="the server answered 400 Bad Request"):
        archive.upload(JOB, make_upload(0, content))
    assert [] == orthanc.instances()


def test_check_changes_nothing(orthanc: OrthancArchive, archive: DicomwebSubmitter) -> None:
    assert f"{orthanc.url} answers" == archive.check_connection()
    assert [] == orthanc.instances()


def test_wrong_password_is_reported(orthanc: OrthancArchive, connect: Connect, tmp_path: Path) -> None:
    archive = connect(orthanc.url, user=USER, password=Secret("wrong"))
    with pytest.raises(Permanent, match="401 Unauthorized; check token"):
        archive.check_connection()
    with pytest.raises(Permanent, match="401 Unauthorized; check token"):
        archive.upload(JOB, upload_of(make_study(instances=1)[0], tmp_path))


def test_wrong_path_is_reported(orthanc: OrthancArchive, connect: Connect, tmp_path: Path) -> None:
    archive = connect(orthanc.url.replace("dicom-web", "wrong"), **CREDENTIALS)
    with pytest.raises(Permanent, match="check that url is the base of the server's DICOMweb service"):
        archive.check_connection()
    with pytest.raises(Permanent, match="check that url is the base of the server's DICOMweb service"):
        archive.upload(JOB, upload_of(make_study(instances=1)[0], tmp_path))


def test_adapter_forwards_a_study_to_orthanc(
    orthanc: OrthancArchive, make_adapter: Callable[..., Adapter], tmp_path: Path
) -> None:
    """An AE title whose submitter is `dicomweb` is a router."""
    (tmp_path / "password").write_text(PASSWORD)
    adapter = make_adapter(f"""
        [submitters.archive]
        type = "dicomweb"
        url = "{orthanc.url}"
        user = "{USER}"
        password = {{ file = "password" }}

        [ae-titles.ROUTER.settings]
        group-by = "study"
        timeout = 5
        pipeline-archive = "archive"
    """)
    study = make_study(instances=3)
    adapter.receive(*study)
    adapter.advance(30)
    assert ["submitted"] == [job.state.value for job in adapter.jobs]
    arrived = {dcmread(BytesIO(content)).SOPInstanceUID for content in orthanc.instances()}
    assert {data_set.SOPInstanceUID for data_set in study} == arrived
