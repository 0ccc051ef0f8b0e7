"""Read rows of the table of instances as values of the API."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import islice
from operator import itemgetter
from typing import Any, TypeVar

import orjson
from attrs import fields
from sqlalchemy import Row, Select, bindparam, func, select

from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.ledger.connection import Transaction
from dicom_adapter.ledger.microseconds import EPOCH
from dicom_adapter.ledger.schema import instances

CHUNK = 500  # number of ids in one IN (…), below the limit of parameters of every database

_NAMES = [attribute.name for attribute in fields(InstanceStorageInfo)]
COLUMNS = [instances.c[name] for name in _NAMES]
_NUMBER, _RECEIVED_AT = _NAMES.index("instance_id"), _NAMES.index("received_at")
_VARYING = {"instance_id", "sop_instance_uid", "received_at", "storage_key", "size_bytes", "checksum"}
# Positions of the columns whose values are equal in many consecutive rows
_REPEATED = [index for index, name in enumerate(_NAMES) if name not in _VARYING]

T = TypeVar("T")


def select_instances() -> Select[tuple[object, ...]]:
    return select(*COLUMNS)


def as_json_array(query: Select[tuple[object, ...]]) -> Select[tuple[Any]]:
    """Return a query of many rows of `COLUMNS` as one JSON value, for `read_at_once`."""
    rows = query.order_by(instances.c.instance_id).limit(bindparam("limit")).subquery("batch")
    return select(func.json_group_array(func.json_array(*rows.c)))


def read_at_once(
    transaction: Transaction, query: Select[tuple[Any]], **parameters: object
) -> list[InstanceStorageInfo]:
    """Read many rows in the order of their numbers.

    The driver releases the interpreter lock for every row. If several lanes read, it waits to acquire the lock again,
    which takes ten times as long as the query. Therefore the database returns all rows as one JSON value.
    """
    encoded = transaction.execute(query, parameters).scalar_one()
    rows = sorted(orjson.loads(encoded), key=itemgetter(_NUMBER))
    for values in rows:
        values[_RECEIVED_AT] = EPOCH + timedelta(microseconds=values[_RECEIVED_AT])
    return to_instances(rows)


def to_instance(row: Row[Any]) -> InstanceStorageInfo:
    return to_instances([row])[0]


def to_instances(rows: Iterable[Sequence[Any]]) -> list[InstanceStorageInfo]:
    """Convert rows that begin with `COLUMNS`. Equal strings are shared: a million instances have to fit in memory."""
    shared: dict[str, str] = {}
    converted = []
    for row in rows:
        values = list(row)
        for index in _REPEATED:
            values[index] = shared.setdefault(values[index], values[index])
        converted.append(InstanceStorageInfo(**dict(zip(_NAMES, values, strict=False))))
    return converted


def chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """Divide items into lists of at most CHUNK items."""
    iterator = iter(items)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk
