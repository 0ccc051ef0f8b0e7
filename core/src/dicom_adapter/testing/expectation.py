"""The jobs that a test expects, and their differences from the actual jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import zip_longest

from attrs import field, frozen
from pydicom.dataset import Dataset

from dicom_adapter.api.values import InstanceStorageInfo, Job, JobPriority, JobState


@frozen
class ExpectedJob:
    """An expected job. Omitted values are not compared."""

    pipeline: str  # its id
    instances: int | Sequence[Dataset] | None = field(
        default=None, kw_only=True
    )  # their number, or the instances in this order
    at: float | None = field(default=None, kw_only=True)  # seconds since the adapter's beginning
    ae_title: str | None = field(default=None, kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    priority: JobPriority | None = field(default=None, kw_only=True)
    state: JobState | None = field(default=None, kw_only=True)
    metadata: Mapping[str, str] | None = field(default=None, kw_only=True)  # these entries, perhaps among others

    def __str__(self) -> str:
        instances = self.instances if self.instances is None or isinstance(self.instances, int) else len(self.instances)
        said = {
            "instances": instances,
            "at": None if self.at is None else f"{self.at:.10g} s",
            "AE title": self.ae_title,
            "name": self.name,
            "priority": self.priority and self.priority.value,
            "state": self.state and self.state.value,
            "metadata": None if self.metadata is None else dict(self.metadata),
        }
        parts = [f"{key} {value}" for key, value in said.items() if value is not None]
        return ", ".join([f"pipeline {self.pipeline}", *parts])


@frozen(kw_only=True)
class SeenJob:
    """An actual job."""

    job: Job
    instances: Sequence[InstanceStorageInfo]
    began: datetime

    @property
    def at(self) -> float:
        """Seconds since the adapter's beginning."""
        return (self.job.created_at - self.began).total_seconds()

    def __str__(self) -> str:
        job = self.job
        parts = [
            f"pipeline {job.pipeline_id}",
            f"instances {job.instance_count}",
            f"at {self.at:.10g} s",
            f"AE title {job.ae_title}",
            f"name {job.name}",
            f"priority {job.priority.value}",
            f"state {job.state.value}",
        ]
        return ", ".join(parts) + (f" ({job.last_error})" if job.last_error else "")


def differences(expected: Sequence[ExpectedJob], seen: Sequence[SeenJob]) -> list[str]:
    """Return one line for each difference."""
    found = []
    for number, (wanted, there) in enumerate(zip_longest(expected, seen), start=1):
        if there is None:
            found.append(f"job {number} is missing: {wanted}")
        elif wanted is None:
            found.append(f"job {number} was not expected: {there}")
        else:
            found += [f"job {number}: {difference}" for difference in _differences(wanted, there)]
    if not found:
        return []
    counts = f"{len(expected)} job{'' if len(expected) == 1 else 's'} expected, {len(seen)} there"
    return [f"the jobs are not as expected ({counts}):", *found]


def _differences(wanted: ExpectedJob, there: SeenJob) -> Iterator[str]:
    job = there.job
    if wanted.at is not None and round(wanted.at, 6) != round(there.at, 6):
        yield f"at {there.at:.10g} s instead of {wanted.at:.10g} s"
    for what, expected, actual in (
        ("pipeline", wanted.pipeline, job.pipeline_id),
        ("AE title", wanted.ae_title, job.ae_title),
        ("name", wanted.name, job.name),
        ("priority", wanted.priority and wanted.priority.value, job.priority.value),
        ("state", wanted.state and wanted.state.value, job.state.value),
    ):
        if expected is not None and expected != actual:
            yield f"{what} {actual} instead of {expected}"
    yield from _other_metadata(wanted, job)
    yield from _other_instances(wanted, there)


def _other_metadata(wanted: ExpectedJob, job: Job) -> Iterator[str]:
    for key, value in (wanted.metadata or {}).items():
        if job.metadata.get(key) != value:
            yield f"metadata {key} is {job.metadata.get(key)!r} instead of {value!r}"


def _other_instances(wanted: ExpectedJob, there: SeenJob) -> Iterator[str]:
    actual = [instance.sop_instance_uid for instance in there.instances]
    if wanted.instances is None:
        return
    if isinstance(wanted.instances, int):
        if wanted.instances != len(actual):
            yield f"{len(actual)} instances instead of {wanted.instances}"
        return
    expected = [str(data_set.SOPInstanceUID) for data_set in wanted.instances]
    if expected == actual:
        return
    missing, surplus = [uid for uid in expected if uid not in actual], [uid for uid in actual if uid not in expected]
    if missing or surplus:
        yield f"{len(actual)} instances instead of {len(expected)}: missing {missing}, not expected {surplus}"
    else:
        yield f"the instances are in another order: {actual} instead of {expected}"
