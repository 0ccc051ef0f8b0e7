"""Contexts of traces: the spans of associations and jobs to which later spans belong, also after a restart.

No other part of the adapter depends on the contexts.
"""

from __future__ import annotations

from datetime import datetime

from attrs import frozen
from sqlalchemy import delete, func, select

from dicom_adapter.ledger.column_types import UtcDateTime
from dicom_adapter.ledger.connection import Transaction
from dicom_adapter.ledger.schema import instances, job_instances, jobs
from dicom_adapter.ledger.trace_schema import contexts


@frozen
class Origin:
    """An association that has sent instances of a job."""

    context: str  # "" if the association has no trace
    first_at: datetime  # arrival of its first instance of the job, UTC


def insert(transaction: Transaction, subject: str, context: str, now: datetime) -> None:
    """Record the context of an association or a job, which has none yet."""
    transaction.execute(contexts.insert().values(subject=subject, context=context, recorded_at=now))


def find(transaction: Transaction, subject: str) -> str:
    """Return the context of an association or a job; "" if it has none."""
    query = select(contexts.c.context).where(contexts.c.subject == subject)
    return transaction.execute(query).scalar() or ""


def origins(transaction: Transaction, job_id: str) -> list[Origin]:
    """Return the associations that have sent the instances of a job, in the order of their first instances."""
    first_at = func.min(instances.c.received_at, type_=UtcDateTime())
    query = (
        select(contexts.c.context, first_at)
        .select_from(jobs)
        .join(job_instances, job_instances.c.job_number == jobs.c.job_number)
        .join(instances, instances.c.instance_id == job_instances.c.instance_id)
        .outerjoin(contexts, contexts.c.subject == instances.c.association_id)
        .where(jobs.c.job_id == job_id)
        .group_by(instances.c.association_id, contexts.c.context)
        .order_by(first_at, func.min(instances.c.instance_id))
    )
    return [Origin(context or "", at) for context, at in transaction.execute(query)]


def has_old(transaction: Transaction, before: datetime) -> bool:
    """Return whether there are contexts that were recorded before a time."""
    query = select(contexts.c.subject).where(contexts.c.recorded_at < before).limit(1)
    return transaction.execute(query).first() is not None


def delete_old(transaction: Transaction, before: datetime) -> int:
    """Delete the contexts that were recorded before a time; return their number."""
    return transaction.execute(delete(contexts).where(contexts.c.recorded_at < before)).rowcount
