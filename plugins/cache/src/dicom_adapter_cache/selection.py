"""Resolve an order to the instances of its job, or report the missing objects."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from attrs import frozen
from sqlalchemy import ColumnElement, Select, and_, select

from dicom_adapter import InstanceStorageInfo
from dicom_adapter_cache.database import Database, Transaction
from dicom_adapter_cache.errors import NotInCache, PatientConflict, StillArriving
from dicom_adapter_cache.index import read_instances
from dicom_adapter_cache.rows import chunks
from dicom_adapter_cache.schema import headers, instances, series, studies
from dicom_adapter_cache.search import is_patient
from dicom_adapter_cache.values import Order

SHOWN = 20  # maximum number of UIDs in an error message


@frozen(kw_only=True)
class Chosen:
    """The instances that an order selects."""

    instances: list[InstanceStorageInfo]  # in order of arrival, without duplicates
    studies: set[int]  # row ids of the studies of these instances


def choose(database: Database, ae_title: str, order: Order) -> Chosen:
    """Return the selection of an order. Raises NotInCache with the names of all missing objects."""
    with database.read() as transaction:
        lookup = _Lookup(transaction, ae_title)
        for patient in order.patients:
            lookup.add_patient(is_patient(patient), patient.patient_id)
        lookup.add_uids("studies", studies.c.study_instance_uid, order.studies)
        lookup.add_uids("series", series.c.series_instance_uid, order.series)
        lookup.add_uids("instances", instances.c.sop_instance_uid, order.instances)
        lookup.require_all()
        return Chosen(instances=lookup.instances(), studies=lookup.study_ids)


def require_arrived(database: Database, chosen: Chosen, cutoff: datetime) -> None:
    """Raise StillArriving if a chosen study received an instance after `cutoff` (the current time minus `settle`)."""
    late = _studies_with(database, chosen, studies.c.last_arrival > cutoff)
    if late:
        raise StillArriving(
            f"{len(late)} of the studies are still arriving: wait until they are complete, or set insist",
            studies=late[:SHOWN],
        )


def require_one_patient(database: Database, chosen: Chosen) -> None:
    """Raise PatientConflict if the instances of a chosen study disagree about the patient.

    All instances of the study are compared, also those that the order does not select.
    """
    mixed = _studies_with(database, chosen, studies.c.patient_conflict)
    if mixed:
        raise PatientConflict(
            f"the instances of {len(mixed)} of the studies disagree about the patient: correct or delete them, or set "
            "mixPatients",
            studies=mixed[:SHOWN],
        )


def _studies_with(database: Database, chosen: Chosen, condition: ColumnElement[bool]) -> list[str]:
    """Return the UIDs of the chosen studies that meet this condition."""
    query = select(studies.c.study_instance_uid)
    with database.read() as transaction:
        return sorted(
            uid
            for chunk in chunks(chosen.studies)
            for uid in transaction.execute(query.where(studies.c.study_id.in_(chunk), condition)).scalars()
        )


class _Lookup:
    """The selection of one order, collected step by step: headers, single instances, and missing objects.

    A header is a row of the table `headers`: it stands for all instances of a series with the same attributes.
    """

    def __init__(self, transaction: Transaction, ae_title: str) -> None:
        self.study_ids: set[int] = set()
        self._transaction = transaction
        self._ae_title = ae_title
        self._header_ids: set[int] = set()
        self._instance_ids: set[int] = set()
        self._missing: dict[str, list[str]] = {}

    def add_patient(self, condition: ColumnElement[bool], patient_id: str) -> None:
        """Add all instances with the headers of a patient."""
        query = _headers(self._ae_title).where(condition)
        if not self._add_headers(self._transaction.execute(query)):
            self._missing.setdefault("patients", []).append(patient_id)

    def add_uids(self, kind: str, column: ColumnElement[str], uids: Iterable[str]) -> None:
        """Add the objects with these UIDs."""
        requested = list(dict.fromkeys(uids))
        found_uids: set[str] = set()
        for chunk in chunks(requested):
            if kind == "instances":
                found_uids |= self._add_instances(chunk)
            else:
                rows = self._transaction.execute(_headers(self._ae_title).add_columns(column).where(column.in_(chunk)))
                found_uids |= self._add_headers(rows)
        missing = [uid for uid in requested if uid not in found_uids]
        if missing:
            self._missing[kind] = missing

    def _add_headers(self, rows: Any) -> set[str]:
        """Add headers from rows of study id, header id and perhaps a UID; return the last value of each row."""
        found_uids = set()
        for row in rows:
            self.study_ids.add(row[0])
            self._header_ids.add(row[1])
            found_uids.add(str(row[-1]))
        return found_uids

    def _add_instances(self, uids: list[str]) -> set[str]:
        """Add the instances with these SOP Instance UIDs; return those that exist."""
        query = (
            select(headers.c.study_id, instances.c.instance_id, instances.c.sop_instance_uid)
            .join(headers, headers.c.header_id == instances.c.header_id)
            .join(studies, studies.c.study_id == headers.c.study_id)
            .where(and_(studies.c.ae_title == self._ae_title, instances.c.sop_instance_uid.in_(uids)))
        )
        rows = self._transaction.execute(query).all()
        self.study_ids.update(row[0] for row in rows)
        self._instance_ids.update(row[1] for row in rows)
        return {row[2] for row in rows}

    def require_all(self) -> None:
        """Raise NotInCache if an object of the order is missing."""
        if not self._missing:
            return
        count = sum(map(len, self._missing.values()))
        kinds = ", ".join(f"{len(missing)} {kind}" for kind, missing in self._missing.items())
        shown = {kind: missing[:SHOWN] for kind, missing in self._missing.items()}
        raise NotInCache(f"{kinds} of the selection {'is' if count == 1 else 'are'} not in the cache", missing=shown)

    def instances(self) -> list[InstanceStorageInfo]:
        """Return the instances with the collected headers, and the collected single instances."""
        whole = read_instances(self._transaction, self._ae_title, instances.c.header_id, self._header_ids)
        single = read_instances(self._transaction, self._ae_title, instances.c.instance_id, self._instance_ids)
        by_id = {instance.instance_id: instance for instance in [*whole, *single]}
        return [by_id[instance_id] for instance_id in sorted(by_id)]


def _headers(ae_title: str) -> Select[Any]:
    return (
        select(headers.c.study_id, headers.c.header_id)
        .join(series, series.c.series_id == headers.c.series_id)
        .join(studies, studies.c.study_id == headers.c.study_id)
        .where(studies.c.ae_title == ae_title)
    )
