"""Comparison of the jobs that a test expects with the actual jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from enum import Enum
from itertools import zip_longest
from typing import TypeVar

from attrs import field, frozen
from pydicom.dataset import Dataset

from dicom_adapter.api.counts import counted
from dicom_adapter.api.values import InstanceStorageInfo, Job, JobPriority, JobState

EnumT = TypeVar("EnumT", bound=Enum)


def _priority(value: JobPriority | str | None) -> JobPriority | None:
    return None if value is None else _member(JobPriority, "priority", value)


def _state(value: JobState | str | None) -> JobState | None:
    return None if value is None else _member(JobState, "state", value)


def _member(enumeration: type[EnumT], name: str, value: EnumT | str) -> EnumT:
    try:
        return enumeration(value)
    except ValueError:
        allowed = ", ".join(member.value for member in enumeration)
        message = f"ExpectedJob({name}={value!r}): must be a {enumeration.__name__}, or one of {allowed}"
    raise ValueError(message)


@frozen
class ExpectedJob:
    """An expected job. Omitted values are not compared."""

    pipeline: str  # pipeline id
    # Number of instances, or the instances in the order of the job.
    instances: int | Sequence[Dataset] | None = field(default=None, kw_only=True)
    at: float | None = field(default=None, kw_only=True)  # time of the submission, in seconds since the adapter's start
    ae_title: str | None = field(default=None, kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    # Members, or their values as texts, such as "faulted".
    priority: JobPriority | None = field(default=None, kw_only=True, converter=_priority)
    state: JobState | None = field(default=None, kw_only=True, converter=_state)
    metadata: Mapping[str, str] | None = field(default=None, kw_only=True)  # the job may have additional entries

    def __str__(self) -> str:
        instances = self.instances if self.instances is None or isinstance(self.instances, int) else len(self.instances)
        values = {
            "instances": instances,
            "at": None if self.at is None else f"{self.at:.10g} s",
            "AE title": self.ae_title,
            "name": self.name,
            "priority": self.priority and self.priority.value,
            "state": self.state and self.state.value,
            "metadata": None if self.metadata is None else dict(self.metadata),
        }
        parts = [f"{key} {value}" for key, value in values.items() if value is not None]
        return ", ".join([f"pipeline {self.pipeline}", *parts])


@frozen(kw_only=True)
class ActualJob:
    """A job of the adapter, with its instances."""

    job: Job
    instances: Sequence[InstanceStorageInfo]
    started_at: datetime  # start of the adapter

    @property
    def at(self) -> float:
        """Seconds since the adapter's start."""
        return (self.job.created_at - self.started_at).total_seconds()

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


def find_differences(expected: Sequence[ExpectedJob], actual: Sequence[ActualJob]) -> list[str]:
    """Return a heading and one line for each difference; an empty list if there is no difference."""
    differences = []
    for number, (wanted, seen) in enumerate(zip_longest(expected, actual), start=1):
        if seen is None:
            differences.append(f"job {number} is missing: {wanted}")
        elif wanted is None:
            differences.append(f"job {number} was not expected: {seen}")
        else:
            differences += [f"job {number}: {difference}" for difference in _compare(wanted, seen)]
    if not differences:
        return []
    counts = f"{counted(len(expected), 'job')} expected, {len(actual)} found"
    return [f"the jobs are not as expected ({counts}):", *differences]


def _compare(wanted: ExpectedJob, seen: ActualJob) -> Iterator[str]:
    job = seen.job
    if wanted.at is not None and round(wanted.at, 6) != round(seen.at, 6):
        yield f"at {seen.at:.10g} s instead of {wanted.at:.10g} s"
    for name, expected, actual in (
        ("pipeline", wanted.pipeline, job.pipeline_id),
        ("AE title", wanted.ae_title, job.ae_title),
        ("name", wanted.name, job.name),
        ("priority", wanted.priority and wanted.priority.value, job.priority.value),
        ("state", wanted.state and wanted.state.value, job.state.value),
    ):
        if expected is not None and expected != actual:
            yield f"{name} {actual} instead of {expected}"
    yield from _compare_metadata(wanted, job)
    yield from _compare_instances(wanted, seen)


def _compare_metadata(wanted: ExpectedJob, job: Job) -> Iterator[str]:
    for key, value in (wanted.metadata or {}).items():
        if job.metadata.get(key) != value:
            yield f"metadata {key} is {job.metadata.get(key)!r} instead of {value!r}"


def _compare_instances(wanted: ExpectedJob, seen: ActualJob) -> Iterator[str]:
    actual = [instance.sop_instance_uid for instance in seen.instances]
    if wanted.instances is None:
        return
    if isinstance(wanted.instances, int):
        if wanted.instances != len(actual):
            yield f"{counted(len(actual), 'instance')} instead of {wanted.instances}"
        return
    expected = [str(data_set.SOPInstanceUID) for data_set in wanted.instances]
    if expected == actual:
        return
    missing, surplus = [uid for uid in expected if uid not in actual], [uid for uid in actual if uid not in expected]
    if missing or surplus:
        found = f"{counted(len(actual), 'instance')} instead of {len(expected)}"
        yield f"{found}: missing {missing}, not expected {surplus}"
    else:
        yield f"the instances are in another order: {actual} instead of {expected}"
