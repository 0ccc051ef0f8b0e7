"""The text of results, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from dicom_adapter.api.counts import counted
from dicom_adapter.api.values import Job, JobState
from dicom_adapter.cli.job_text import SHORT_ID
from dicom_adapter.cli.times import Times
from dicom_adapter.cli.wrapping import titled, wrapped
from dicom_adapter.ledger.attachments import Attachment, JobAttachments
from dicom_adapter.ledger.jobs import FINISHED
from dicom_adapter.ledger.results import ResultRow
from dicom_adapter.ledger.schema import InstanceOutcome, InstanceState
from dicom_adapter.operations.deliveries import JobOfResult


def describe_delivery(delivery: JobOfResult, times: Times) -> str:
    """Return what is known of a delivery in words."""
    job = delivery.job
    name = f"job {job.job_id[:SHORT_ID]}"
    if job.state is JobState.CANCELLED:
        return f"{job.submitter}: cancelled at {times.full(job.changed_at)} ({name})"
    if job.state in FINISHED:
        return f"{job.submitter}: delivered at {times.full(job.changed_at)} ({name})"
    is_received = delivery.is_uploaded
    where = f"{job.submitter}: received, {name} is not finished" if is_received else f"{job.submitter}: waits"
    error = f": {' '.join(job.last_error.split())}" if job.last_error else ""
    return f"{where} ({name}, {job.state.value}){times.in_text(error)}"


def lines(
    rows: Sequence[ResultRow],
    delivered: Mapping[int, Sequence[JobOfResult]],
    times: Times,
    options: str,
) -> Iterator[str]:
    """Yield the lines of `results list` about results."""
    for row in rows:
        instance = row.instance
        yield f"{instance.instance_id}  {instance.ae_title}  {row.state.value} since {times.full(row.changed_at)}"
        yield from wrapped(_source(row))
        if instance.study_instance_uid:
            yield f"    study {instance.study_instance_uid}"
        if instance.sop_instance_uid:
            yield f"    instance {instance.sop_instance_uid}"
        yield from wrapped(_note(row, times))
        for delivery in delivered[instance.instance_id]:
            yield from wrapped(describe_delivery(delivery, times))
        yield from wrapped(_next_step(row, options))


def attachment_lines(
    of_jobs: Sequence[JobAttachments],
    source: Job | None,
    attachments: Mapping[Attachment, Sequence[JobOfResult]],
    times: Times,
    options: str,
) -> Iterator[str]:
    """Yield the lines of `results list` about attachments: of several jobs, or each attachment of the job `source`."""
    for one in of_jobs:
        yield f"job {one.job_id}  {counted(one.count, 'attachment')}, {counted(one.size_bytes, 'byte')}"
        yield from wrapped(_export_attachments(one.job_id, options))
    for attachment, sent in attachments.items():
        yield f"attachment {attachment.instance_id}  {counted(attachment.size_bytes, 'byte')}"
        for delivery in sent:
            yield from wrapped(describe_delivery(delivery, times))
    if source is not None and attachments:
        yield from wrapped(_export_attachments(source.job_id, options))


def _export_attachments(job_id: str, options: str) -> str:
    command = f"dicom-adapter results export --all --job {job_id[:SHORT_ID]} --to FOLDER{options}"
    return f"copy them: `{command}`"


def show_lines(row: ResultRow, delivered: Sequence[JobOfResult], times: Times, options: str) -> Iterator[str]:
    """Yield the lines of `results show`, without the events."""
    instance = row.instance
    yield from titled("result", str(instance.instance_id))
    yield from titled("AE title", instance.ae_title)
    yield from titled("job", row.job_id or f"number {row.job_number}, which was deleted from the ledger")
    yield from titled("state", f"{row.state.value} since {times.full(row.changed_at)}")
    yield from titled("reason", _note(row, times))
    yield from titled("collected", times.full(instance.received_at))
    yield from titled("SOP class", instance.sop_class_uid)
    yield from titled("instance", instance.sop_instance_uid)
    yield from titled("series", instance.series_instance_uid)
    yield from titled("study", instance.study_instance_uid)
    yield from titled("transfer syntax", instance.transfer_syntax_uid)
    yield from titled("bytes", str(instance.size_bytes))
    yield from titled("kept until", "" if row.keep_until is None else times.full(row.keep_until))
    for number, delivery in enumerate(delivered):
        yield from titled("" if number else "deliveries", describe_delivery(delivery, times))
    yield from titled("next", _next_step(row, options))


def _source(row: ResultRow) -> str:
    return f"from job {row.job_id}" if row.job_id else f"from job number {row.job_number}, which was deleted"


def _note(row: ResultRow, times: Times) -> str:
    """Return why a result is, or was, quarantined, and what an operator has done."""
    if not row.reason or row.state is InstanceState.QUARANTINED:
        return times.in_text(row.reason)
    if row.outcome == InstanceOutcome.DISCARDED.value:
        return times.in_text(f"discarded by an operator: {row.reason}")
    return times.in_text(f"requeued by an operator, although {row.reason}")


def _next_step(row: ResultRow, options: str) -> str:
    if row.state is not InstanceState.QUARANTINED:
        return ""
    number = row.instance.instance_id
    return (
        f"waits for an operator: `dicom-adapter results export {number} --to FOLDER{options}`, then `results requeue "
        f"{number}` or `results discard {number}`"
    )
