"""Changes and queries of the index by the processor: kept instances, pinned studies and composed jobs.

The ledger is authoritative for instances and jobs. The index is committed before the turn that changes it. If that turn
fails, a new processor compares the index with the instances that are delivered again. Therefore the index must never
record an effect of the current turn as done.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from attrs import frozen
from sqlalchemy import ColumnElement, Select, delete, exists, func, select, update

from dicom_adapter import InstanceStorageInfo
from dicom_adapter_cache.database import Database, Transaction
from dicom_adapter_cache.header import Attributes
from dicom_adapter_cache.rows import (
    INSTANCE_COLUMNS,
    SeriesKey,
    SeriesPlace,
    add_to_counts,
    chunks,
    delete_rows,
    inserted_id,
    instance_row,
    series_key_of,
    study_row,
)
from dicom_adapter_cache.schema import instances, job_instances, jobs, series, studies

_INFO = [
    instances.c.instance_id,
    instances.c.sop_instance_uid,
    *(instances.c[name] for name in INSTANCE_COLUMNS),
    studies.c.ae_title,
    studies.c.study_instance_uid,
    series.c.series_instance_uid,
    studies.c.patient_id,
    studies.c.issuer_of_patient_id,
]


@frozen(kw_only=True)
class KeptJob:
    """A composed job in the index."""

    job_id: str
    keep: bool
    fingerprint: str
    finished: bool


@frozen(kw_only=True)
class IdleStudy:
    """A study that may be evicted."""

    study_id: int
    study_instance_uid: str
    last_use: datetime
    size_bytes: int


class Index:
    """The index of one AE title. Not thread-safe: used by the lane thread only."""

    def __init__(self, database: Database, ae_title: str) -> None:
        self._database = database
        self._ae_title = ae_title
        self._places: dict[SeriesKey, SeriesPlace] = {}

    # --- instances ----------------------------------------------------------------------------------------------------

    def known(self) -> set[int]:
        """Return the ids of all instances."""
        with self._database.read() as transaction:
            return set(transaction.execute(_of(select(instances.c.instance_id), self._ae_title)).scalars())

    def knows(self, key: SeriesKey) -> bool:
        """Return whether the series is in the index."""
        if key not in self._places:
            query = (
                select(studies.c.study_id, series.c.series_id)
                .join(series, series.c.study_id == studies.c.study_id)
                .where(studies.c.ae_title == self._ae_title, studies.c.study_instance_uid == key[0])
                .where(series.c.series_instance_uid == key[1])
            )
            with self._database.read() as transaction:
                found = transaction.execute(query).one_or_none()
            if found is None:
                return False
            self._places[key] = SeriesPlace(found[0], found[1])
        return True

    def add(self, arrived: Sequence[InstanceStorageInfo], found: Mapping[SeriesKey, Attributes]) -> set[int]:
        """Insert instances; `found` contains the attributes of new series.

        Returns the ids of replaced instances: only the last arrival of each SOP instance is kept.
        """
        newest = {instance.sop_instance_uid: instance for instance in arrived}
        first = {series_key_of(instance): instance for instance in reversed(arrived)}
        with self._database.write() as transaction:
            new = {key: self._add_series(transaction, first[key], own) for key, own in found.items()}
            places = {**self._places, **new}
            older = self._same(transaction, newest)
            rows = [instance_row(instance, places[series_key_of(instance)]) for instance in newest.values()]
            transaction.execute(instances.insert(), rows)
            add_to_counts(transaction, newest.values(), places)
            delete_rows(transaction, older)
        self._places = {} if older else places  # a series may have been deleted with an older instance
        return older | {instance.instance_id for instance in arrived if newest[instance.sop_instance_uid] != instance}

    def _add_series(self, transaction: Transaction, instance: InstanceStorageInfo, found: Attributes) -> SeriesPlace:
        uid = instance.study_instance_uid
        query = select(studies.c.study_id).where(
            studies.c.ae_title == self._ae_title, studies.c.study_instance_uid == uid
        )
        study_id = transaction.execute(query).scalar()
        if study_id is None:
            study_id = inserted_id(transaction.execute(studies.insert().values(study_row(instance, found))))
        transaction.execute(
            update(studies).where(studies.c.study_id == study_id).values(series_count=studies.c.series_count + 1)
        )
        row = {
            "study_id": study_id,
            "series_instance_uid": instance.series_instance_uid,
            "modality": found.modality,
            "series_description": found.series_description,
            "body_part_examined": found.body_part_examined,
            "instance_count": 0,
            "size_bytes": 0,
        }
        return SeriesPlace(study_id, inserted_id(transaction.execute(series.insert().values(row))))

    def _same(self, transaction: Transaction, uids: Iterable[str]) -> set[int]:
        """Return the ids of the instances with these SOP Instance UIDs."""
        query = _of(select(instances.c.instance_id), self._ae_title)
        return {
            number
            for chunk in chunks(uids)
            for number in transaction.execute(query.where(instances.c.sop_instance_uid.in_(chunk))).scalars()
        }

    def remove(self, instance_ids: Iterable[int]) -> None:
        """Delete instances, and the series and studies that are empty afterwards."""
        self._places.clear()
        with self._database.write() as transaction:
            delete_rows(transaction, instance_ids)

    def total_bytes(self) -> int:
        """Return the size of all instances."""
        query = select(func.coalesce(func.sum(studies.c.size_bytes), 0)).where(studies.c.ae_title == self._ae_title)
        with self._database.read() as transaction:
            total: int = transaction.execute(query).scalar_one()
            return total

    def of_studies(self, study_ids: Sequence[int]) -> list[InstanceStorageInfo]:
        """Return the instances of studies in order of arrival."""
        return self._infos(series.c.study_id, study_ids)

    def of_numbers(self, instance_ids: Sequence[int]) -> list[InstanceStorageInfo]:
        """Return the instances with these ids; missing ones are skipped."""
        return self._infos(instances.c.instance_id, instance_ids)

    def _infos(self, column: ColumnElement[Any], values: Sequence[Any]) -> list[InstanceStorageInfo]:
        with self._database.read() as transaction:
            return read_instances(transaction, self._ae_title, column, values)

    # --- studies ------------------------------------------------------------------------------------------------------

    def find_study(self, uid: str) -> int | None:
        """Return the row id of the study with this UID, or None."""
        query = select(studies.c.study_id).where(
            studies.c.ae_title == self._ae_title, studies.c.study_instance_uid == uid
        )
        with self._database.read() as transaction:
            found: int | None = transaction.execute(query).scalar()
            return found

    def pin(self, study_id: int, *, pinned: bool) -> None:
        """Pin or unpin a study."""
        with self._database.write() as transaction:
            transaction.execute(update(studies).where(studies.c.study_id == study_id).values(pinned=pinned))

    def use(self, study_ids: Iterable[int], at: datetime) -> None:
        """Update the time of the last use of studies."""
        with self._database.write() as transaction:
            for chunk in chunks(study_ids):
                transaction.execute(update(studies).where(studies.c.study_id.in_(chunk)).values(last_use=at))

    def idle(self, arrived_before: datetime, limit: int) -> list[IdleStudy]:
        """Return studies that may be evicted: unpinned, complete, in no unfinished job; least recently used first."""
        in_job = exists().where(
            series.c.study_id == studies.c.study_id,
            instances.c.series_id == series.c.series_id,
            job_instances.c.instance_id == instances.c.instance_id,
        )
        query = (
            select(studies.c.study_id, studies.c.study_instance_uid, studies.c.last_use, studies.c.size_bytes)
            .where(studies.c.ae_title == self._ae_title, studies.c.pinned.is_(False), ~in_job)
            .where(studies.c.last_arrival <= arrived_before)
            .order_by(studies.c.last_use, studies.c.study_id)
            .limit(limit)
        )
        with self._database.read() as transaction:
            return [IdleStudy(**row._mapping) for row in transaction.execute(query)]

    def pinned_among(self, instance_ids: Sequence[int]) -> set[int]:
        """Return the ids of those instances whose study is pinned."""
        query = _of(select(instances.c.instance_id), self._ae_title).where(studies.c.pinned)
        with self._database.read() as transaction:
            return {
                number
                for chunk in chunks(instance_ids)
                for number in transaction.execute(query.where(instances.c.instance_id.in_(chunk))).scalars()
            }

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def add_job(self, job: KeptJob, instance_ids: Iterable[int], at: datetime) -> None:
        """Insert a job and its instances."""
        row = {"ae_title": self._ae_title, "created_at": at, "job_id": job.job_id, "keep": job.keep}
        rows = [{"job_id": job.job_id, "instance_id": number} for number in instance_ids]
        with self._database.write() as transaction:
            transaction.execute(delete(jobs).where(jobs.c.job_id == job.job_id))  # left by a failed turn
            transaction.execute(jobs.insert().values(**row, fingerprint=job.fingerprint, finished=job.finished))
            transaction.execute(job_instances.insert(), rows)

    def find_job(self, job_id: str) -> KeptJob | None:
        """Return the job with this id, or None."""
        with self._database.read() as transaction:
            return next(iter(_jobs(transaction, jobs.c.job_id == job_id)), None)

    def unfinished_jobs(self) -> list[KeptJob]:
        """Return the unfinished jobs."""
        with self._database.read() as transaction:
            return _jobs(transaction, (jobs.c.ae_title == self._ae_title) & jobs.c.finished.is_(False))

    def of_job(self, job_id: str) -> list[int]:
        """Return the ids of an unfinished job's instances."""
        query = select(job_instances.c.instance_id).where(job_instances.c.job_id == job_id)
        with self._database.read() as transaction:
            return list(transaction.execute(query).scalars())

    def finish_job(self, job_id: str) -> None:
        """Mark a job as finished and release its instances."""
        with self._database.write() as transaction:
            transaction.execute(update(jobs).where(jobs.c.job_id == job_id).values(finished=True))
            transaction.execute(delete(job_instances).where(job_instances.c.job_id == job_id))

    def forget_job(self, job_id: str) -> None:
        """Delete a job that is not in the ledger."""
        with self._database.write() as transaction:
            transaction.execute(delete(jobs).where(jobs.c.job_id == job_id))

    def close(self) -> None:
        self._database.close()


def read_instances(
    transaction: Transaction, ae_title: str, column: ColumnElement[Any], values: Iterable[Any]
) -> list[InstanceStorageInfo]:
    """Return the instances that have one of `values` in `column`, in order of arrival."""
    query = _of(select(*_INFO), ae_title)
    found = [
        InstanceStorageInfo(**row._mapping)
        for chunk in chunks(values)
        for row in transaction.execute(query.where(column.in_(chunk)))
    ]
    return sorted(found, key=lambda instance: instance.instance_id)


def _of(query: Select[Any], ae_title: str) -> Select[Any]:
    """Restrict a query of instances to one AE title."""
    return (
        query.select_from(instances)
        .join(series, series.c.series_id == instances.c.series_id)
        .join(studies, studies.c.study_id == series.c.study_id)
        .where(studies.c.ae_title == ae_title)
    )


def _jobs(transaction: Transaction, condition: ColumnElement[bool]) -> list[KeptJob]:
    query = select(jobs.c.job_id, jobs.c.keep, jobs.c.fingerprint, jobs.c.finished).where(condition)
    return [KeptJob(**row._mapping) for row in transaction.execute(query)]
