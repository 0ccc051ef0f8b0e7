"""Attachments: outputs of jobs that are not DICOM. Queries and changes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from attrs import asdict, field, frozen
from sqlalchemy import ColumnElement, delete, exists, func, select

from dicom_adapter.ledger.attachment_schema import job_attachments
from dicom_adapter.ledger.connection import Transaction
from dicom_adapter.ledger.results import storable
from dicom_adapter.ledger.schema import attachments, jobs


@frozen(kw_only=True)
class Attachment:
    """An output that is not DICOM. `instance_id` is its number: error messages about stored objects show it."""

    instance_id: int
    job_number: int | None  # None: its job was deleted
    name: str = field(repr=False)  # as the pipeline chose it
    storage_key: str
    size_bytes: int
    checksum: int  # CRC-32 of the whole file


def insert(transaction: Transaction, new: Sequence[Attachment]) -> list[Attachment]:
    """Insert attachments, and return them with their numbers. Their `instance_id` is ignored."""
    rows = [asdict(attachment) | {"name": storable(attachment.name)} for attachment in new]
    for row in rows:
        del row["instance_id"]
    if not rows:
        return []
    last = transaction.execute(select(func.max(attachments.c.attachment_number))).scalar() or 0
    transaction.execute(attachments.insert(), rows)
    return after(transaction, last, len(rows))


def of_job(transaction: Transaction, job_number: int) -> list[Attachment]:
    """Return the attachments of a job."""
    return select_attachments(transaction, attachments.c.job_number == job_number)


def after(transaction: Transaction, number: int, limit: int) -> list[Attachment]:
    """Return up to `limit` attachments numbered above `number`, in order."""
    return select_attachments(transaction, attachments.c.attachment_number > number, limit)


def without_job(transaction: Transaction, limit: int) -> list[Attachment]:
    """Return up to `limit` attachments whose jobs are deleted: the job that has produced them, and delivery jobs."""
    is_delivered = exists().where(job_attachments.c.attachment_number == attachments.c.attachment_number)
    return select_attachments(transaction, attachments.c.job_number.is_(None) & ~is_delivered, limit)


def with_content(transaction: Transaction, size_bytes: int, checksum: int) -> list[Attachment]:
    """Return the attachments with this size and checksum."""
    return select_attachments(
        transaction, (attachments.c.size_bytes == size_bytes) & (attachments.c.checksum == checksum)
    )


def delete_rows(transaction: Transaction, numbers: Collection[int]) -> None:
    """Delete rows of attachments. Their stored objects must be deleted before."""
    transaction.execute(delete(attachments).where(attachments.c.attachment_number.in_(numbers)))


def select_attachments(
    transaction: Transaction, condition: ColumnElement[bool], limit: int | None = None
) -> list[Attachment]:
    query = select(attachments).where(condition)
    rows = transaction.execute(query.order_by(attachments.c.attachment_number).limit(limit))
    return [
        Attachment(
            instance_id=row.attachment_number,
            job_number=row.job_number,
            name=row.name,
            storage_key=row.storage_key,
            size_bytes=row.size_bytes,
            checksum=row.checksum,
        )
        for row in rows
    ]


@frozen(kw_only=True)
class JobAttachments:
    """The attachments of one job, counted."""

    job_id: str
    count: int
    size_bytes: int  # together


def count_by_job(transaction: Transaction, limit: int) -> list[JobAttachments]:
    """Count the attachments of up to `limit` jobs that have any, the newest job first."""
    query = (
        select(jobs.c.job_id, func.count(), func.sum(attachments.c.size_bytes))
        .join_from(attachments, jobs, attachments.c.job_number == jobs.c.job_number)
        .group_by(attachments.c.job_number)
        .order_by(attachments.c.job_number.desc())
        .limit(limit)
    )
    return [JobAttachments(job_id=row[0], count=row[1], size_bytes=row[2]) for row in transaction.execute(query)]
