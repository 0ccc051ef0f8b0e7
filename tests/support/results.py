"""An adapter whose jobs have results, and two destinations for them."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from attrs import define
from pydicom.dataset import Dataset

from dicom_adapter import Job, JobState
from dicom_adapter.api.values import SOURCE_JOB
from dicom_adapter.dicom.synthetic import make_instance, write
from dicom_adapter.ledger import attachments, jobs, results
from dicom_adapter.ledger.attachments import Attachment
from dicom_adapter.ledger.results import ResultRow
from dicom_adapter.testing import Adapter

MakeAdapter = Callable[..., Adapter]

CONFIGURATION = """
[submitters.platform]
type = "memory-followed"
retry-first = 2
[submitters.pacs]
type = "memory"
[submitters.archive]
type = "memory"
[ae-titles.LUNG]
processor = "by-study"
submitter = "platform"
[ae-titles.LUNG.settings]
pipeline-one = "p1"
[ae-titles.LUNG.results]
to = ["pacs", "archive"]
"""
WITHOUT_DESTINATION = CONFIGURATION.replace('to = ["pacs", "archive"]', "")
WAIT_S = 5  # from the last instance of a study to its job
STATUS_EVERY_S = 10  # the default of `status-every`


def encoded(data_set: Dataset) -> bytes:
    """Return the Part 10 file of a synthetic instance."""
    file = io.BytesIO()
    write(data_set, file)
    return file.getvalue()


def output(number: int = 1, seed: str = "study", **attributes: Any) -> bytes:
    """Return a Part 10 file that may be delivered: a new instance of the study with this seed."""
    source = make_instance(seed=seed)
    values: dict[str, Any] = {
        "seed": seed,
        "sop_uid": f"2.25.77{number}",
        "series_uid": "2.25.77",
        "study_uid": source.StudyInstanceUID,
        "instance_number": number,
    }
    return encoded(make_instance(**(values | attributes)))


@define
class Site:
    """An adapter, and what tests do with it."""

    adapter: Adapter

    def start_job(self, seed: str = "study", instances: int = 2) -> Job:
        """Receive a study, and return its running job."""
        self.adapter.receive(*(make_instance(seed=seed, instance_number=number + 1) for number in range(instances)))
        self.adapter.advance(WAIT_S)
        job = self.adapter.jobs[-1]
        assert job.state is JobState.RUNNING
        return job

    def end_job(self, outputs: Mapping[str, bytes], job: Job | None = None, seed: str = "study") -> Job:
        """Let a job (default: a new one) succeed with these outputs; return it when everything is delivered."""
        job = job or self.start_job(seed)
        self.adapter.platform.end(job, outputs=outputs)
        self.adapter.advance(STATUS_EVERY_S)
        return self.job(job)

    def wait_days(self, days: float) -> None:
        """Let time pass, with the service down: otherwise it would poll the platform thousands of times."""
        with self.adapter.down():
            self.adapter.clock.move_to(self.adapter.clock.now() + timedelta(days=days))
        self.adapter.advance(1300)  # two runs of the retention

    def job(self, job: Job) -> Job:
        """Return a job as it is now."""
        return next(one for one in self.adapter.jobs if one.job_id == job.job_id)

    @property
    def results(self) -> list[ResultRow]:
        """All results, the oldest first."""
        with self.adapter.ledger.read() as transaction:
            return results.newest(transaction, None)[::-1]

    def attachments(self, job: Job) -> list[Attachment]:
        with self.adapter.ledger.read() as transaction:
            row = jobs.get(transaction, job.job_id)
            assert row is not None
            return attachments.of_job(transaction, row.number)

    @property
    def deliveries(self) -> list[Job]:
        return [job for job in self.adapter.jobs if SOURCE_JOB in job.metadata]

    def delivered_to(self, destination: str) -> list[bytes]:
        """Return the files that a destination has received, in jobs that were started."""
        return [
            file
            for received in self.adapter.platform.jobs.values()
            if received.job.submitter == destination and received.started
            for _position, file in sorted(received.files.items())
        ]

    def events(self, name: str) -> list[Mapping[str, object]]:
        return [event.detail for event in self.adapter.events if event.event == name]
