"""Step 5 (`submit`) of the flow: upload the missing files of a job, batch by batch.

The platform may refuse one file for good and take the others, for example a PACS that does not support a SOP class. So
a permanent error ends the job only after all other files were tried; then its error names the refused files. A retry
of the job tries again what is missing, and nothing else.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, Future
from functools import partial
from typing import Any, BinaryIO

from attrs import Factory, define

from dicom_adapter.api.counts import counted
from dicom_adapter.api.errors import LedgerError, Permanent, Retriable, reports_no_resources
from dicom_adapter.api.submitter import Submitter, Upload
from dicom_adapter.api.values import InstanceStorageInfo, Job
from dicom_adapter.ledger import Ledger, instances, jobs
from dicom_adapter.ledger.jobs import JobRow

UPLOADS_PER_COMMIT = 256  # files in one batch: their uploads are recorded together; a crash repeats at most this many
BATCH_SECONDS = 2.0  # after this time, no upload of a batch begins, so that other jobs can use a slow platform
MAX_ERRORS = 3  # number of different errors in the error of a job

Member = tuple[int, InstanceStorageInfo]  # position in the job, instance


class Interrupted(Exception):
    """The service stops during a step. The job has not failed: the step is repeated after the next start."""


class FilesRefused(Permanent):
    """The platform has refused some files of a job; all others are uploaded."""


@define
class UploadPass:
    """One attempt to upload all missing files of a job."""

    position: int = -1  # all files up to this position are uploaded or refused
    refused: dict[int, str] = Factory(dict)  # the errors of refused files, by their positions

    def error(self, job: Job) -> str:
        """Return the errors of the refused files in words, the most frequent first."""
        errors = Counter(self.refused.values())
        words = "; ".join(error for error, _count in errors.most_common(MAX_ERRORS))
        if len(errors) > MAX_ERRORS:
            words += f"; and {counted(len(errors) - MAX_ERRORS, 'other error')}"
        if job.instance_count == 1:
            return words
        return f"{len(self.refused)} of {job.instance_count} instances could not be uploaded: {words}"


class Uploading:
    """Uploads the files of jobs with one submitter. Thread-safe for different jobs."""

    def __init__(
        self,
        submitter: Submitter[Any],
        ledger: Ledger,
        executor: Executor,
        open_file: Callable[[InstanceStorageInfo], BinaryIO],
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
            missing = instances.of_job(
                transaction, row.number, missing_only=True, limit=UPLOADS_PER_COMMIT, after=current.position
            )
        if not missing:
            if current.refused:
                raise FilesRefused(current.error(row.job))
            return None
        uploaded = self._upload(row, missing, current)
        self._passes[row.number] = current
        return uploaded  # also after the last batch: one more call finds no missing file

    def forget(self, row: JobRow) -> None:
        """Forget the pass of a job that is cancelled."""
        self._passes.pop(row.number, None)

    def _upload(self, row: JobRow, members: Sequence[Member], current: UploadPass) -> int:
        """Upload in parallel, record the successful and the refused files, then raise the most severe other error.

        Return the number of successful files.
        """
        errors = {position: _error(future) for position, future in self._begin_all(row.job, members).items()}
        uploaded = [position for position, error in errors.items() if error is None]
        # Not synced: a power loss only repeats uploads, and a sync may wait for everything that the platform writes.
        with self._ledger.write(synced=False) as transaction:
            jobs.mark_uploaded(transaction, row.number, uploaded)
        _raise_worst(errors)
        current.refused |= {position: str(error) for position, error in errors.items() if error is not None}
        current.position = max(errors)
        return len(uploaded)

    def _begin_all(self, job: Job, members: Sequence[Member]) -> dict[int, Future[None]]:
        futures: dict[int, Future[None]] = {}
        end = time.monotonic() + BATCH_SECONDS
        for position, instance in members:
            if futures and time.monotonic() >= end:
                break  # the other files are uploaded in the next batch
            upload = Upload(
                instance=instance,
                position=position,
                size_bytes=instance.size_bytes,
                open=partial(self._open, instance),
            )
            futures[position] = self._begin(job, upload)
        return futures

    def _begin(self, job: Job, upload: Upload) -> Future[None]:
        try:
            return self._executor.submit(self._submitter.upload, job, upload)
        except RuntimeError as failure:  # the executor is shut down; errors of `upload` itself are in its future
            raise Interrupted from failure


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
