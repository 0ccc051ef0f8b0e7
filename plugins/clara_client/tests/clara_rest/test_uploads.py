"""The `clara-rest` submitter against the emulator: files."""

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

PATIENT = "SECRET^PATIENT"
LOSSES = [CallFaultKind.RESET, CallFaultKind.DROP, CallFaultKind.TRUNCATE, CallFaultKind.GARBAGE]
MakeUpload = Callable[..., Upload]


@pytest.mark.parametrize("kind", LOSSES)
def test_an_upload_whose_answer_got_lost_is_there_once(site: Any, kind: CallFaultKind, an_instance: MakeUpload) -> None:
    """The repetition takes the place of the first try."""
    job = site.created()
    site.fail("Payloads.Upload", kind)
    with pytest.raises(Retriable):
        site.submitter.upload(job, an_instance(0, b"x" * 300_000))
    site.submitter.upload(job, an_instance(0, b"x" * 300_000))
    assert {"input/dcm/000000-1.2.0.dcm": b"x" * 300_000} == site.files(job)


def test_an_empty_file_is_uploaded(site: Any, an_instance: MakeUpload) -> None:
    """Without a single byte."""
    job = site.created()
    site.submitter.upload(job, an_instance(0, b""))
    assert {"input/dcm/000000-1.2.0.dcm": b""} == site.files(job)


def test_uploads_run_side_by_side(site: Any, an_instance: MakeUpload) -> None:
    """From as many threads as the core likes."""
    job = site.created()
    uploads = [an_instance(position, bytes([position]) * 100_000) for position in range(40)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda upload: site.submitter.upload(job, upload), uploads))
    assert [bytes([position]) * 100_000 for position in range(40)] == list(site.files(job).values())


class Endless:
    """A large file that is nowhere."""

    def __init__(self, size: int) -> None:
        self._left = size

    def read(self, size: int) -> bytes:
        taken = min(size, self._left)
        self._left -= taken
        return bytes(taken)

    def __enter__(self) -> Endless:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""


def test_a_large_file_does_not_go_through_memory(
    make_site: Callable[..., Any], tmp_path: Path, job: Job, an_instance: MakeUpload
) -> None:
    """Neither the submitter nor the emulator holds it: 64 MiB pass through less than 8."""
    site = make_site(folder=tmp_path / "platform")
    job, size = site.created(), 64 << 20
    tracemalloc.start()
    try:
        site.submitter.upload(job, an_instance(0, b"", size_bytes=size, open=lambda: Endless(size)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [size] == [file.size_bytes for file in site.platform.payloads.details(job.platform_payload_id).files]
    assert peak < 8 << 20


@pytest.mark.parametrize("recorded", [999, 1001, 0, 10_000_000, 1 << 18])
def test_a_file_of_another_length_is_not_uploaded(site: Any, recorded: int, an_instance: MakeUpload) -> None:
    """A stored file that is not as long as the ledger says is damaged; the platform gets nothing of it."""
    job = site.created()
    with pytest.raises(Permanent, match=r"the stored file has .* bytes"):
        site.submitter.upload(
            job, an_instance(0, bytes(1000 if recorded != 1 << 18 else 1 + (1 << 18)), size_bytes=recorded)
        )
    assert {} == site.files(job)


def test_a_storage_that_fails_while_it_is_read_is_asked_again(site: Any, an_instance: MakeUpload) -> None:
    """A disk may come back."""

    class Failing(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise OSError("the disk is gone")
            return super().read(size)

    with pytest.raises(Retriable, match="reading the stored file failed"):
        site.submitter.upload(
            site.created(), an_instance(0, b"", size_bytes=1 << 20, open=lambda: Failing(bytes(1 << 20)))
        )


def test_an_object_that_is_missing_is_told_as_it_is(site: Any, an_instance: MakeUpload) -> None:
    """What opening the file raises goes to the core."""

    def missing() -> BinaryIO:
        raise StoredObjectMissing("gone")

    with pytest.raises(StoredObjectMissing):
        site.submitter.upload(site.created(), an_instance(0, b"x", open=missing))


def test_a_refusal_is_understood_while_the_file_is_still_sent(site: Any, an_instance: MakeUpload) -> None:
    """The platform refuses early; the message is its own."""
    job = site.created()
    site.platform.jobs.start(job.platform_job_id)
    with pytest.raises(Permanent, match=r"409 Conflict; The payload is read-only: .*its job has begun"):
        site.submitter.upload(job, an_instance(0, bytes(20_000_000)))
