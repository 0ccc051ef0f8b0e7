"""Rows of the index: insert and delete instances, and update the counts of their series and studies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeAlias, TypeVar

from attrs import frozen
from sqlalchemy import bindparam, delete, exists, func, select, update

from dicom_adapter import InstanceStorageInfo
from dicom_adapter_cache.database import Transaction
from dicom_adapter_cache.header import Attributes, clean, folded
from dicom_adapter_cache.schema import instances, series, studies

CHUNK = 500  # values in one IN (…), below every database's limit for parameters
INSTANCE_COLUMNS = (
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

T = TypeVar("T")
SeriesKey: TypeAlias = tuple[str, str]  # Study Instance UID and Series Instance UID


@frozen
class SeriesPlace:
    """Row ids of a series and its study."""

    study_id: int
    series_id: int


def series_key_of(instance: InstanceStorageInfo) -> SeriesKey:
    """Return the key of the series that an instance belongs to."""
    return instance.study_instance_uid, instance.series_instance_uid


def chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """Split items into lists that fit into one statement."""
    iterator = iter(items)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk


def instance_row(instance: InstanceStorageInfo, place: SeriesPlace) -> dict[str, Any]:
    """Return the row of an instance in the series at `place`."""
    row: dict[str, Any] = {name: getattr(instance, name) for name in INSTANCE_COLUMNS}
    row |= {"instance_id": instance.instance_id, "sop_instance_uid": instance.sop_instance_uid}
    return {**row, "series_id": place.series_id}


def study_row(instance: InstanceStorageInfo, found: Attributes) -> dict[str, Any]:
    """Return the row of a new study from its first instance and that instance's attributes `found`."""
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


def add_to_counts(
    transaction: Transaction, arrived: Iterable[InstanceStorageInfo], places: Mapping[SeriesKey, SeriesPlace]
) -> None:
    """Add instances to the counts of their series and studies."""
    of_series: dict[int, dict[str, Any]] = {}
    of_study: dict[int, dict[str, Any]] = {}
    for instance in arrived:
        place = places[series_key_of(instance)]
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


def delete_rows(transaction: Transaction, instance_ids: Iterable[int]) -> None:
    """Delete instances, and the series and studies that are empty afterwards."""
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
    """Update the counts of rows in `table` from their `members`, and delete rows without members."""
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


def inserted_id(result: Any) -> int:
    """Return the primary key of the inserted row."""
    number: int = result.inserted_primary_key[0]
    return number
