"""Queries of the index by other threads than the lane's: matching as in QIDO-RS (PS3.18 section 8.3.4), in pages."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, exists, func, select

from dicom_adapter import InstanceStorageInfo
from dicom_adapter_cache import values
from dicom_adapter_cache.database import Database, Transaction
from dicom_adapter_cache.errors import InvalidRequest
from dicom_adapter_cache.header import folded
from dicom_adapter_cache.index import read_instances
from dicom_adapter_cache.schema import instances, jobs, series, studies

ESCAPE = "\\"
_STUDY = [
    studies.c[name]
    for name in values.Study.__struct_fields__
    if name not in ("modalities", "series", "instances", "arriving")
]
_STUDY += [studies.c.study_id, studies.c.series_count, studies.c.instance_count]


class Reader:
    """Read-only access to the index of one AE title. Thread-safe."""

    def __init__(self, url: str, ae_title: str, settle: timedelta) -> None:
        self._database = Database(url, writes=False)
        self._ae_title = ae_title
        self._settle = settle

    # --- studies and patients -----------------------------------------------------------------------------------------

    def studies(self, found: values.StudyFilter, limit: int, now: datetime) -> tuple[list[values.Study], int]:
        """Return the first matching studies, the most recent first, and the number of matches."""
        conditions = [studies.c.ae_title == self._ae_title, *_conditions(found)]
        order = (studies.c.last_arrival.desc(), studies.c.study_instance_uid)
        with self._database.read() as transaction:
            total = transaction.execute(select(func.count()).select_from(studies).where(*conditions)).scalar_one()
            rows = transaction.execute(select(*_STUDY).where(*conditions).order_by(*order).limit(limit)).all()
            return self._studies(transaction, rows, now), total

    def _studies(self, transaction: Transaction, rows: Any, now: datetime) -> list[values.Study]:
        modalities = _modalities(transaction, [row.study_id for row in rows])
        return [_study(row, modalities.get(row.study_id, []), now - self._settle) for row in rows]

    def study(self, uid: str, now: datetime) -> values.StudyDetail | None:
        """Return a study with its series."""
        with self._database.read() as transaction:
            row = transaction.execute(select(*_STUDY).where(self._is_study(uid))).one_or_none()
            if row is None:
                return None
            [study] = self._studies(transaction, [row], now)
            query = select(series).where(series.c.study_id == row.study_id).order_by(series.c.series_id)
            return values.StudyDetail(study=study, series=[_series(each) for each in transaction.execute(query)])

    def has_study(self, uid: str) -> bool:
        """Return whether the index has the study."""
        with self._database.read() as transaction:
            return transaction.execute(select(studies.c.study_id).where(self._is_study(uid))).first() is not None

    def _is_study(self, uid: str) -> ColumnElement[bool]:
        return (studies.c.ae_title == self._ae_title) & (studies.c.study_instance_uid == uid)

    def patients(self, found: values.StudyFilter, limit: int) -> tuple[list[values.Patient], int]:
        """Return the first patients with matching studies, sorted by ID, and the number of matching patients."""
        own = (studies.c.patient_id, studies.c.issuer_of_patient_id)
        matching = [studies.c.ae_title == self._ae_title, *_conditions(found)]
        query = select(
            *own,
            func.max(studies.c.patient_name).label("patient_name"),
            func.max(studies.c.patient_birth_date).label("patient_birth_date"),
            func.max(studies.c.patient_sex).label("patient_sex"),
            func.count().label("studies"),
            func.sum(studies.c.instance_count).label("instances"),
            func.sum(studies.c.size_bytes).label("size_bytes"),
            func.max(studies.c.last_arrival, type_=studies.c.last_arrival.type).label("last_arrival"),
        ).where(*matching)
        grouped = query.group_by(*own)
        with self._database.read() as transaction:
            count = select(func.count()).select_from(select(*own).where(*matching).distinct().subquery())
            total = transaction.execute(count).scalar_one()
            rows = transaction.execute(grouped.order_by(*own).limit(limit)).all()
        return [values.Patient(ae_title=self._ae_title, **row._mapping) for row in rows], total

    # --- instances ----------------------------------------------------------------------------------------------------

    def instances(
        self, study_uid: str, series_uid: str | None, limit: int, offset: int
    ) -> tuple[list[values.KeptInstance], int]:
        """Return a page of the instances of a study, or of one of its series, in order of arrival."""
        conditions = [self._is_study(study_uid)]
        if series_uid is not None:
            conditions.append(series.c.series_instance_uid == series_uid)
        columns = [studies.c.study_instance_uid, series.c.series_instance_uid]
        own = values.KeptInstance.__struct_fields__[2:]
        query = _joined(select(*columns, *(instances.c[name] for name in own))).where(*conditions)
        with self._database.read() as transaction:
            total = transaction.execute(_joined(select(func.count())).where(*conditions)).scalar_one()
            rows = transaction.execute(query.order_by(instances.c.instance_id).limit(limit).offset(offset)).all()
        return [values.KeptInstance(**row._mapping) for row in rows], total

    def find_instance(self, sop_instance_uid: str) -> InstanceStorageInfo | None:
        """Return the instance with this SOP Instance UID, or None."""
        with self._database.read() as transaction:
            found = read_instances(transaction, self._ae_title, instances.c.sop_instance_uid, [sop_instance_uid])
        return found[0] if found else None

    def owns(self, order: values.Order) -> bool:
        """Return whether the index has anything that the order names."""
        own = studies.c.ae_title == self._ae_title
        queries = [
            *(select(studies.c.study_id).where(own, is_patient(patient)) for patient in order.patients),
            *(select(studies.c.study_id).where(self._is_study(uid)) for uid in order.studies),
            *(
                _joined(select(studies.c.study_id)).where(own, series.c.series_instance_uid == uid)
                for uid in order.series
            ),
            *(
                _joined(select(studies.c.study_id)).where(own, instances.c.sop_instance_uid == uid)
                for uid in order.instances
            ),
        ]
        with self._database.read() as transaction:
            return any(transaction.execute(query.limit(1)).first() is not None for query in queries)

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def jobs(self, limit: int) -> list[tuple[datetime, str]]:
        """Return the times and ids of the most recent jobs."""
        query = select(jobs.c.created_at, jobs.c.job_id).where(jobs.c.ae_title == self._ae_title)
        with self._database.read() as transaction:
            found = transaction.execute(query.order_by(jobs.c.created_at.desc()).limit(limit))
            return [(row.created_at, row.job_id) for row in found]


def is_patient(patient: values.PatientRef) -> ColumnElement[bool]:
    """Return the condition for studies with exactly this Patient ID and issuer."""
    return (studies.c.patient_id == patient.patient_id) & (
        studies.c.issuer_of_patient_id == patient.issuer_of_patient_id
    )


def _joined(query: Select[Any]) -> Select[Any]:
    return (
        query.select_from(instances)
        .join(series, series.c.series_id == instances.c.series_id)
        .join(studies, studies.c.study_id == series.c.study_id)
    )


# --- matching ---------------------------------------------------------------------------------------------------------


def _conditions(found: values.StudyFilter) -> list[ColumnElement[bool]]:
    """Return the conditions of a filter; an empty filter has no conditions."""
    texts = {
        studies.c.patient_id_folded: found.patient_id,
        studies.c.patient_name_folded: found.patient_name,
        studies.c.accession_number_folded: found.accession_number,
        studies.c.study_description_folded: found.study_description,
    }
    conditions = [_matches(column, value) for column, value in texts.items() if value]
    if found.study_instance_uid:
        conditions.append(studies.c.study_instance_uid.in_(found.study_instance_uid.split(",")))
    if found.study_date:
        conditions += _date_conditions(found.study_date)
    if found.modality:
        is_member = (series.c.study_id == studies.c.study_id) & (series.c.modality == found.modality.upper())
        conditions.append(exists().where(is_member))
    if found.pinned is not None:
        conditions.append(studies.c.pinned.is_(found.pinned))
    return conditions


def _matches(column: ColumnElement[str], value: str) -> ColumnElement[bool]:
    """Return the condition for single value matching, or wildcard matching with `*` and `?` (PS3.4 C.2.2.2)."""
    value = folded(value)
    if "*" not in value and "?" not in value:
        return column == value
    pattern = re.sub(r"([\\%_])", r"\\\1", value).replace("*", "%").replace("?", "_")
    return column.like(pattern, escape=ESCAPE)


def _date_conditions(value: str) -> list[ColumnElement[bool]]:
    """Return the conditions for a date or an inclusive range; an empty end is open (PS3.4 C.2.2.2.5)."""
    if not re.fullmatch(values.DATE_PATTERN, value, re.ASCII):
        raise InvalidRequest(
            "studyDate must be YYYYMMDD, or a range such as 20250101-20251231, 20250101- or -20251231",
            field="studyDate",
        )
    for date in filter(None, value.split("-")):
        try:
            datetime.strptime(date, "%Y%m%d")  # noqa: DTZ007 - a date in a study has no time zone
        except ValueError:
            raise InvalidRequest(f"studyDate has {date}, which is not a date", field="studyDate") from None
    first, dash, last = value.partition("-")
    if not dash:
        return [studies.c.study_date == first]
    conditions = [studies.c.study_date != ""]
    if first:
        conditions.append(studies.c.study_date >= first)
    if last:
        conditions.append(studies.c.study_date <= last)
    return conditions


# --- from rows to values ----------------------------------------------------------------------------------------------


def _modalities(transaction: Transaction, study_ids: list[int]) -> dict[int, list[str]]:
    query = select(series.c.study_id, series.c.modality).where(
        series.c.study_id.in_(study_ids), series.c.modality != ""
    )
    found: dict[int, list[str]] = {}
    for study_id, modality in transaction.execute(query.distinct().order_by(series.c.study_id, series.c.modality)):
        found.setdefault(study_id, []).append(modality)
    return found


def _study(row: Row[Any], modalities: list[str], arrived_before: datetime) -> values.Study:
    own = dict(row._mapping)
    del own["study_id"]
    return values.Study(
        series=own.pop("series_count"),
        instances=own.pop("instance_count"),
        modalities=modalities,
        arriving=row.last_arrival > arrived_before,
        **own,
    )


def _series(row: Row[Any]) -> values.Series:
    return values.Series(
        series_instance_uid=row.series_instance_uid,
        modality=row.modality,
        series_description=row.series_description,
        body_part_examined=row.body_part_examined,
        instances=row.instance_count,
        size_bytes=row.size_bytes,
    )
