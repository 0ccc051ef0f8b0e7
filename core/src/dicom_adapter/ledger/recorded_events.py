"""Read the recorded events, see `events`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Row, func, select, text

from dicom_adapter.ledger.connection import Transaction
from dicom_adapter.ledger.events import JOB_INCOMPLETE, Event
from dicom_adapter.ledger.schema import CONCERNS_AE_TITLE, events, instances


def studies_of_ignored(transaction: Transaction, association_ids: Sequence[str]) -> dict[str, list[str]]:
    """Return the Study Instance UIDs of the duplicates without a row that arrived in these associations."""
    if not association_ids:
        return {}
    rows = transaction.execute(
        select(events.c.association_id, instances.c.study_instance_uid)
        .join(instances, instances.c.instance_id == events.c.instance_id)
        .where(events.c.association_id.in_(association_ids), events.c.event == "instance_ignored")
        .distinct()
    )
    studies: dict[str, list[str]] = {}
    for association_id, study in rows:
        studies.setdefault(association_id, []).append(study)
    return studies


def of_job(transaction: Transaction, job_id: str) -> list[Event]:
    """Return the events of a job, oldest first."""
    query = select(events).where(events.c.job_id == job_id).order_by(events.c.event_id)
    return [_event(row) for row in transaction.execute(query)]


def of_instance(transaction: Transaction, instance_id: int) -> list[Event]:
    """Return the events of an instance, oldest first."""
    query = select(events).where(events.c.instance_id == instance_id).order_by(events.c.event_id)
    return [_event(row) for row in transaction.execute(query)]


def after(transaction: Transaction, event_id: int, limit: int) -> list[tuple[int, Event]]:
    """Return up to `limit` events numbered above `event_id` with their numbers, oldest first."""
    query = select(events).where(events.c.event_id > event_id).order_by(events.c.event_id).limit(limit)
    return [(row.event_id, _event(row)) for row in transaction.execute(query)]


def newest(
    transaction: Transaction,
    limit: int,
    *,
    searched: int,
    before: int | None = None,
    ae_title: str | None = None,
    prefix: str = "",
) -> list[tuple[int, Event]]:
    """Return the newest selected events with their numbers, newest first.

    `searched`: number of the newest events that are examined, which limits the time if few events are selected.
    `before`: only events with a smaller number. `ae_title`: only events of this AE title. `prefix`: only events whose
    names begin with it.
    """
    end = last_number(transaction) + 1 if before is None else before
    is_searched = (events.c.event_id < end) & (events.c.event_id >= end - searched)
    query = select(events).where(is_searched).order_by(events.c.event_id.desc()).limit(limit)
    if ae_title is not None:
        query = query.where(events.c.ae_title == ae_title)
    if prefix:
        query = query.where(events.c.event.startswith(prefix, autoescape=True))
    return [(row.event_id, _event(row)) for row in transaction.execute(query)]


def association_ends(transaction: Transaction, since: datetime, until: datetime, limit: int) -> list[Event]:
    """Return the newest ends of associations from `since` on and before `until`, newest first."""
    is_wanted = (events.c.at >= since) & (events.c.at < until) & (events.c.event == "association_closed")
    query = select(events).where(is_wanted).order_by(events.c.at.desc()).limit(limit)
    return [_event(row) for row in transaction.execute(query)]


def last_number(transaction: Transaction) -> int:
    """Return the number of the newest event; 0 if there are none."""
    return transaction.execute(select(func.max(events.c.event_id))).scalar() or 0


def ae_titles_after(transaction: Transaction, event_id: int, names: Collection[str]) -> set[str]:
    """Return the AE titles with events of these names numbered above `event_id`."""
    query = select(events.c.ae_title).where(events.c.event_id > event_id, events.c.event.in_(names)).distinct()
    return set(transaction.execute(query).scalars())


def named_after(transaction: Transaction, event_id: int, name: str) -> list[Event]:
    """Return events of this name numbered above `event_id`, oldest first."""
    return find_where(transaction, (events.c.event_id > event_id) & (events.c.event == name))


def named_between(
    transaction: Transaction, after: int, until: int, names: Collection[str], limit: int
) -> list[tuple[int, Event]]:
    """Return up to `limit` events of these names, numbered above `after` and up to `until`, oldest first."""
    is_wanted = (events.c.event_id > after) & (events.c.event_id <= until) & events.c.event.in_(names)
    query = select(events).where(is_wanted).order_by(events.c.event_id).limit(limit)
    return [(row.event_id, _event(row)) for row in transaction.execute(query)]


def find_where(transaction: Transaction, condition: ColumnElement[bool]) -> list[Event]:
    """Return events that meet a condition on the table, oldest first."""
    query = select(events).where(condition).order_by(events.c.event_id)
    return [_event(row) for row in transaction.execute(query)]


def _event(row: Row[tuple[object, ...]]) -> Event:
    values = dict(row._mapping)
    del values["event_id"]
    return Event(**values)


def count_incomplete_jobs(transaction: Transaction, ae_title: str, since: datetime) -> int:
    """Return how many jobs of an AE title were submitted since a time although instances may be missing."""
    is_one = (events.c.ae_title == ae_title) & (events.c.at >= since) & (events.c.event == JOB_INCOMPLETE)
    return transaction.execute(select(func.count()).where(is_one, text(CONCERNS_AE_TITLE))).scalar_one()
