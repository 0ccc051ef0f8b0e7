"""Filters with which operators look for instances and jobs: in the terms of a PACS, and by arrival."""

from __future__ import annotations

from datetime import datetime

from attrs import evolve, field, frozen
from sqlalchemy import ColumnElement, Select, and_, exists, select, true

from dicom_adapter.ledger.schema import instances, job_instances, jobs, series


@frozen(kw_only=True)
class Filters:
    """Conditions for instances or jobs. A filter that is None does not restrict them."""

    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    sop_instance_uid: str | None = None
    accession_number: str | None = field(default=None, repr=False)
    patient_id: str | None = field(default=None, repr=False)
    calling_ae_title: str | None = None
    ae_title: str | None = None  # called AE title
    since: datetime | None = None  # UTC; time of the arrival of an instance, or of the creation of a job
    until: datetime | None = None  # UTC; not included

    def of_instances(self) -> ColumnElement[bool]:
        """Return the condition on the table of instances."""
        conditions = self._of_subject()
        if self.calling_ae_title is not None:
            conditions.append(instances.c.calling_ae_title == self.calling_ae_title)
        if self.ae_title is not None:
            conditions.append(instances.c.ae_title == self.ae_title)
        if self.since is not None:
            conditions.append(instances.c.received_at >= self.since)
        if self.until is not None:
            conditions.append(instances.c.received_at < self.until)
        return and_(true(), *conditions)

    def of_jobs(self) -> ColumnElement[bool]:
        """Return the condition on the table of jobs: a job is wanted if it has a wanted instance."""
        conditions = []
        if self.ae_title is not None:
            conditions.append(jobs.c.ae_title == self.ae_title)
        if self.since is not None:
            conditions.append(jobs.c.created_at >= self.since)
        if self.until is not None:
            conditions.append(jobs.c.created_at < self.until)
        of_instances = evolve(self, ae_title=None, since=None, until=None)
        if self._of_subject():  # few instances: find their jobs
            wanted = select(instances.c.instance_id).where(of_instances.of_instances())
            numbers = select(job_instances.c.job_number).where(job_instances.c.instance_id.in_(wanted))
            conditions.append(jobs.c.job_number.in_(numbers))
        elif self.calling_ae_title is not None:  # perhaps almost all instances: examine the jobs one by one
            in_job = job_instances.c.job_number == jobs.c.job_number
            is_member = job_instances.c.instance_id == instances.c.instance_id
            conditions.append(exists().where(in_job, is_member, of_instances.of_instances()))
        return and_(true(), *conditions)

    def _of_subject(self) -> list[ColumnElement[bool]]:
        """Return the conditions that few instances meet. Each of them uses an index."""
        conditions: list[ColumnElement[bool]] = []
        study = instances.c.study_instance_uid
        if self.sop_instance_uid is not None:
            conditions.append(instances.c.sop_instance_uid == self.sop_instance_uid)
        if self.study_instance_uid is not None:
            conditions.append(study == self.study_instance_uid)
        if self.series_instance_uid is not None:
            conditions.append(study.in_(_studies(series.c.series_instance_uid == self.series_instance_uid)))
            conditions.append(instances.c.series_instance_uid == self.series_instance_uid)
        if self.accession_number is not None:  # an attribute of the study: instances without it are wanted, too
            conditions.append(study.in_(_studies(series.c.accession_number == self.accession_number)))
        if self.patient_id is not None:
            conditions.append(study.in_(_studies(series.c.patient_id == self.patient_id)))
            conditions.append(instances.c.patient_id == self.patient_id)
        return conditions


NO_FILTERS = Filters()


def _studies(condition: ColumnElement[bool]) -> Select[tuple[str]]:
    return select(series.c.study_instance_uid).where(condition)
