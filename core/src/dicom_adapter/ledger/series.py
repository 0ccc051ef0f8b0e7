"""The series that have arrived, with the attributes by which operators look for a study.

There is a row for each series, and for each combination of values that its instances have. The rows of instances do
not have these attributes: all instances of a series would repeat them, and an index of them would slow down receiving.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.dialects import sqlite

from dicom_adapter.ledger.connection import Transaction
from dicom_adapter.ledger.schema import SERIES_KEY, series


class ArrivedSeries(NamedTuple):
    """The attributes that the instances of a series have in common. All but the UIDs may be ""."""

    series_instance_uid: str
    study_instance_uid: str
    patient_id: str
    accession_number: str = ""
    study_date: str = ""  # as in the data set
    modality: str = ""
    study_description: str = ""  # both descriptions: only if the configuration keeps descriptions
    series_description: str = ""


def enter(transaction: Transaction, arrived: Iterable[ArrivedSeries], at: datetime) -> None:
    """Insert series, or record in their rows that they were seen again at this time."""
    rows = [values._asdict() | {"seen_at": at} for values in arrived]
    if not rows:
        return
    insert = sqlite.insert(series)
    new = insert.excluded
    changes = {name: new[name] for name in ("study_description", "series_description", "seen_at")}
    transaction.execute(insert.on_conflict_do_update(index_elements=SERIES_KEY, set_=changes), rows)


def newest_studies(transaction: Transaction, limit: int, searched: int = 2000) -> list[str]:
    """Return the UIDs of the studies of the newest arrivals, newest first: those of up to `searched` series."""
    newest = select(series.c.study_instance_uid).order_by(series.c.seen_at.desc()).limit(searched)
    return list(dict.fromkeys(transaction.execute(newest).scalars()))[:limit]


def of_studies(transaction: Transaction, study_instance_uids: Collection[str]) -> list[ArrivedSeries]:
    """Return the series of these studies, in the order of their arrival."""
    columns = [series.c[name] for name in ArrivedSeries._fields]
    query = select(*columns).where(series.c.study_instance_uid.in_(study_instance_uids))
    return [ArrivedSeries(*row) for row in transaction.execute(query.order_by(series.c.series_number))]
