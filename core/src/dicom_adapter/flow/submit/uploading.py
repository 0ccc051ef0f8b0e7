"""Step 5 (`submit`) of the flow: upload the missing files of a job, batch by batch.

The platform may refuse one file permanently and accept the others, for example a PACS that does not support a SOP
class. So a permanent error ends the job only after all other files were tried; then its error names the refused files.
A retry of the job uploads only the missing files.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError, Executor, Future
from functools import partial
from typing import Any, BinaryIO

from attrs import Factory, define, frozen

from dicom_adapter.api.counts import counted
from dicom_adapter.api.errors import LedgerError, Permanent, Retriable, reports_no_resources
from dicom_adapter.api.submitter import AttachmentUpload, Submitter, Upload
from dicom_adapter.api.values import InstanceStorageInfo, Job
from dicom_adapter.ledger import Ledger, Transaction, instances, job_attachments, jobs
from dicom_adapter.ledger.attachments import Attachment
from dicom_adapter.ledger.jobs import JobRow

UPLOADS_PER_COMMIT = 256  # files in one batch: their uploads are recorded together; a crash repeats at most this many
BATCH_SECONDS = 2.0  # after this time, no upload of a batch begins, so that other jobs can use a slow platform
MAX_ERRORS = 3  # number of different errors in the error of a job


class Interrupted(Exception):
    """The service stops during a step. The job has not failed: the step is repeated after the next start."""


class FilesRefused(Permanent):
    """The platform has refused some files of a job; all others are uploaded."""


@define
class Progress:
    """The results of one pass over the instances or the attachments of a job."""

    position: int = -1  # all files up to this position are uploaded or refused
    refused: dict[int, str] = Factory(dict)  # the errors of refused files, by their positions

    def error(self, count: int, what: str) -> str:
        """Return a text with the errors of the refused files, the most frequent first; "" if none was refused."""
        errors = Counter(self.refused.values())
        words = "; ".join(error for error, _count in errors.most_common(MAX_ERRORS))
        if len(errors) > MAX_ERRORS:
            words += f"; and {counted(len(errors) - MAX_ERRORS, 'other error')}"
        if count == 1 or not errors:
            return words
        return f"{len(self.refused)} of {count} {what} could not be uploaded: {words}"


@define
class UploadPass:
    """One attempt to upload all missing files of a job."""

    instances: Progress = Factory(Progress)
    attachments: Progress = Factory(Progress)

    def error(self, job: Job) -> str:
        """Return a text with the errors of the refused files; "" if none was refused."""
        errors = (
            self.instances.error(job.instance_count, "instances"),
            self.attachments.error(job.attachment_count, "attachments"),
        )
        return "; ".join(filter(None, errors))


@frozen(kw_only=True)
class Batch:
    """The next missing files of a job: instances or attachments."""

    progress: Progress
    calls: Mapping[int, Callable[[], None]]  # the calls that upload the files, by position
    mark_uploaded: Callable[[Transaction, int, Iterable[int]], None]


class Uploading:
    """Uploads the files of jobs with one submitter. Thread-safe for different jobs."""

    def __init__(
        self,
        submitter: Submitter[Any],
        ledger: Ledger,
        executor: Executor,
        open_file: Callable[[InstanceStorageInfo | Attachment], BinaryIO],
    ) -> None:
        self._submitter = submitter
        self._ledger = ledger
        self._executor = executor
        self._open = open_file
        self._passes: dict[int, UploadPass] = {}  # by the number of the job

    def upload_batch(self, row: JobRow) -> int | None:
        """Upload the next batch of missing files. Return the number of uploaded files; None if no file is missing.

        An error ends the pass: the next attempt tries every missing file. Raises FilesRefused after all files were
        tried, the most severe of the other errors of the batch at once, or Interrupted.
        """
        current = self._passes.pop(row.number, None) or UploadPass()
        with self._ledger.read() as transaction:
            batch = self._next_instances(transaction, row, current.instances)
            batch = batch or self._next_attachments(transaction, row, current.attachments)
        if batch is None:
            error = current.error(row.job)
            if error:
                raise FilesRefused(error)
            return None
        uploaded = self._upload(row, batch)
        self._passes[row.number] = current
        return uploaded  # also after the last batch: one more call finds no missing file

    def forget(self, row: JobRow) -> None:
        """Forget the pass of a job that is cancelled."""
        self._passes.pop(row.number, None)

    def _next_instances(self, transaction: Transaction, row: JobRow, progress: Progress) -> Batch | None:
        missing = instances.of_job(
            transaction, row.number, missing_only=True, limit=UPLOADS_PER_COMMIT, after=progress.position
        )
        calls = {}
        for position, instance in missing:
            upload = Upload(
                instance=instance,
                position=position,
                size_bytes=instance.size_bytes,
                open=partial(self._open, instance),
            )
            calls[position] = partial(self._submitter.upload, row.job, upload)
        return Batch(progress=progress, calls=calls, mark_uploaded=jobs.mark_uploaded) if calls else None

    def _next_attachments(self, transaction: Transaction, row: JobRow, progress: Progress) -> Batch | None:
        if not row.job.attachment_count:
            return None
        calls = {}
        for one in job_attachments.missing(transaction, row.number, UPLOADS_PER_COMMIT, progress.position):
            upload = AttachmentUpload(
                name=one.attachment.name,
                file_name=one.file_name,
                position=one.position,
                size_bytes=one.attachment.size_bytes,
                open=partial(self._open, one.attachment),
            )
            calls[one.position] = partial(self._submitter.attach, row.job, upload)
        return Batch(progress=progress, calls=calls, mark_uploaded=job_attachments.mark_uploaded) if calls else None

    def _upload(self, row: JobRow, batch: Batch) -> int:
        """Upload in parallel, record the successful and the refused files, then raise the most severe other error.

        Return the number of successful files.
        """
        errors = {position: _error(future) for position, future in self._begin_all(batch.calls).items()}
        uploaded = [position for position, error in errors.items() if error is None]
        # Not synced: a power loss only repeats uploads, and a sync may wait for everything that the platform writes.
        with self._ledger.write(synced=False) as transaction:
            batch.mark_uploaded(transaction, row.number, uploaded)
        _raise_worst(errors)
        batch.progress.refused |= {position: str(error) for position, error in errors.items() if error is not None}
        batch.progress.position = max(errors)
        return len(uploaded)

    def _begin_all(self, calls: Mapping[int, Callable[[], None]]) -> dict[int, Future[None]]:
        futures: dict[int, Future[None]] = {}
        end = time.monotonic() + BATCH_SECONDS
        for position, call in calls.items():
            if futures and time.monotonic() >= end:
                break  # the other files are uploaded in the next batch
            try:
                futures[position] = self._executor.submit(call)
            except RuntimeError as failure:  # the executor is shut down; errors of the call itself are in its future
                raise Interrupted from failure
        return futures


def _error(future: Future[None]) -> BaseException | None:
    """Return the error of an upload, or None; Interrupted if the upload was cancelled because the service stops."""
    try:
        return future.exception()
    except CancelledError:
        return Interrupted()


def _raise_worst(errors: Mapping[int, BaseException | None]) -> None:
    """Raise the most severe error of a batch that ends the pass, if any: a bug, otherwise a transient error."""
    found = [error for error in errors.values() if error is not None and not _is_refusal(error)]
    for error in sorted(found, key=_is_transient):
        raise error


def _is_refusal(error: BaseException) -> bool:
    return isinstance(error, Permanent) and not lacks_resources(error)


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, (Retriable, LedgerError, Interrupted)) or lacks_resources(error)


def lacks_resources(failure: BaseException) -> bool:
    """Return whether a step failed because the system has no free descriptors or memory.

    MemoryError counts, too, unlike for `reports_no_resources`: the calls of a submitter do not depend on the content of
    a data set.
    """
    return isinstance(failure, MemoryError) or reports_no_resources(failure)
