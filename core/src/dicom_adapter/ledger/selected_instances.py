"""Queries about selected instances, for example those of one study, and about their events and jobs.

An `InstanceSelection` selects the instances. Each query is one statement, for any number of instances.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import TypeAlias

from attrs import fields, frozen
from sqlalchemy import ColumnElement, Select, func, select, text, union

from dicom_adapter.ledger import jobs as ledger_jobs
from dicom_adapter.ledger import recorded_events
from dicom_adapter.ledger.connection import Transaction
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.filters import Filters
from dicom_adapter.ledger.jobs import JobRow
from dicom_adapter.ledger.schema import CONCERNS_AE_TITLE, events, instances, job_instances, jobs

InstanceSelection: TypeAlias = ColumnElement[bool]  # a condition on the table of instances


@frozen(kw_only=True)
class SelectedInstance:
    """A received instance, or a result, with its state, without patient data."""

    instance_id: int
    ae_title: str
    calling_ae_title: str
    peer_address: str
    association_id: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    received_at: datetime  # UTC
    state: str  # a value of InstanceState
    changed_at: datetime  # UTC; time of the last change of `state`
    outcome: str  # a value of InstanceOutcome, "" while it is unknown
    replaced_by: int | None
    source_job: int | None  # of a result: the number of the job that has produced it
    reason: str  # why it is, or was, quarantined
    keep_until: datetime | None  # of a result: it is not reclaimed before


def of_study(study_instance_uid: str) -> InstanceSelection:
    return instances.c.study_instance_uid == study_instance_uid


def of_series(series_instance_uid: str) -> InstanceSelection:
    return Filters(series_instance_uid=series_instance_uid).of_instances()


def of_sop_instance(sop_instance_uid: str) -> InstanceSelection:
    return instances.c.sop_instance_uid == sop_instance_uid


def of_job(number: int) -> InstanceSelection:
    """Select the instances of a job, and its results."""
    members = select(job_instances.c.instance_id).where(job_instances.c.job_number == number)
    return instances.c.instance_id.in_(members.correlate(None)) | (instances.c.source_job == number)


def arrivals(transaction: Transaction, selection: InstanceSelection) -> list[SelectedInstance]:
    """Return the selected instances, in the order of arrival."""
    columns = [instances.c[field.name] for field in fields(SelectedInstance)]
    query = select(*columns).where(selection).order_by(instances.c.instance_id)
    return [SelectedInstance(**row._mapping) for row in transaction.execute(query)]


def studies_of_newer(transaction: Transaction, selection: InstanceSelection) -> list[tuple[str, str]]:
    """Return AE titles and studies of instances that replaced a selected instance but are not selected themselves."""
    newer = select(instances.c.replaced_by).where(selection, instances.c.replaced_by.is_not(None))
    query = select(instances.c.ae_title, instances.c.study_instance_uid).distinct()
    is_newer = instances.c.instance_id.in_(newer.correlate(None)) & instances.c.instance_id.not_in(_ids(selection))
    return [(ae_title, study) for ae_title, study in transaction.execute(query.where(is_newer))]


def jobs_with(transaction: Transaction, selection: InstanceSelection) -> list[tuple[JobRow, int]]:
    """Return the jobs with selected instances, each with the number of these instances, in the order of submission."""
    query = (
        select(job_instances.c.job_number, func.count().label("members"))
        .where(job_instances.c.instance_id.in_(_ids(selection)))
        .group_by(job_instances.c.job_number)
    )
    counts = {row.job_number: row.members for row in transaction.execute(query)}
    rows = ledger_jobs.find_where(transaction, jobs.c.job_number.in_(_job_numbers(selection)))
    return [(row, counts[row.number]) for row in rows]


def uploaded(transaction: Transaction, number: int) -> int:
    """Return the number of uploaded instances of a job."""
    query = select(func.count()).where(job_instances.c.job_number == number, job_instances.c.uploaded.is_(True))
    return transaction.execute(query).scalar_one()


def job_ids(transaction: Transaction, numbers: Collection[int]) -> dict[int, str]:
    """Return the ids of jobs by their numbers; deleted jobs are omitted."""
    query = select(jobs.c.job_number, jobs.c.job_id).where(jobs.c.job_number.in_(numbers))
    return {row[0]: row[1] for row in transaction.execute(query)}


def job_events(transaction: Transaction, selection: InstanceSelection) -> list[Event]:
    """Return the events of the jobs with selected instances, oldest first."""
    job_ids = select(jobs.c.job_id).where(jobs.c.job_number.in_(_job_numbers(selection)))
    return recorded_events.find_where(transaction, events.c.job_id.in_(job_ids))


def instance_events(transaction: Transaction, selection: InstanceSelection) -> list[Event]:
    """Return the events of the selected instances, oldest first, without `instance_reclaimed` (the rows show it)."""
    is_other = events.c.event != "instance_reclaimed"
    return recorded_events.find_where(transaction, events.c.instance_id.in_(_ids(selection)) & is_other)


def association_ends(transaction: Transaction, selection: InstanceSelection) -> list[Event]:
    """Return the ends of the associations that sent the selected instances or duplicates of them, oldest first."""
    of_first = select(instances.c.association_id).where(selection)
    of_duplicates = select(events.c.association_id).where(events.c.instance_id.in_(_ids(selection))).correlate(None)
    is_end = events.c.event == "association_closed"
    return recorded_events.find_where(transaction, events.c.association_id.in_(union(of_first, of_duplicates)) & is_end)


def ae_title_events(transaction: Transaction, ae_title: str, since: datetime, until: datetime) -> list[Event]:
    """Return the events that concern a whole AE title, for example the stop of its lane, oldest first."""
    is_in_time = events.c.at.between(since, until) & (events.c.ae_title == ae_title)
    return recorded_events.find_where(transaction, is_in_time & text(CONCERNS_AE_TITLE))


def _ids(selection: InstanceSelection) -> Select[tuple[int]]:
    return select(instances.c.instance_id).where(selection).correlate(None)


def _job_numbers(selection: InstanceSelection) -> Select[tuple[int]]:
    return select(job_instances.c.job_number).where(job_instances.c.instance_id.in_(_ids(selection))).correlate(None)
