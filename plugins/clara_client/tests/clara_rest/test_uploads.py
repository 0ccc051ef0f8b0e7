"""Uploads of the `clara-rest` submitter to the emulator."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from dicom_adapter import (
    Job,
    Permanent,
    Retriable,
    StoredObjectMissing,
    Upload,
)
from dicom_adapter_clara_client.emulator.faults import CallFaultKind
from dicom_adapter_clara_client.rest_request import PIECE_BYTES

LOSSES = [CallFaultKind.RESET, CallFaultKind.DROP, CallFaultKind.TRUNCATE, CallFaultKind.GARBAGE]
MakeUpload = Callable[..., Upload]


@pytest.mark.parametrize("kind", LOSSES)
def test_an_upload_with_a_lost_response_is_stored_once(site: Any, kind: CallFaultKind, make_upload: MakeUpload) -> None:
    """The repeated upload replaces the first."""
    job = site.created()
    site.fail("Payloads.Upload", kind)
    with pytest.raises(Retriable):
        site.submitter.upload(job, make_upload(0, b"x" * 300_000))
    site.submitter.upload(job, make_upload(0, b"x" * 300_000))
    assert {"input/dcm/000000-1.2.0.dcm": b"x" * 300_000} == site.files(job)


def test_an_empty_file_is_uploaded(site: Any, make_upload: MakeUpload) -> None:
    """An upload may have no bytes."""
    job = site.created()
    site.submitter.upload(job, make_upload(0, b""))
    assert {"input/dcm/000000-1.2.0.dcm": b""} == site.files(job)


def test_uploads_can_run_concurrently(site: Any, make_upload: MakeUpload) -> None:
    """The core uploads from several threads."""
    job = site.created()
    uploads = [make_upload(position, bytes([position]) * 100_000) for position in range(40)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda upload: site.submitter.upload(job, upload), uploads))
    assert [bytes([position]) * 100_000 for position in range(40)] == list(site.files(job).values())


class Endless:
    """A reader that generates a large file."""

    def __init__(self, size: int) -> None:
        self._left = size

    def read(self, size: int) -> bytes:
        length = min(size, self._left)
        self._left -= length
        return bytes(length)

    def __enter__(self) -> Endless:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


def test_a_large_file_is_streamed(
    make_site: Callable[..., Any], tmp_path: Path, job: Job, make_upload: MakeUpload
) -> None:
    """Submitter and emulator together need less than 8 MiB of memory for 64 MiB."""
    site = make_site(folder=tmp_path / "platform")
    job, size = site.created(), 64 << 20
    tracemalloc.start()
    try:
        site.submitter.upload(job, make_upload(0, b"", size_bytes=size, open=lambda: Endless(size)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [size] == [file.size_bytes for file in site.platform.payloads.details(job.platform_payload_id).files]
    assert peak < 8 << 20


@pytest.mark.parametrize(
    ("length", "recorded"),
    [(1000, 999), (1000, 1001), (1000, 0), (1000, 10_000_000), (PIECE_BYTES + 1, PIECE_BYTES)],
)
def test_a_file_of_wrong_length_is_not_uploaded(site: Any, length: int, recorded: int, make_upload: MakeUpload) -> None:
    """A stored file whose length differs from the ledger is damaged; the platform stores nothing."""
    job = site.created()
    with pytest.raises(Permanent, match=r"the stored file has .* bytes"):
        site.submitter.upload(job, make_upload(0, bytes(length), size_bytes=recorded))
    assert {} == site.files(job)


def test_an_error_while_reading_the_file_is_retriable(site: Any, make_upload: MakeUpload) -> None:
    """The disk may be available again later."""

    class Failing(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise OSError("the disk is gone")
            return super().read(size)

    with pytest.raises(Retriable, match="reading the stored file failed"):
        site.submitter.upload(
            site.created(), make_upload(0, b"", size_bytes=1 << 20, open=lambda: Failing(bytes(1 << 20)))
        )


def test_a_missing_object_raises_stored_object_missing(site: Any, make_upload: MakeUpload) -> None:
    """The error of opening the file is passed on to the core."""

    def missing() -> BinaryIO:
        raise StoredObjectMissing("gone")

    with pytest.raises(StoredObjectMissing):
        site.submitter.upload(site.created(), make_upload(0, b"x", open=missing))


def test_a_refusal_during_the_upload_is_reported(site: Any, make_upload: MakeUpload) -> None:
    """The platform refuses before the whole file is sent; the error has the platform's message."""
    job = site.created()
    site.platform.jobs.start(job.platform_job_id)
    with pytest.raises(Permanent, match=r"409 Conflict; The payload is read-only: .*its job was started"):
        site.submitter.upload(job, make_upload(0, bytes(20_000_000)))
