"""Queries of the index from any thread except the lane's thread.

Matching is as in QIDO-RS (PS3.18 section 8.3.4); results are returned in pages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, case, exists, func, select

from dicom_adapter import InstanceStorageInfo
from dicom_adapter_cache import values
from dicom_adapter_cache.database import Database, Transaction
from dicom_adapter_cache.errors import InvalidRequest
from dicom_adapter_cache.header import folded
from dicom_adapter_cache.index import joined, read_instances
from dicom_adapter_cache.rows import chunks
from dicom_adapter_cache.schema import headers, instances, jobs, series, studies

ESCAPE = "\\"
UNKNOWN_PATIENT = {"patient_name": "", "patient_birth_date": "", "patient_sex": ""}
_STUDY = [  # the columns from which `_study` makes a values.Study
    studies.c[name]
    for name in values.Study.__struct_fields__
    if name not in ("modalities", "series", "instances", "arriving")
]
_STUDY += [studies.c.study_id, studies.c.series_count, studies.c.instance_count]


class Reader:
    """Read-only access to the index of one AE title. Thread-safe."""

    def __init__(self, url: str, ae_title: str, settle: timedelta) -> None:
        """`settle`: a study is arriving until this long after its last instance."""
        self._database = Database(url, writes=False)
        self._ae_title = ae_title
        self._settle = settle

    # --- studies and patients -----------------------------------------------------------------------------------------

    def studies(self, study_filter: values.StudyFilter, limit: int, now: datetime) -> tuple[list[values.Study], int]:
        """Return the first matching studies, the most recent first, and the number of matches."""
        conditions = [studies.c.ae_title == self._ae_title, *_conditions(study_filter)]
        sorting = (studies.c.last_arrival.desc(), studies.c.study_instance_uid)
        with self._database.read() as transaction:
            total = transaction.execute(select(func.count()).select_from(studies).where(*conditions)).scalar_one()
            rows = transaction.execute(select(*_STUDY).where(*conditions).order_by(*sorting).limit(limit)).all()
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
            return values.StudyDetail(
                study=study,
                series=[_series(each) for each in transaction.execute(query)],
                patients=_patients_of(transaction, row.study_id),
            )

    def has_study(self, uid: str) -> bool:
        """Return whether the index has the study."""
        with self._database.read() as transaction:
            return transaction.execute(select(studies.c.study_id).where(self._is_study(uid))).first() is not None

    def _is_study(self, uid: str) -> ColumnElement[bool]:
        return (studies.c.ae_title == self._ae_title) & (studies.c.study_instance_uid == uid)

    def patients(self, study_filter: values.StudyFilter, limit: int) -> tuple[list[values.Patient], int]:
        """Return the first patients with matching studies, sorted by ID, and the number of matching patients."""
        patient_columns = (headers.c.patient_id, headers.c.issuer_of_patient_id)
        matching = [
            studies.c.ae_title == self._ae_title,
            *_study_conditions(study_filter),
            *_patient_conditions(study_filter),
        ]
        of_patients = select(*patient_columns).join(studies, studies.c.study_id == headers.c.study_id).where(*matching)
        grouped = of_patients.add_columns(
            func.count(headers.c.study_id.distinct()).label("studies"),
            func.sum(headers.c.instance_count).label("instances"),
            func.sum(headers.c.size_bytes).label("size_bytes"),
            func.max(studies.c.last_arrival, type_=studies.c.last_arrival.type).label("last_arrival"),
            # The id of the newest instance that has the patient's name; 0 if none has it.
            func.max(case((headers.c.patient_name != "", headers.c.newest), else_=0)).label("named_in"),
        ).group_by(*patient_columns)
        with self._database.read() as transaction:
            count = select(func.count()).select_from(of_patients.distinct().subquery())
            total = transaction.execute(count).scalar_one()
            rows = transaction.execute(grouped.order_by(*patient_columns).limit(limit)).all()
            demographics = _demographics(transaction, [row.named_in for row in rows])
        return [self._patient(row, demographics) for row in rows], total

    def _patient(self, row: Row[Any], demographics: Mapping[int, Mapping[str, str]]) -> values.Patient:
        row_values = {**demographics.get(row.named_in, UNKNOWN_PATIENT), **row._mapping}
        del row_values["named_in"]
        return values.Patient(ae_title=self._ae_title, **row_values)

    # --- instances ----------------------------------------------------------------------------------------------------

    def instances(
        self, study_uid: str, series_uid: str | None, limit: int, offset: int
    ) -> tuple[list[values.KeptInstance], int]:
        """Return a page of the instances of a study, or of one of its series, in order of arrival."""
        conditions = [self._is_study(study_uid)]
        if series_uid is not None:
            conditions.append(series.c.series_instance_uid == series_uid)
        columns = [studies.c.study_instance_uid, series.c.series_instance_uid]
        instance_columns = values.KeptInstance.__struct_fields__[2:]  # without the UIDs of study and series
        query = joined(select(*columns, *(instances.c[name] for name in instance_columns))).where(*conditions)
        with self._database.read() as transaction:
            total = transaction.execute(joined(select(func.count())).where(*conditions)).scalar_one()
            rows = transaction.execute(query.order_by(instances.c.instance_id).limit(limit).offset(offset)).all()
        return [values.KeptInstance(**row._mapping) for row in rows], total

    def find_instance(self, sop_instance_uid: str) -> InstanceStorageInfo | None:
        """Return the instance with this SOP Instance UID, or None."""
        with self._database.read() as transaction:
            matching = read_instances(transaction, self._ae_title, instances.c.sop_instance_uid, [sop_instance_uid])
        return matching[0] if matching else None

    def has_any(self, order: values.Order) -> bool:
        """Return whether the index has an object that the order (a request to compose a job) selects."""
        at_this_ae_title = studies.c.ae_title == self._ae_title
        queries = [
            *(
                select(studies.c.study_id)
                .join(headers, headers.c.study_id == studies.c.study_id)
                .where(at_this_ae_title, is_patient(patient))
                for patient in order.patients
            ),
            *(select(studies.c.study_id).where(self._is_study(uid)) for uid in order.studies),
            *(
                joined(select(studies.c.study_id)).where(at_this_ae_title, series.c.series_instance_uid == uid)
                for uid in order.series
            ),
            *(
                joined(select(studies.c.study_id)).where(at_this_ae_title, instances.c.sop_instance_uid == uid)
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
            rows = transaction.execute(query.order_by(jobs.c.created_at.desc()).limit(limit))
            return [(row.created_at, row.job_id) for row in rows]


def is_patient(patient: values.PatientRef) -> ColumnElement[bool]:
    """Return the condition for headers with exactly this Patient ID and issuer."""
    return (
        (headers.c.patient_id_folded == folded(patient.patient_id))  # redundant, but this column has an index
        & (headers.c.patient_id == patient.patient_id)
        & (headers.c.issuer_of_patient_id == patient.issuer_of_patient_id)
    )


# --- matching ---------------------------------------------------------------------------------------------------------


def _conditions(study_filter: values.StudyFilter) -> list[ColumnElement[bool]]:
    """Return the conditions of a filter for studies. An empty filter has no conditions.

    If the instances of a study disagree about the patient, the study is found by each of these patients.
    """
    of_patient = _patient_conditions(study_filter)
    if not of_patient:
        return _study_conditions(study_filter)
    return [studies.c.study_id.in_(select(headers.c.study_id).where(*of_patient)), *_study_conditions(study_filter)]


def _patient_conditions(study_filter: values.StudyFilter) -> list[ColumnElement[bool]]:
    """Return the conditions for the headers of matching patients."""
    texts = {
        headers.c.patient_id_folded: study_filter.patient_id,
        headers.c.patient_name_folded: study_filter.patient_name,
    }
    return [_matches(column, value) for column, value in texts.items() if value]


def _study_conditions(study_filter: values.StudyFilter) -> list[ColumnElement[bool]]:
    """Return the conditions that do not concern the patient."""
    texts = {
        studies.c.accession_number_folded: study_filter.accession_number,
        studies.c.study_description_folded: study_filter.study_description,
    }
    conditions = [_matches(column, value) for column, value in texts.items() if value]
    if study_filter.study_instance_uid:
        conditions.append(studies.c.study_instance_uid.in_(study_filter.study_instance_uid.split(",")))
    if study_filter.study_date:
        conditions += _date_conditions(study_filter.study_date)
    if study_filter.modality:
        is_member = (series.c.study_id == studies.c.study_id) & (series.c.modality == study_filter.modality.upper())
        conditions.append(exists().where(is_member))
    if study_filter.pinned is not None:
        conditions.append(studies.c.pinned.is_(study_filter.pinned))
    return conditions


def _matches(column: ColumnElement[str], value: str) -> ColumnElement[bool]:
    """Return the condition for single value matching, or wildcard matching with `*` and `?` (PS3.4 C.2.2.2)."""
    value = folded(value)
    if "*" not in value and "?" not in value:
        return column == value
    pattern = re.sub(r"([\\%_])", r"\\\1", value).replace("*", "%").replace("?", "_")
    return column.like(pattern, escape=ESCAPE)


def _date_conditions(value: str) -> list[ColumnElement[bool]]:
    """Return the conditions for a date or an inclusive range; a range may have only one end (PS3.4 C.2.2.2.5)."""
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
    by_study: dict[int, list[str]] = {}
    for study_id, modality in transaction.execute(query.distinct().order_by(series.c.study_id, series.c.modality)):
        by_study.setdefault(study_id, []).append(modality)
    return by_study


def _patients_of(transaction: Transaction, study_id: int) -> list[values.StudyPatient]:
    patient_columns = [headers.c[name] for name in values.StudyPatient.__struct_fields__ if name != "instances"]
    query = select(*patient_columns, func.sum(headers.c.instance_count).label("instances")).where(
        headers.c.study_id == study_id
    )
    rows = transaction.execute(query.group_by(*patient_columns).order_by(func.max(headers.c.newest).desc()))
    return [values.StudyPatient(**row._mapping) for row in rows]


def _demographics(transaction: Transaction, instance_ids: list[int]) -> dict[int, dict[str, str]]:
    """Return the patient's name, birth date and sex for each of these instances, by instance id."""
    query = select(instances.c.instance_id, *(headers.c[name] for name in UNKNOWN_PATIENT)).join(
        headers, headers.c.header_id == instances.c.header_id
    )
    return {
        row.instance_id: {name: getattr(row, name) for name in UNKNOWN_PATIENT}
        for chunk in chunks(instance_ids)
        for row in transaction.execute(query.where(instances.c.instance_id.in_(chunk)))
    }


def _study(row: Row[Any], modalities: list[str], cutoff: datetime) -> values.Study:
    row_values = dict(row._mapping)
    del row_values["study_id"]
    return values.Study(
        series=row_values.pop("series_count"),
        instances=row_values.pop("instance_count"),
        modalities=modalities,
        arriving=row.last_arrival > cutoff,
        **row_values,
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
