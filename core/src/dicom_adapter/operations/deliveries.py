"""The deliveries of results and attachments to destinations."""

from __future__ import annotations

from collections.abc import Collection

from attrs import frozen

from dicom_adapter.api.values import Job
from dicom_adapter.ledger import Transaction, deliveries, job_attachments, jobs


@frozen(kw_only=True)
class JobOfResult:
    """A delivery job of a result."""

    job: Job
    is_uploaded: bool  # the destination has received this result


def deliveries_of(transaction: Transaction, numbers: Collection[int]) -> dict[int, list[JobOfResult]]:
    """Return the delivery jobs of the results with these ids, oldest first."""
    found = deliveries.of_results(transaction, numbers)
    return {
        number: [JobOfResult(job=row.job, is_uploaded=is_uploaded) for row, is_uploaded in found.get(number, ())]
        for number in numbers
    }


def attachment_deliveries_of(transaction: Transaction, number: int) -> list[JobOfResult]:
    """Return the delivery jobs of the attachment with this number, oldest first."""
    found = job_attachments.deliveries(transaction, number)
    rows = [(jobs.get(transaction, job_id), is_uploaded) for job_id, is_uploaded in found]
    return [JobOfResult(job=row.job, is_uploaded=is_uploaded) for row, is_uploaded in rows if row is not None]
