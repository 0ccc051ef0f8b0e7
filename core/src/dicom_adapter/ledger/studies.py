"""Studies that operators look for, with the attributes by which operators recognize them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from attrs import field, frozen
from sqlalchemy import func, select

from dicom_adapter.ledger.connection import Transaction
from dicom_adapter.ledger.filters import NO_FILTERS, Filters
from dicom_adapter.ledger.schema import instances, job_instances, jobs
from dicom_adapter.ledger.series import ArrivedSeries, of_studies


@frozen(kw_only=True)
class StudySummary:
    """A study of which instances have arrived."""

    study_instance_uid: str
    instances: int  # number of the instances that were looked for
    first_at: datetime  # UTC; arrival of the first of them
    last_at: datetime  # UTC; arrival of the last of them
    ae_titles: Sequence[str]
    calling_ae_titles: Sequence[str]
    jobs: Mapping[str, int]  # number of jobs with instances of the study, by state
    series: Sequence[ArrivedSeries] = field(repr=False)  # patient data

    @property
    def modalities(self) -> list[str]:
        """The modalities of the study, without repetition."""
        return sorted({one.modality for one in self.series if one.modality})


def find(transaction: Transaction, wanted: Filters, limit: int) -> list[StudySummary]:
    """Return the studies of the selected instances, the newest first."""
    uid, at = instances.c.study_instance_uid, instances.c.received_at
    query = select(uid, func.count(), func.min(at), func.max(at)).where(wanted.of_instances()).group_by(uid)
    rows = transaction.execute(query.order_by(func.max(at).desc()).limit(limit)).all()
    return _summaries(transaction, wanted, rows)


def summaries(transaction: Transaction, study_instance_uids: Collection[str]) -> list[StudySummary]:
    """Return these studies with all their instances."""
    uid, at = instances.c.study_instance_uid, instances.c.received_at
    query = select(uid, func.count(), func.min(at), func.max(at)).where(uid.in_(study_instance_uids)).group_by(uid)
    return _summaries(transaction, NO_FILTERS, transaction.execute(query).all())


def _summaries(transaction: Transaction, wanted: Filters, rows: Sequence[Any]) -> list[StudySummary]:
    if not rows:
        return []
    uids = [row[0] for row in rows]
    senders, found_jobs = _senders(transaction, wanted, uids), _jobs(transaction, uids)
    found_series = _series(transaction, uids)
    return [
        StudySummary(
            study_instance_uid=row[0],
            instances=row[1],
            first_at=row[2],
            last_at=row[3],
            ae_titles=sorted({called for called, _calling in senders.get(row[0], ())}),
            calling_ae_titles=sorted({calling for _called, calling in senders.get(row[0], ())}),
            jobs=found_jobs.get(row[0], {}),
            series=found_series.get(row[0], ()),
        )
        for row in rows
    ]


def _senders(transaction: Transaction, wanted: Filters, uids: Collection[str]) -> dict[str, list[tuple[str, str]]]:
    columns = instances.c.study_instance_uid, instances.c.ae_title, instances.c.calling_ae_title
    query = select(*columns).where(columns[0].in_(uids), wanted.of_instances()).distinct()
    return _grouped(transaction.execute(query).all())


def _jobs(transaction: Transaction, uids: Collection[str]) -> dict[str, dict[str, int]]:
    columns = instances.c.study_instance_uid, jobs.c.state
    query = (
        select(*columns, func.count(jobs.c.job_number.distinct()))
        .join_from(instances, job_instances, job_instances.c.instance_id == instances.c.instance_id)
        .join(jobs, jobs.c.job_number == job_instances.c.job_number)
        .where(columns[0].in_(uids))
        .group_by(*columns)
    )
    return {uid: dict(counts) for uid, counts in _grouped(transaction.execute(query).all()).items()}


def _series(transaction: Transaction, uids: Collection[str]) -> dict[str, list[ArrivedSeries]]:
    found: dict[str, list[ArrivedSeries]] = {}
    for one in of_studies(transaction, uids):
        found.setdefault(one.study_instance_uid, []).append(one)
    return found


def _grouped(rows: Sequence[Any]) -> dict[str, list[Any]]:
    """Return the rest of each row by its first value."""
    found: dict[str, list[Any]] = {}
    for first, *rest in rows:
        found.setdefault(first, []).append(tuple(rest))
    return found
