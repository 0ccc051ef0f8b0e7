"""Uploads of the `clara-grpc` submitter: complete or not at all, replaced if repeated, with little memory."""

from __future__ import annotations

import re
import resource
import tracemalloc
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
from attrs import evolve
from grpc import StatusCode

from dicom_adapter import ByteSize, Job, Permanent, Retriable, StoredObjectMissing
from dicom_adapter_clara_client.emulator.faults import CallFaultKind
from dicom_adapter_clara_client.grpc_submitter import ClaraGrpcSubmitter
from dicom_adapter_clara_client.wire.common_pb2 import ResponseHeader
from dicom_adapter_clara_client.wire.payloads_pb2 import (
    PayloadFileDetails,
    PayloadsDetailsResponse,
    PayloadsUploadRequest,
    PayloadsUploadResponse,
)

Make = Callable[..., Any]
MIB = 1 << 20
NAME = "dcm/000000-1.2.3.0.dcm"


class Reader(BytesIO):
    """A reader that raises an error at its end."""

    def __init__(self, data: bytes, failure: Exception) -> None:
        super().__init__(data)
        self._failure = failure

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        if not data:
            raise self._failure
        return data


@pytest.fixture
def ready(submitter: ClaraGrpcSubmitter, job: Job) -> Job:
    """Return a job that was created on the platform."""
    known = submitter.create_job(job)
    return evolve(job, platform_job_id=known.job_id, platform_payload_id=known.payload_id)


def stored(site: Any, job: Job) -> list[bytes]:
    """Return the contents of the job's files on the platform."""
    payloads = site.platform.payloads
    names = [file.name for file in payloads.details(job.platform_payload_id).files]
    return [payloads.download(job.platform_payload_id, name)[1].read() for name in names]


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 5000])
def test_a_file_is_uploaded_unchanged(size: int, site: Any, ready: Job, connect: Make, make_upload: Make) -> None:
    """The file may be empty or have one or several chunks, the last of any size."""
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    connect(site.server.address, chunk_size=ByteSize(1024)).upload(ready, make_upload(data))
    assert [data] == stored(site, ready)


def test_a_reader_with_short_reads_is_read_completely(
    site: Any, submitter: ClaraGrpcSubmitter, ready: Job, make_upload: Make
) -> None:
    """Raw files may return fewer bytes than requested."""

    class Slow(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(3)

    submitter.upload(ready, make_upload(b"a whole file", opener=lambda: Slow(b"a whole file")))
    assert [b"a whole file"] == stored(site, ready)


def test_a_repeated_upload_replaces_the_file(
    site: Any, submitter: ClaraGrpcSubmitter, ready: Job, make_upload: Make
) -> None:
    """The platform stores the instance once."""
    for _ in range(2):
        submitter.upload(evolve(ready, repeated=True), make_upload(b"data"))
    assert [b"data"] == stored(site, ready)


@pytest.mark.parametrize("listed", [NAME, f"input/{NAME}", f"/input/{NAME}"])
def test_a_refused_upload_succeeds_if_the_file_is_complete(
    listed: str, created: Job, hostile: Make, make_upload: Make
) -> None:
    """A platform that does not replace files may have the file from the first attempt, listed relative to the root."""
    file = PayloadFileDetails(name=listed, size=4)
    submitter = hostile(
        {
            "Payloads.Upload": PayloadsUploadResponse(header=ResponseHeader(code=-0x3102)),
            "Payloads.Details": lambda requests, context: [
                PayloadsDetailsResponse(file=PayloadFileDetails(name="input/dcm/other.dcm", size=4)),
                PayloadsDetailsResponse(file=file),
            ],
        }
    )
    submitter.upload(created, make_upload(b"data"))
    with pytest.raises(Retriable, match="upload of instance 41: the platform answered -0x3102"):
        submitter.upload(created, make_upload(b"other data"))
    with pytest.raises(Retriable, match="upload of instance 42: the platform answered -0x3102"):
        submitter.upload(created, make_upload(b"data", 1))


def test_a_refusal_is_raised_if_files_cannot_be_listed(created: Job, hostile: Make, make_upload: Make) -> None:
    """The error of the upload is raised if the list is refused; a temporary error of the list is retriable."""

    def refuse(requests: Any, context: Any) -> None:
        context.abort(StatusCode.ALREADY_EXISTS, "file exists")

    upload = make_upload(b"data")
    with pytest.raises(Permanent, match="upload of instance 41: the call ended with ALREADY_EXISTS: file exists"):
        hostile({"Payloads.Upload": refuse}).upload(created, upload)
    busy = PayloadsDetailsResponse(header=ResponseHeader(code=-0x3002))
    with pytest.raises(Retriable, match="upload of instance 41: the platform answered -0x3002"):
        hostile({"Payloads.Upload": refuse, "Payloads.Details": busy}).upload(created, upload)


def test_the_size_that_the_platform_returns_is_checked(created: Job, hostile: Make, make_upload: Make) -> None:
    """A wrong size may be that of a chunk; then the list of files must have the right size."""
    size = {"stored": 9}
    submitter = hostile(
        {
            "Payloads.Upload": lambda requests, context: [
                list(requests) and PayloadsUploadResponse(details=PayloadFileDetails(size=3))
            ],
            "Payloads.Details": lambda requests, context: [
                PayloadsDetailsResponse(file=PayloadFileDetails(name=NAME, size=size["stored"]))
            ],
        }
    )
    submitter.upload(created, make_upload(b"nine byte"))
    size["stored"] = 8
    with pytest.raises(Retriable, match="the platform stored 3 bytes of the file"):
        submitter.upload(created, make_upload(b"nine byte"))


def test_every_message_names_payload_and_file(created: Job, hostile: Make, make_upload: Make) -> None:
    """Each message has header, payload id and name; the size is that of the chunk, as in NVIDIA's client."""
    seen: list[PayloadsUploadRequest] = []

    def take(requests: Any, context: Any) -> list[PayloadsUploadResponse]:
        seen.extend(map(PayloadsUploadRequest.FromString, requests))
        return [PayloadsUploadResponse()]

    hostile({"Payloads.Upload": take}, chunk_size=ByteSize(1024)).upload(created, make_upload(bytes(2500)))
    assert [1024, 1024, 452] == [message.details.size for message in seen]
    assert {(6, 32 * "c", NAME, 0)} == {
        (message.header.api_version.minor, message.payload_id.value, message.details.name, message.details.mode)
        for message in seen
    }


def test_a_missing_object_raises_stored_object_missing(
    submitter: ClaraGrpcSubmitter, ready: Job, make_upload: Make
) -> None:
    """The error of opening the file is passed on to the core."""

    def missing() -> BinaryIO:
        raise StoredObjectMissing("gone")

    with pytest.raises(StoredObjectMissing, match="gone"):
        submitter.upload(ready, make_upload(opener=missing))


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (OSError(5, "disk"), Retriable("upload of instance 41: reading the stored file failed (OSError)")),
        (Permanent("it has changed"), Permanent("it has changed")),
        (Retriable("not now"), Retriable("not now")),
        (ZeroDivisionError("bug"), ZeroDivisionError("bug")),
    ],
)
@pytest.mark.parametrize("size", [0, 1000, 3 * MIB])
def test_a_file_that_cannot_be_read_completely_is_not_stored(
    size: int,
    failure: Exception,
    expected: Exception,
    site: Any,
    submitter: ClaraGrpcSubmitter,
    ready: Job,
    make_upload: Make,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The core checks the data at the end of the file, so the upload must not be completed earlier."""
    data = bytes(size)
    with pytest.raises(type(expected), match=re.escape(str(expected))):
        submitter.upload(ready, make_upload(data, opener=lambda: Reader(data, failure)))
    assert_not_complete(site, ready, size)
    assert [] == [record for record in caplog.records if record.name == "grpc._channel"]


@pytest.mark.parametrize(
    ("length", "size", "read"),
    [(4, 5, "only 4"), (4, 3, "more"), (4, 0, "more"), (0, 1, "only 0"), (3 * MIB, 3 * MIB + 1, f"only {3 * MIB}")],
)
def test_a_file_of_wrong_size_is_not_stored(
    length: int,
    size: int,
    read: str,
    site: Any,
    submitter: ClaraGrpcSubmitter,
    ready: Job,
    make_upload: Make,
) -> None:
    """The stored file has another size than the received instance."""
    with pytest.raises(Permanent, match=f"the stored file has {read} bytes where {size} were recorded"):
        submitter.upload(ready, make_upload(bytes(length), size=size))
    assert_not_complete(site, ready, length)


def assert_not_complete(site: Any, job: Job, size: int) -> None:
    """Assert that a file of one chunk was not stored, and that at most a part of a longer file was."""
    sizes = [len(data) for data in stored(site, job)]
    assert sizes == [] if size <= MIB else all(stored_size < size for stored_size in sizes)


@pytest.mark.parametrize("kind", [CallFaultKind.STATUS, CallFaultKind.CODE])
def test_a_refusal_in_the_middle_ends_the_upload(
    kind: CallFaultKind, site: Any, submitter: ClaraGrpcSubmitter, ready: Job, make_upload: Make
) -> None:
    """The remaining chunks are not sent, and the file is closed."""
    reader = BytesIO(bytes(64 * MIB))
    site.fail("Payloads.Upload", kind, status="INTERNAL", code=-0x3002)
    with pytest.raises(Retriable, match=r"INTERNAL: injected fault|-0x3002: injected fault"):
        submitter.upload(ready, make_upload(size=64 * MIB, opener=lambda: reader))
    assert reader.closed


def test_a_success_before_the_end_of_the_file_is_an_error(created: Job, hostile: Make, make_upload: Make) -> None:
    """The platform responds with success after the first message."""
    submitter = hostile(
        {
            "Payloads.Upload": lambda requests, context: [next(requests) and PayloadsUploadResponse()],
            "Payloads.Details": PayloadsDetailsResponse(),
        }
    )
    with pytest.raises(Retriable, match="confirmed the upload before the whole file was sent"):
        submitter.upload(created, make_upload(bytes(64 * MIB)))


def test_a_large_file_is_streamed(
    tmp_path: Path, make_site: Make, connect: Make, submit: Make, job: Job, make_upload: Make
) -> None:
    """Submitter and emulator together need little memory for 200 MB."""
    large = tmp_path / "large.dcm"
    with large.open("wb") as file:
        file.truncate(200_000_000)
    site = make_site(folder=tmp_path / "platform")
    submitter = connect(site.server.address)
    upload = make_upload(size=200_000_000, opener=lambda: cast(BinaryIO, large.open("rb")))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        submit(submitter, job, [upload])
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    (platform_job,) = site.platform.jobs.list()
    sizes = [file.size_bytes for file in site.platform.payloads.details(platform_job.payload_id).files]
    assert [200_000_000] == sizes
    assert most < 24 * MIB
    assert grown_kib < 80 * 1024
