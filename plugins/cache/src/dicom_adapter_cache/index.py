"""Changes and queries of the index by the processor: instances, pinned studies and composed jobs.

The ledger is authoritative for instances and jobs. The index is committed before the turn that changes it. If that turn
fails, a new processor compares the index with the instances that are delivered again. Therefore a turn must not record
its own effects as done: a later turn does this.

A *header* is the row with the attributes that several instances of a series have in common.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from attrs import evolve, fields, frozen
from sqlalchemy import ColumnElement, Select, delete, exists, func, select, update

from dicom_adapter import InstanceStorageInfo
from dicom_adapter_cache.database import Database, Transaction
from dicom_adapter_cache.header import Attributes, exact
from dicom_adapter_cache.rows import (
    INSTANCE_COLUMNS,
    DescribedInstance,
    HeaderKey,
    HeaderPlace,
    chunks,
    delete_instances,
    ensure_header,
    instance_row,
    limit_times,
    note_arrivals,
    update_summaries,
)
from dicom_adapter_cache.schema import headers, instances, job_instances, jobs, series, studies

_INFO = [  # the fields of InstanceStorageInfo
    instances.c.instance_id,
    instances.c.sop_instance_uid,
    *(instances.c[name] for name in INSTANCE_COLUMNS),
    studies.c.ae_title,
    studies.c.study_instance_uid,
    series.c.series_instance_uid,
    headers.c.patient_id,
    headers.c.issuer_of_patient_id,
]


@frozen(kw_only=True)
class KeptJob:
    """A composed job in the index."""

    job_id: str
    keep: bool  # False: delete the instances after the job has been submitted
    fingerprint: str  # digest of the order
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
        self._places: dict[HeaderKey, HeaderPlace] = {}

    # --- instances ----------------------------------------------------------------------------------------------------

    def known(self) -> set[int]:
        """Return the ids of all instances."""
        with self._database.read() as transaction:
            return set(transaction.execute(_at_ae_title(select(instances.c.instance_id), self._ae_title)).scalars())

    def instances_from(self, instance_id: int, limit: int) -> list[InstanceStorageInfo]:
        """Return at most `limit` instances whose id is at least `instance_id`, in order of arrival."""
        query = _at_ae_title(select(*_INFO), self._ae_title).where(instances.c.instance_id >= instance_id)
        with self._database.read() as transaction:
            rows = transaction.execute(query.order_by(instances.c.instance_id).limit(limit))
            return [InstanceStorageInfo(**row._mapping) for row in rows]

    def add(
        self, arrived: Sequence[DescribedInstance], to_replace: Iterable[int] = (), latest: datetime | None = None
    ) -> set[int]:
        """Delete the rows of the instances with the ids `to_replace`, which are wrong, then insert instances.

        `latest` limits the times of studies, see `limit_times`. Returns the ids of replaced instances: only the last
        arrival of each SOP instance is kept.
        """
        newest = {arrival.instance.sop_instance_uid: arrival for arrival in arrived}
        with self._database.write() as transaction:
            touched = delete_instances(transaction, to_replace)
            older = self._ids_with(transaction, newest)
            touched |= delete_instances(transaction, older)
            places = {} if touched else dict(self._places)  # a header may be deleted with its last instance
            for arrival in newest.values():
                if arrival.key not in places:
                    places[arrival.key] = ensure_header(transaction, self._ae_title, arrival)
            placed = [(places[arrival.key], arrival.instance) for arrival in newest.values()]
            transaction.execute(instances.insert(), [instance_row(instance, place) for place, instance in placed])
            note_arrivals(transaction, [(place.study_id, instance) for place, instance in placed])
            if latest is not None:
                limit_times(transaction, self._ae_title, latest)
            update_summaries(transaction, touched | {place.header_id for place, _instance in placed})
        self._places = places
        return older | {each.instance.instance_id for each in arrived if newest[each.instance.sop_instance_uid] != each}

    def _ids_with(self, transaction: Transaction, uids: Iterable[str]) -> set[int]:
        """Return the ids of the instances with these SOP Instance UIDs."""
        query = _at_ae_title(select(instances.c.instance_id), self._ae_title)
        return {
            instance_id
            for chunk in chunks(uids)
            for instance_id in transaction.execute(query.where(instances.c.sop_instance_uid.in_(chunk))).scalars()
        }

    def remove(self, instance_ids: Iterable[int]) -> None:
        """Delete instances, and the series and studies that are empty afterwards."""
        self._places.clear()
        with self._database.write() as transaction:
            update_summaries(transaction, delete_instances(transaction, instance_ids))

    def recount(self, after: int, limit: int) -> dict[int, tuple[InstanceStorageInfo, Attributes]]:
        """Update the counts, series and studies of at most `limit` headers with ids above `after`.

        Returns the newest instance and the attributes of each of these headers, by header id.
        """
        columns = [headers.c[field.name] for field in fields(Attributes)]
        is_next = (studies.c.ae_title == self._ae_title) & (headers.c.header_id > after)
        query = select(headers.c.header_id, headers.c.newest, *columns).join(studies).where(is_next)
        with self._database.write() as transaction:
            header_ids = list(transaction.execute(query.order_by(headers.c.header_id).limit(limit)).scalars())
            update_summaries(transaction, header_ids)
            rows = transaction.execute(query.where(headers.c.header_id.in_(header_ids))).all()
            newest = [row.newest for row in rows]
            newest_instances = read_instances(transaction, self._ae_title, instances.c.instance_id, newest)
        by_id = {instance.instance_id: instance for instance in newest_instances}
        return {
            row.header_id: (by_id[row.newest], Attributes(**{c.name: row._mapping[c] for c in columns})) for row in rows
        }

    def of_headers(self, header_ids: Sequence[int]) -> list[InstanceStorageInfo]:
        """Return the instances with these headers in order of arrival."""
        return self._infos(headers.c.header_id, header_ids)

    def total_bytes(self) -> int:
        """Return the size of all instances."""
        query = select(func.coalesce(func.sum(studies.c.size_bytes), 0)).where(studies.c.ae_title == self._ae_title)
        with self._database.read() as transaction:
            total: int = transaction.execute(query).scalar_one()
            return total

    def of_studies(self, study_ids: Sequence[int]) -> list[InstanceStorageInfo]:
        """Return the instances of studies in order of arrival."""
        return self._infos(headers.c.study_id, study_ids)

    def with_ids(self, instance_ids: Sequence[int]) -> list[InstanceStorageInfo]:
        """Return the instances with these ids. Ids without an instance are omitted."""
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
            study_id: int | None = transaction.execute(query).scalar()
            return study_id

    def limit_times(self, latest: datetime) -> None:
        """Replace all later times of studies by `latest`: they are in the future, because the clock was put back."""
        with self._database.write() as transaction:
            limit_times(transaction, self._ae_title, latest)

    def pin(self, study_id: int, *, pinned: bool) -> None:
        """Pin or unpin a study."""
        with self._database.write() as transaction:
            transaction.execute(update(studies).where(studies.c.study_id == study_id).values(pinned=pinned))

    def use(self, study_ids: Iterable[int], at: datetime) -> None:
        """Update the time of the last use of studies."""
        with self._database.write() as transaction:
            for chunk in chunks(study_ids):
                transaction.execute(update(studies).where(studies.c.study_id.in_(chunk)).values(last_use=at))

    def idle(self, cutoff: datetime, limit: int) -> list[IdleStudy]:
        """Return studies that may be evicted, the least recently used first.

        A study may be evicted if it is not pinned, no unfinished job contains it, and no instance of it arrived after
        `cutoff`.
        """
        in_job = exists().where(
            headers.c.study_id == studies.c.study_id,
            instances.c.header_id == headers.c.header_id,
            job_instances.c.instance_id == instances.c.instance_id,
        )
        query = (
            select(studies.c.study_id, studies.c.study_instance_uid, studies.c.last_use, studies.c.size_bytes)
            .where(studies.c.ae_title == self._ae_title, studies.c.pinned.is_(False), ~in_job)
            .where(studies.c.last_arrival <= cutoff)
            .order_by(studies.c.last_use, studies.c.study_id)
            .limit(limit)
        )
        with self._database.read() as transaction:
            return [IdleStudy(**row._mapping) for row in transaction.execute(query)]

    def pinned_among(self, instance_ids: Sequence[int]) -> set[int]:
        """Return the ids of the instances among these whose study is pinned."""
        query = _at_ae_title(select(instances.c.instance_id), self._ae_title).where(studies.c.pinned)
        with self._database.read() as transaction:
            return {
                instance_id
                for chunk in chunks(instance_ids)
                for instance_id in transaction.execute(query.where(instances.c.instance_id.in_(chunk))).scalars()
            }

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def add_job(self, job: KeptJob, instance_ids: Iterable[int], at: datetime) -> None:
        """Insert a job and its instances."""
        row = {"ae_title": self._ae_title, "created_at": at, "job_id": job.job_id, "keep": job.keep}
        rows = [{"job_id": job.job_id, "instance_id": instance_id} for instance_id in instance_ids]
        with self._database.write() as transaction:
            transaction.execute(delete(jobs).where(jobs.c.job_id == job.job_id))  # the row of a turn that failed
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
        """Mark a job as finished and delete the list of its instances."""
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
    query = _at_ae_title(select(*_INFO), ae_title)
    matching = [
        InstanceStorageInfo(**row._mapping)
        for chunk in chunks(values)
        for row in transaction.execute(query.where(column.in_(chunk)))
    ]
    return sorted(matching, key=lambda instance: instance.instance_id)


def _at_ae_title(query: Select[Any], ae_title: str) -> Select[Any]:
    """Restrict a query of instances to one AE title."""
    return joined(query).where(studies.c.ae_title == ae_title)


def joined(query: Select[Any]) -> Select[Any]:
    """Return the query with each instance's header, series and study."""
    return (
        query.select_from(instances)
        .join(headers, headers.c.header_id == instances.c.header_id)
        .join(series, series.c.series_id == headers.c.series_id)
        .join(studies, studies.c.study_id == headers.c.study_id)
    )


def as_indexed(instance: InstanceStorageInfo) -> InstanceStorageInfo:
    """Return the instance as the index stores it."""
    return evolve(
        instance,
        patient_id=exact(instance.patient_id),
        issuer_of_patient_id=exact(instance.issuer_of_patient_id),
    )


def _jobs(transaction: Transaction, condition: ColumnElement[bool]) -> list[KeptJob]:
    query = select(jobs.c.job_id, jobs.c.keep, jobs.c.fingerprint, jobs.c.finished).where(condition)
    return [KeptJob(**row._mapping) for row in transaction.execute(query)]
