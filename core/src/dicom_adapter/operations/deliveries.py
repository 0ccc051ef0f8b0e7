"""The deliveries of results and attachments to destinations."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from dicom_adapter.api.values import Job
from dicom_adapter.ledger import Transaction, job_attachments, jobs, results


@frozen(kw_only=True)
class JobOfResult:
    """A delivery job of a result."""

    job: Job
    is_uploaded: bool  # the destination has received this result


def deliveries_of(transaction: Transaction, number: int) -> list[JobOfResult]:
    """Return the delivery jobs of the result with this id, oldest first."""
    found = results.deliveries(transaction, number)
    return _existing(transaction, ((job_id, is_uploaded) for job_id, _submitter, is_uploaded in found))


def attachment_deliveries_of(transaction: Transaction, number: int) -> list[JobOfResult]:
    """Return the delivery jobs of the attachment with this number, oldest first."""
    return _existing(transaction, job_attachments.deliveries(transaction, number))


def _existing(transaction: Transaction, found: Iterable[tuple[str, bool]]) -> list[JobOfResult]:
    rows = [(jobs.get(transaction, job_id), is_uploaded) for job_id, is_uploaded in found]
    return [JobOfResult(job=row.job, is_uploaded=is_uploaded) for row, is_uploaded in rows if row is not None]
