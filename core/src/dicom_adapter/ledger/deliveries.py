"""The delivery jobs of a job (those that contain its results or attachments), and of single results."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select, union

from dicom_adapter.ledger.attachment_schema import job_attachments
from dicom_adapter.ledger.connection import Transaction
from dicom_adapter.ledger.instance_values import chunks
from dicom_adapter.ledger.jobs import JobRow, find_where
from dicom_adapter.ledger.schema import attachments, instances, job_instances, jobs


def deliveries_of(transaction: Transaction, number: int) -> list[JobRow]:
    """Return the jobs that deliver results or attachments of the job with this number, oldest first."""
    of_results = (
        select(job_instances.c.job_number)
        .join_from(instances, job_instances, job_instances.c.instance_id == instances.c.instance_id)
        .where(instances.c.source_job == number)
    )
    of_attachments = (
        select(job_attachments.c.job_number)
        .join_from(attachments, job_attachments, job_attachments.c.attachment_number == attachments.c.attachment_number)
        .where(attachments.c.job_number == number)
    )
    return find_where(transaction, jobs.c.job_number.in_(union(of_results, of_attachments)))


def of_results(transaction: Transaction, instance_ids: Collection[int]) -> dict[int, list[tuple[JobRow, bool]]]:
    """Return the delivery jobs of results, oldest first, by the ids of the results that have any.

    The second value of a pair is True if the destination has received the result.
    """
    columns = job_instances.c.instance_id, job_instances.c.job_number, job_instances.c.uploaded
    members = [
        (instance_id, number, bool(is_uploaded))
        for chunk in chunks(instance_ids)
        for instance_id, number, is_uploaded in transaction.execute(
            select(*columns).where(job_instances.c.instance_id.in_(chunk)).order_by(job_instances.c.job_number)
        )
    ]
    rows = {
        row.number: row
        for chunk in chunks({number for _instance_id, number, _is_uploaded in members})
        for row in find_where(transaction, jobs.c.job_number.in_(chunk))
    }
    found: dict[int, list[tuple[JobRow, bool]]] = {}
    for instance_id, number, is_uploaded in members:
        found.setdefault(instance_id, []).append((rows[number], is_uploaded))
    return found
