"""Rows of series and studies, computed from the headers of their instances."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import Row, bindparam, select, update

from dicom_adapter_cache.database import Transaction
from dicom_adapter_cache.header import folded
from dicom_adapter_cache.patients import is_conflict
from dicom_adapter_cache.schema import headers, series, studies

OF_PATIENT = ("patient_name", "patient_birth_date", "patient_sex")
OF_STUDY = ("study_date", "study_time", "accession_number", "study_description")
OF_SERIES = ("modality", "series_description", "body_part_examined")
EMPTY_COUNTS = {"instance_count": 0, "size_bytes": 0}
EMPTY_SERIES: dict[str, Any] = {**dict.fromkeys(OF_SERIES, ""), **EMPTY_COUNTS}
EMPTY_STUDY: dict[str, Any] = {
    **dict.fromkeys(("patient_id", "issuer_of_patient_id", *OF_PATIENT, *OF_STUDY), ""),
    "accession_number_folded": "",
    "study_description_folded": "",
    "patient_conflict": False,
    "series_count": 0,
    **EMPTY_COUNTS,
}


def refresh(transaction: Transaction, study_ids: Sequence[int]) -> None:
    """Update the rows of studies and their series. Each of their headers must have an instance."""
    query = select(headers).where(headers.c.study_id.in_(study_ids))
    rows = transaction.execute(query.order_by(headers.c.study_id, headers.c.newest.desc())).all()
    study_rows = [_study(list(group)) for _study_id, group in groupby(rows, lambda row: row.study_id)]
    # The sort is stable, so the newest header of a series is still the first one.
    by_series = sorted(rows, key=lambda row: row.series_id)
    series_rows = [_series(list(group)) for _series_id, group in groupby(by_series, lambda row: row.series_id)]
    _update(transaction, studies, studies.c.study_id, study_rows)
    _update(transaction, series, series.c.series_id, series_rows)


def _update(transaction: Transaction, table: Any, key: Any, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        values = {name: bindparam(f"new_{name}", type_=table.c[name].type) for name in rows[0] if name != key.name}
        statement = update(table).where(key == bindparam("row_id")).values(values)
        transaction.execute(
            statement,
            [{"row_id": row[key.name], **{f"new_{name}": row[name] for name in values}} for row in rows],
        )


def _study(header_rows: Sequence[Row[Any]]) -> dict[str, Any]:
    """Return the computed columns of a study from its headers, the newest first.

    The Patient ID of the newest instance is used. For every other attribute, the newest value that is not empty is
    used, because reports and presentation states often lack some attributes. Name, birth date and sex are only taken
    from instances with the same Patient ID and issuer as the newest.
    """
    newest = header_rows[0]
    patient = (newest.patient_id, newest.issuer_of_patient_id)
    same_patient = [row for row in header_rows if (row.patient_id, row.issuer_of_patient_id) == patient]
    attributes = {name: _first_value(same_patient, name) for name in OF_PATIENT} | {
        name: _first_value(header_rows, name) for name in OF_STUDY
    }
    return {
        "study_id": newest.study_id,
        "patient_id": newest.patient_id,
        "issuer_of_patient_id": newest.issuer_of_patient_id,
        **attributes,
        "accession_number_folded": folded(attributes["accession_number"]),
        "study_description_folded": folded(attributes["study_description"]),
        "patient_conflict": is_conflict(header_rows),
        "series_count": len({row.series_id for row in header_rows}),
        **_counts(header_rows),
    }


def _series(header_rows: Sequence[Row[Any]]) -> dict[str, Any]:
    """Return the computed columns of a series from its headers, the newest first."""
    return {
        "series_id": header_rows[0].series_id,
        **{name: _first_value(header_rows, name) for name in OF_SERIES},
        **_counts(header_rows),
    }


def _first_value(rows: Iterable[Row[Any]], name: str) -> str:
    return next((value for row in rows if (value := str(getattr(row, name)))), "")


def _counts(header_rows: Sequence[Row[Any]]) -> dict[str, int]:
    return {
        "instance_count": sum(row.instance_count for row in header_rows),
        "size_bytes": sum(row.size_bytes for row in header_rows),
    }
