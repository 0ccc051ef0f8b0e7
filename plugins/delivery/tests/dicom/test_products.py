"""Deliveries to real DICOM nodes: DCMTK's storescp and Orthanc."""

from __future__ import annotations

import subprocess
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import receive_products
from pydicom import dcmread

from dicom_adapter import Retriable, Upload
from dicom_adapter.testing.submitter_jobs import Zeros, make_job, make_upload
from dicom_adapter_delivery.dicom_submitter import DicomSubmitter

from .conftest import StartNode, uploads_of_study

JOB = make_job(1, "results")
Connect = Callable[..., DicomSubmitter]


def data_sets(files: list[bytes]) -> list[bytes]:
    """Return the encoded data sets of Part 10 files, sorted."""
    return sorted(content[144 + int.from_bytes(content[140:144], "little") :] for content in files)


@pytest.mark.dcmtk
@pytest.mark.parametrize("associations", [1, 4])
def test_storescp_has_each_data_set_bit_for_bit(
    storescp: StartNode, connect: Connect, tmp_path: Path, associations: int
) -> None:
    """`+B` writes each data set as it arrives. The data sets of the uploads and of the written files are equal."""
    uploads = uploads_of_study(30, rows=300, columns=301)
    with storescp("+B", "--fork") as node:
        submitter = connect(node.port, associations=associations)
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda upload: submitter.upload(JOB, upload), uploads))
        submitter.close()
    written = [path.read_bytes() for path in (tmp_path / "scp" / "store").iterdir()]
    assert data_sets([upload.open().read() for upload in uploads]) == data_sets(written)


@pytest.mark.dcmtk
@pytest.mark.parametrize("option", ["--abort-after", "--abort-during"])
def test_upload_that_storescp_aborts_is_retried(storescp: StartNode, connect: Connect, option: str) -> None:
    with storescp(option, "--fork") as node:
        submitter = connect(node.port)
        with pytest.raises(Retriable, match=r"PACS@127\.0\.0\.1:\d+: the association was lost: it "):
            submitter.upload(JOB, uploads_of_study(1, rows=512, columns=512)[0])


@pytest.mark.dcmtk
def test_association_that_storescp_rejects_is_retried_with_the_reason(
    storescp: StartNode, connect: Connect, unused_port: int, tmp_path: Path
) -> None:
    """`storescp --refuse` rejects each association with the result "permanent". An operator can correct the cause."""
    command = [str(receive_products.find_dcmtk()), "--refuse", str(unused_port)]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        try:
            with pytest.raises(Retriable, match=r"rejected the association: no reason given \(permanent\)"):
                upload_when_it_listens(connect(unused_port, connect_timeout=5), uploads_of_study(1)[0])
        finally:
            process.terminate()


def upload_when_it_listens(submitter: DicomSubmitter, upload: Upload) -> None:
    """Upload to a node that has just been started."""
    end = time.monotonic() + 20
    while True:
        try:
            submitter.upload(JOB, upload)
            return
        except Retriable as failure:
            if "connection refused" not in str(failure) or time.monotonic() > end:
                raise
            time.sleep(0.1)


@pytest.mark.orthanc
def test_orthanc_has_all_instances(orthanc: StartNode, connect: Connect, tmp_path: Path) -> None:
    uploads = uploads_of_study(10)
    with orthanc() as node:
        submitter = connect(node.port)
        assert "answers the C-ECHO" in submitter.check_connection()
        for upload in uploads * 2:  # the second time, Orthanc already has the instances
            submitter.upload(JOB, upload)
        submitter.close()
    store = tmp_path / "orthanc" / "store"
    stored = [path for path in store.rglob("*") if path.is_file() and path.read_bytes()[128:132] == b"DICM"]
    assert {upload.instance.sop_instance_uid for upload in uploads} == {
        dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in stored
    }


@pytest.mark.orthanc
def test_association_that_orthanc_rejects_is_retried_with_the_reason(orthanc: StartNode, connect: Connect) -> None:
    """An operator corrects the AE title here or in the PACS, and the job continues."""
    with orthanc(DicomCheckCalledAet=True, DicomAet="BENCH") as node:
        submitter = connect(node.port, ae_title="WRONG")
        with pytest.raises(
            Retriable, match=r"WRONG@.* rejected the association: called AE title not recognized \(perm"
        ):
            submitter.upload(JOB, uploads_of_study(1)[0])


@pytest.mark.dcmtk
def test_large_instance_needs_little_memory(storescp: StartNode, connect: Connect, tmp_path: Path) -> None:
    """Instances may be larger than the memory: they are read and sent in pieces."""
    header = uploads_of_study(1)[0].open().read()[:144]
    header = header[:140] + bytes(4)  # File Meta Information without elements
    size = 64 << 20

    class Large(Zeros):
        def readinto(self, buffer: memoryview) -> int:
            count = super().readinto(buffer)
            if self.is_first:
                self.is_first = False
                buffer[: len(header)] = header
            return count

        is_first = True

    upload = make_upload(0, size_bytes=size, open=lambda: Large(size))
    with storescp("+B", "--fork") as node:
        submitter = connect(node.port)
        tracemalloc.start()
        try:
            submitter.upload(JOB, upload)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 8 << 20
