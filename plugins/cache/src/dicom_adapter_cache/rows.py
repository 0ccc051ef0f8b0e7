"""Rows of the index: insert and delete instances, and update the headers, series and studies of these instances."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import Any, TypeAlias, TypeVar

from attrs import asdict, frozen
from sqlalchemy import bindparam, case, delete, exists, func, select, update

from dicom_adapter import InstanceStorageInfo
from dicom_adapter_cache import summaries
from dicom_adapter_cache.database import Transaction
from dicom_adapter_cache.header import Attributes, folded
from dicom_adapter_cache.schema import headers, instances, series, studies

CHUNK = 500  # number of values in one IN (…), below the limit of parameters of every database
INSTANCE_COLUMNS = (  # columns that have the values of the fields of InstanceStorageInfo with the same names
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
HeaderKey: TypeAlias = tuple[str, str, str]  # Study Instance UID, Series Instance UID, digest of the attributes


@frozen
class HeaderPlace:
    """Row ids of a header and its study."""

    study_id: int
    header_id: int


@frozen(repr=False)
class DescribedInstance:
    """An instance with its attributes."""

    instance: InstanceStorageInfo
    attributes: Attributes

    @property
    def key(self) -> HeaderKey:
        """The key of the header of the instance."""
        return self.instance.study_instance_uid, self.instance.series_instance_uid, self.attributes.digest


def chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """Split items into lists of at most CHUNK items."""
    iterator = iter(items)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk


def instance_row(instance: InstanceStorageInfo, place: HeaderPlace) -> dict[str, Any]:
    """Return the row of an instance with the header at `place`."""
    row: dict[str, Any] = {name: getattr(instance, name) for name in INSTANCE_COLUMNS}
    row |= {"instance_id": instance.instance_id, "sop_instance_uid": instance.sop_instance_uid}
    return {**row, "header_id": place.header_id}


# --- insert -----------------------------------------------------------------------------------------------------------


def ensure_header(transaction: Transaction, ae_title: str, arrival: DescribedInstance) -> HeaderPlace:
    """Return the place of the arrival's header. Insert the header, its series and its study if they are missing.

    The caller has to call `update_summaries` in the same transaction.
    """
    study_id = _ensure_study(transaction, ae_title, arrival.instance)
    series_id = _ensure_series(transaction, study_id, arrival.instance.series_instance_uid)
    values = _header_values(arrival.attributes)
    is_header = (headers.c.series_id == series_id) & (headers.c.digest == values["digest"])
    row = transaction.execute(select(headers).where(is_header)).one_or_none()
    if row is None:
        new_row = {**values, "study_id": study_id, "series_id": series_id, **summaries.EMPTY_COUNTS, "newest": 0}
        return HeaderPlace(study_id, _insert(transaction, headers, new_row))
    if any(row._mapping[name] != value for name, value in values.items()):  # the row is damaged
        transaction.execute(update(headers).where(headers.c.header_id == row.header_id).values(values))
    return HeaderPlace(study_id, row.header_id)


def _header_values(attributes: Attributes) -> dict[str, str]:
    return {
        **asdict(attributes),
        "digest": attributes.digest,
        "patient_id_folded": folded(attributes.patient_id),
        "patient_name_folded": folded(attributes.patient_name),
    }


def _ensure_study(transaction: Transaction, ae_title: str, instance: InstanceStorageInfo) -> int:
    is_study = (studies.c.ae_title == ae_title) & (studies.c.study_instance_uid == instance.study_instance_uid)
    study_id: int | None = transaction.execute(select(studies.c.study_id).where(is_study)).scalar()
    if study_id is not None:
        return study_id
    row = {
        **summaries.EMPTY_STUDY,
        "ae_title": ae_title,
        "study_instance_uid": instance.study_instance_uid,
        "first_arrival": instance.received_at,
        "last_arrival": instance.received_at,
        "last_use": instance.received_at,
        "pinned": False,
    }
    return _insert(transaction, studies, row)


def _ensure_series(transaction: Transaction, study_id: int, uid: str) -> int:
    is_series = (series.c.study_id == study_id) & (series.c.series_instance_uid == uid)
    series_id: int | None = transaction.execute(select(series.c.series_id).where(is_series)).scalar()
    if series_id is not None:
        return series_id
    return _insert(transaction, series, {**summaries.EMPTY_SERIES, "study_id": study_id, "series_instance_uid": uid})


def _insert(transaction: Transaction, table: Any, row: dict[str, Any]) -> int:
    """Insert a row and return its primary key."""
    key: Any = transaction.execute(table.insert().values(row)).inserted_primary_key
    row_id: int = key[0]
    return row_id


def note_arrivals(transaction: Transaction, arrived: Iterable[tuple[int, InstanceStorageInfo]]) -> None:
    """Update the times of studies, from pairs of a study's row id and a new instance."""
    last: dict[int, datetime] = {}
    for study_id, instance in arrived:
        last[study_id] = max(instance.received_at, last.get(study_id, instance.received_at))
    at = bindparam("at", type_=studies.c.last_use.type)
    times = {name: case((studies.c[name] < at, at), else_=studies.c[name]) for name in ("last_arrival", "last_use")}
    statement = update(studies).where(studies.c.study_id == bindparam("row_id")).values(times)
    transaction.execute(statement, [{"row_id": study_id, "at": when} for study_id, when in last.items()])


def limit_times(transaction: Transaction, ae_title: str, latest: datetime) -> None:
    """Replace all later times of studies by `latest`: they are in the future, because the clock was put back."""
    for column in (studies.c.first_arrival, studies.c.last_arrival, studies.c.last_use):
        is_later = (studies.c.ae_title == ae_title) & (column > latest)
        transaction.execute(update(studies).where(is_later).values({column: latest}))


# --- delete and count -------------------------------------------------------------------------------------------------


def delete_instances(transaction: Transaction, instance_ids: Iterable[int]) -> set[int]:
    """Delete instances; return the row ids of their headers, for `update_summaries`."""
    touched: set[int] = set()
    for chunk in chunks(instance_ids):
        is_in_chunk = instances.c.instance_id.in_(chunk)
        touched.update(transaction.execute(select(instances.c.header_id).where(is_in_chunk).distinct()).scalars())
        transaction.execute(delete(instances).where(is_in_chunk))
    return touched


def update_summaries(transaction: Transaction, header_ids: Iterable[int]) -> None:
    """Update the counts of headers, and their series and studies. Delete empty headers, series and studies."""
    parents: set[tuple[int, int]] = set()
    for chunk in chunks(sorted(header_ids)):
        is_in_chunk = headers.c.header_id.in_(chunk)
        rows = transaction.execute(select(headers.c.study_id, headers.c.series_id).where(is_in_chunk).distinct())
        parents.update((row[0], row[1]) for row in rows)
        _count(transaction, chunk)
        transaction.execute(
            delete(headers).where(is_in_chunk, ~exists().where(instances.c.header_id == headers.c.header_id))
        )
    for part in chunks(sorted({series_id for _study_id, series_id in parents})):
        is_empty = ~exists().where(headers.c.series_id == series.c.series_id)
        transaction.execute(delete(series).where(series.c.series_id.in_(part), is_empty))
    for part in chunks(sorted({study_id for study_id, _series_id in parents})):
        is_empty = ~exists().where(headers.c.study_id == studies.c.study_id)
        transaction.execute(delete(studies).where(studies.c.study_id.in_(part), is_empty))
        summaries.refresh(transaction, part)


def _count(transaction: Transaction, header_ids: list[int]) -> None:
    """Update the counts of headers that have instances."""
    query = (
        select(
            instances.c.header_id.label("row_id"),
            func.count().label("instance_count"),
            func.sum(instances.c.size_bytes).label("size_bytes"),
            func.max(instances.c.instance_id).label("newest"),
        )
        .where(instances.c.header_id.in_(header_ids))
        .group_by(instances.c.header_id)
    )
    counts = [dict(row._mapping) for row in transaction.execute(query)]
    if counts:
        statement = update(headers).where(headers.c.header_id == bindparam("row_id"))
        names = ("instance_count", "size_bytes", "newest")
        values = {name: bindparam(f"new_{name}", type_=headers.c[name].type) for name in names}
        rows = [{"row_id": row["row_id"], **{f"new_{name}": row[name] for name in names}} for row in counts]
        transaction.execute(statement.values(values), rows)
