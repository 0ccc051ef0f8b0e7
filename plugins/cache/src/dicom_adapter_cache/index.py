"""The index as the processor writes it: what is kept, what is pinned, and which jobs were made of it.

The ledger is the truth about instances and jobs. The index is committed before the turn that it belongs to: when that
turn fails, the processor is built anew, and `Index` is compared with what the ledger delivers. So nothing is written
here as done that the same turn does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, TypeAlias, TypeVar

from attrs import frozen
from sqlalchemy import ColumnElement, Select, bindparam, delete, exists, func, select, update

from dicom_adapter import InstanceStorageInfo
from dicom_adapter_cache.database import Database, Transaction
from dicom_adapter_cache.header import Attributes, clean, folded
from dicom_adapter_cache.schema import instances, job_instances, jobs, series, studies

CHUNK = 500  # values in one IN (…): below every database's limit of parameters
OWN = (
    "sop_class_uid",
    "transfer_syntax_uid",
    "calling_ae_title",
    "peer_address",
    "association_id",
    "received_at",
    "storage_key",
    "size_bytes",
    "checksum",
)
_INFO = [
    instances.c.instance_id,
    instances.c.sop_instance_uid,
    *(instances.c[name] for name in OWN),
    studies.c.ae_title,
    studies.c.study_instance_uid,
    series.c.series_instance_uid,
    studies.c.patient_id,
    studies.c.issuer_of_patient_id,
]

T = TypeVar("T")
Key: TypeAlias = tuple[str, str]  # Study Instance UID and Series Instance UID: a series


@frozen
class SeriesPlace:
    """Where the instances of a series lie in the index."""

    study_id: int
    series_id: int


@frozen(kw_only=True)
class KeptJob:
    """A composed job, as the index remembers it."""

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
    """The rows of one AE title. Used on its lane."""

    def __init__(self, database: Database, ae_title: str) -> None:
        self._database = database
        self._ae_title = ae_title
        self._places: dict[Key, SeriesPlace] = {}

    # --- instances ----------------------------------------------------------------------------------------------------

    def known(self) -> set[int]:
        """The numbers of all instances."""
        with self._database.read() as transaction:
            return set(transaction.execute(_of(select(instances.c.instance_id), self._ae_title)).scalars())

    def knows(self, key: Key) -> bool:
        """Whether there is such a series."""
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

    def add(self, arrived: Sequence[InstanceStorageInfo], found: Mapping[Key, Attributes]) -> set[int]:
        """Add instances; `found` has the attributes of series that are new.

        Returns the numbers of those that newer ones stand for: of each SOP instance the last one counts.
        """
        newest = {instance.sop_instance_uid: instance for instance in arrived}
        first = {key_of(instance): instance for instance in reversed(arrived)}
        with self._database.write() as transaction:
            new = {key: self._add_series(transaction, first[key], own) for key, own in found.items()}
            places = {**self._places, **new}
            older = self._same(transaction, newest)
            rows = [_row(instance, places[key_of(instance)]) for instance in newest.values()]
            transaction.execute(instances.insert(), rows)
            _count(transaction, newest.values(), places)
            _remove(transaction, older)
        self._places = {} if older else places  # a series may have gone with an older one
        return older | {instance.instance_id for instance in arrived if newest[instance.sop_instance_uid] != instance}

    def _add_series(self, transaction: Transaction, instance: InstanceStorageInfo, found: Attributes) -> SeriesPlace:
        uid = instance.study_instance_uid
        query = select(studies.c.study_id).where(
            studies.c.ae_title == self._ae_title, studies.c.study_instance_uid == uid
        )
        study_id = transaction.execute(query).scalar()
        if study_id is None:
            study_id = _inserted(transaction.execute(studies.insert().values(_study(instance, found))))
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
        return SeriesPlace(study_id, _inserted(transaction.execute(series.insert().values(row))))

    def _same(self, transaction: Transaction, uids: Iterable[str]) -> set[int]:
        """The numbers of what is there of these SOP instances."""
        query = _of(select(instances.c.instance_id), self._ae_title)
        return {
            number
            for chunk in chunks(uids)
            for number in transaction.execute(query.where(instances.c.sop_instance_uid.in_(chunk))).scalars()
        }

    def remove(self, instance_ids: Iterable[int]) -> None:
        """Forget these instances, and the series and studies that are empty then."""
        self._places.clear()
        with self._database.write() as transaction:
            _remove(transaction, instance_ids)

    def total_bytes(self) -> int:
        """The room that all instances take."""
        query = select(func.coalesce(func.sum(studies.c.size_bytes), 0)).where(studies.c.ae_title == self._ae_title)
        with self._database.read() as transaction:
            total: int = transaction.execute(query).scalar_one()
            return total

    def of_studies(self, study_ids: Sequence[int]) -> list[InstanceStorageInfo]:
        """The instances of studies, in the order of their arrival."""
        return self._infos(series.c.study_id, study_ids)

    def of_numbers(self, instance_ids: Sequence[int]) -> list[InstanceStorageInfo]:
        """The instances with these numbers, as far as they are there."""
        return self._infos(instances.c.instance_id, instance_ids)

    def _infos(self, column: ColumnElement[Any], values: Sequence[Any]) -> list[InstanceStorageInfo]:
        with self._database.read() as transaction:
            return infos(transaction, self._ae_title, column, values)

    # --- studies ------------------------------------------------------------------------------------------------------

    def find_study(self, uid: str) -> int | None:
        """The number of the study with this UID."""
        query = select(studies.c.study_id).where(
            studies.c.ae_title == self._ae_title, studies.c.study_instance_uid == uid
        )
        with self._database.read() as transaction:
            found: int | None = transaction.execute(query).scalar()
            return found

    def pin(self, study_id: int, *, pinned: bool) -> None:
        """Keep a study whatever its age, or do so no longer."""
        with self._database.write() as transaction:
            transaction.execute(update(studies).where(studies.c.study_id == study_id).values(pinned=pinned))

    def use(self, study_ids: Iterable[int], at: datetime) -> None:
        """Remember that these studies were used."""
        with self._database.write() as transaction:
            for chunk in chunks(study_ids):
                transaction.execute(update(studies).where(studies.c.study_id.in_(chunk)).values(last_use=at))

    def idle(self, arrived_before: datetime, limit: int) -> list[IdleStudy]:
        """Studies that may be evicted, the longest unused first: unpinned, arrived, and in no unfinished job."""
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
        """Those of these instances whose studies are pinned."""
        query = _of(select(instances.c.instance_id), self._ae_title).where(studies.c.pinned)
        with self._database.read() as transaction:
            return {
                number
                for chunk in chunks(instance_ids)
                for number in transaction.execute(query.where(instances.c.instance_id.in_(chunk))).scalars()
            }

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def add_job(self, job: KeptJob, instance_ids: Iterable[int], at: datetime) -> None:
        """Remember a job and what it is made of."""
        row = {"ae_title": self._ae_title, "created_at": at, "job_id": job.job_id, "keep": job.keep}
        rows = [{"job_id": job.job_id, "instance_id": number} for number in instance_ids]
        with self._database.write() as transaction:
            transaction.execute(delete(jobs).where(jobs.c.job_id == job.job_id))  # of a turn that did not count
            transaction.execute(jobs.insert().values(**row, fingerprint=job.fingerprint, finished=job.finished))
            transaction.execute(job_instances.insert(), rows)

    def find_job(self, job_id: str) -> KeptJob | None:
        """The job with this id."""
        with self._database.read() as transaction:
            return next(iter(_jobs(transaction, jobs.c.job_id == job_id)), None)

    def unfinished_jobs(self) -> list[KeptJob]:
        """The jobs whose end is not known yet."""
        with self._database.read() as transaction:
            return _jobs(transaction, (jobs.c.ae_title == self._ae_title) & jobs.c.finished.is_(False))

    def of_job(self, job_id: str) -> list[int]:
        """The numbers of an unfinished job's instances."""
        query = select(job_instances.c.instance_id).where(job_instances.c.job_id == job_id)
        with self._database.read() as transaction:
            return list(transaction.execute(query).scalars())

    def finish_job(self, job_id: str) -> None:
        """Remember that a job needs its instances no longer."""
        with self._database.write() as transaction:
            transaction.execute(update(jobs).where(jobs.c.job_id == job_id).values(finished=True))
            transaction.execute(delete(job_instances).where(job_instances.c.job_id == job_id))

    def forget_job(self, job_id: str) -> None:
        """Forget a job that there is not, or not any more."""
        with self._database.write() as transaction:
            transaction.execute(delete(jobs).where(jobs.c.job_id == job_id))

    def close(self) -> None:
        self._database.close()


def key_of(instance: InstanceStorageInfo) -> Key:
    """The series that an instance belongs to."""
    return instance.study_instance_uid, instance.series_instance_uid


def infos(
    transaction: Transaction, ae_title: str, column: ColumnElement[Any], values: Iterable[Any]
) -> list[InstanceStorageInfo]:
    """The instances that have one of these values in a column, in the order of their arrival."""
    query = _of(select(*_INFO), ae_title)
    found = [
        InstanceStorageInfo(**row._mapping)
        for chunk in chunks(values)
        for row in transaction.execute(query.where(column.in_(chunk)))
    ]
    return sorted(found, key=lambda instance: instance.instance_id)


def chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """So many at a time as one statement takes."""
    iterator = iter(items)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk


def _of(query: Select[Any], ae_title: str) -> Select[Any]:
    """A query of instances, of one AE title."""
    return (
        query.select_from(instances)
        .join(series, series.c.series_id == instances.c.series_id)
        .join(studies, studies.c.study_id == series.c.study_id)
        .where(studies.c.ae_title == ae_title)
    )


def _jobs(transaction: Transaction, condition: ColumnElement[bool]) -> list[KeptJob]:
    query = select(jobs.c.job_id, jobs.c.keep, jobs.c.fingerprint, jobs.c.finished).where(condition)
    return [KeptJob(**row._mapping) for row in transaction.execute(query)]


def _row(instance: InstanceStorageInfo, place: SeriesPlace) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(instance, name) for name in OWN}
    row |= {"instance_id": instance.instance_id, "sop_instance_uid": instance.sop_instance_uid}
    return {**row, "series_id": place.series_id}


def _study(instance: InstanceStorageInfo, found: Attributes) -> dict[str, Any]:
    return {
        "ae_title": instance.ae_title,
        "study_instance_uid": instance.study_instance_uid,
        "patient_id": clean(instance.patient_id),
        "issuer_of_patient_id": clean(instance.issuer_of_patient_id),
        "patient_name": found.patient_name,
        "patient_birth_date": found.patient_birth_date,
        "patient_sex": found.patient_sex,
        "study_date": found.study_date,
        "study_time": found.study_time,
        "accession_number": found.accession_number,
        "study_description": found.study_description,
        "patient_id_folded": folded(instance.patient_id),
        "patient_name_folded": folded(found.patient_name),
        "accession_number_folded": folded(found.accession_number),
        "study_description_folded": folded(found.study_description),
        "series_count": 0,
        "instance_count": 0,
        "size_bytes": 0,
        "first_arrival": instance.received_at,
        "last_arrival": instance.received_at,
        "last_use": instance.received_at,
        "pinned": False,
    }


def _count(transaction: Transaction, arrived: Iterable[InstanceStorageInfo], places: Mapping[Key, SeriesPlace]) -> None:
    """Add instances to the counts of their series and studies."""
    of_series: dict[int, dict[str, Any]] = {}
    of_study: dict[int, dict[str, Any]] = {}
    for instance in arrived:
        place = places[key_of(instance)]
        for number, counts in ((place.series_id, of_series), (place.study_id, of_study)):
            own = counts.setdefault(number, {"number": number, "more": 0, "size": 0})
            own["more"] += 1
            own["size"] += instance.size_bytes
            own["at"] = instance.received_at
    for table, key, counts in ((series, series.c.series_id, of_series), (studies, studies.c.study_id, of_study)):
        values: dict[str, Any] = {
            "instance_count": table.c.instance_count + bindparam("more"),
            "size_bytes": table.c.size_bytes + bindparam("size"),
        }
        if table is studies:
            at = bindparam("at", type_=studies.c.last_use.type)
            values |= {"last_arrival": at, "last_use": at}
        else:
            counts = {number: {k: v for k, v in own.items() if k != "at"} for number, own in counts.items()}
        transaction.execute(update(table).where(key == bindparam("number")).values(values), list(counts.values()))


def _remove(transaction: Transaction, instance_ids: Iterable[int]) -> None:
    touched: set[tuple[int, int]] = set()
    for chunk in chunks(instance_ids):
        which = instances.c.instance_id.in_(chunk)
        query = select(series.c.study_id, series.c.series_id).join(instances).where(which).distinct()
        touched.update((row[0], row[1]) for row in transaction.execute(query))
        transaction.execute(delete(instances).where(which))
    for part in chunks({series_id for _study_id, series_id in touched}):
        _recount(transaction, series, series.c.series_id, instances, instances.c.series_id, part)
    for part in chunks({study_id for study_id, _series_id in touched}):
        _recount(transaction, studies, studies.c.study_id, series, series.c.study_id, part)


def _recount(transaction: Transaction, table: Any, key: Any, members: Any, their_key: Any, keys: list[int]) -> None:
    """Count anew what rows of `table` have of `members`, and delete those that have none."""
    own = select(func.count() if members is instances else func.sum(members.c.instance_count)).where(their_key == key)
    size = select(func.sum(members.c.size_bytes)).where(their_key == key)
    counts: dict[str, Any] = {
        "instance_count": func.coalesce(own.scalar_subquery(), 0),
        "size_bytes": func.coalesce(size.scalar_subquery(), 0),
    }
    if table is studies:
        counts["series_count"] = select(func.count()).select_from(series).where(their_key == key).scalar_subquery()
    is_one = key.in_(keys)
    transaction.execute(delete(table).where(is_one, ~exists().where(their_key == key)))
    transaction.execute(update(table).where(is_one).values(**counts))


def _inserted(result: Any) -> int:
    number: int = result.inserted_primary_key[0]
    return number
