"""Types of columns that SQLAlchemy does not have."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Integer, TypeDecorator

from dicom_adapter.ledger.microseconds import to_datetime, to_microseconds


class UtcDateTime(TypeDecorator[datetime]):
    """A time, stored as whole microseconds since 1970-01-01 UTC: exact, ordered, and the same in every database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> int | None:  # noqa: ARG002 - SQLAlchemy's
        return None if value is None else to_microseconds(value)

    def process_result_value(self, value: int | None, dialect: Any) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's
        return None if value is None else to_datetime(value)


# SQLite numbers rows automatically only if the key is exactly INTEGER; in other databases ids may exceed 2³¹.
RowId = BigInteger().with_variant(Integer, "sqlite")
