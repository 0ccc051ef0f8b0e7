"""The delivery jobs of another job: the jobs that contain its results or its attachments."""

from __future__ import annotations

from sqlalchemy import select, union

from dicom_adapter.ledger.attachment_schema import job_attachments
from dicom_adapter.ledger.connection import Transaction
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
