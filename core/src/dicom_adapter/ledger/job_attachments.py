"""The attachments that delivery jobs deliver. Queries and changes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from attrs import field, frozen
from sqlalchemy import func, select, update

from dicom_adapter.ledger.attachment_schema import job_attachments
from dicom_adapter.ledger.attachments import Attachment, select_attachments
from dicom_adapter.ledger.connection import Transaction
from dicom_adapter.ledger.schema import attachments, jobs


@frozen(kw_only=True)
class DeliveredAttachment:
    """An attachment as a delivery job delivers it."""

    position: int  # 0-based position among the attachments of the job
    file_name: str = field(repr=False)  # see `AttachmentUpload`
    attachment: Attachment


def insert(transaction: Transaction, job_number: int, numbers: Sequence[int], file_names: Sequence[str]) -> None:
    """Insert the attachments of a delivery job, by their numbers, in this order."""
    rows = [
        {"job_number": job_number, "position": position, "attachment_number": number, "file_name": name}
        for position, (number, name) in enumerate(zip(numbers, file_names, strict=True))
    ]
    if rows:
        transaction.execute(job_attachments.insert(), rows)


def missing(transaction: Transaction, job_number: int, limit: int, after: int) -> list[DeliveredAttachment]:
    """Return up to `limit` attachments of a job behind position `after` that are not uploaded."""
    query = (
        select(job_attachments.c.position, job_attachments.c.file_name, job_attachments.c.attachment_number)
        .where(
            job_attachments.c.job_number == job_number,
            job_attachments.c.position > after,
            job_attachments.c.uploaded.is_(False),
        )
        .order_by(job_attachments.c.position)
        .limit(limit)
    )
    rows = transaction.execute(query).all()
    found = select_attachments(transaction, attachments.c.attachment_number.in_([row[2] for row in rows]))
    by_number = {attachment.instance_id: attachment for attachment in found}
    return [
        DeliveredAttachment(position=position, file_name=name, attachment=by_number[number])
        for position, name, number in rows
    ]


def mark_uploaded(transaction: Transaction, job_number: int, positions: Iterable[int]) -> None:
    """Record that these attachments of a job are uploaded."""
    own = (job_attachments.c.job_number == job_number) & job_attachments.c.position.in_(list(positions))
    transaction.execute(update(job_attachments).where(own).values(uploaded=True))


def without_job_of(transaction: Transaction, numbers: Collection[int], submitter: str) -> set[int]:
    """Return the attachments, by their numbers, that no delivery job of this submitter contains."""
    query = (
        select(job_attachments.c.attachment_number)
        .join_from(job_attachments, jobs, jobs.c.job_number == job_attachments.c.job_number)
        .where(job_attachments.c.attachment_number.in_(numbers), jobs.c.submitter == submitter)
    )
    return set(numbers) - set(transaction.execute(query).scalars())


def deliveries(transaction: Transaction, number: int) -> list[tuple[str, bool]]:
    """Return the delivery jobs of an attachment, oldest first: job id, and whether the attachment was uploaded."""
    query = (
        select(jobs.c.job_id, job_attachments.c.uploaded)
        .join_from(job_attachments, jobs, jobs.c.job_number == job_attachments.c.job_number)
        .where(job_attachments.c.attachment_number == number)
        .order_by(jobs.c.job_number)
    )
    return [(job_id, bool(uploaded)) for job_id, uploaded in transaction.execute(query)]


def incomplete_jobs(transaction: Transaction) -> list[tuple[str, str]]:
    """Return ids and AE titles of jobs whose number of attachments is not the same as at their creation."""
    count = select(func.count()).where(job_attachments.c.job_number == jobs.c.job_number).scalar_subquery()
    query = select(jobs.c.job_id, jobs.c.ae_title).where(jobs.c.attachment_count != count).order_by(jobs.c.job_number)
    return [(job_id, ae_title) for job_id, ae_title in transaction.execute(query)]
