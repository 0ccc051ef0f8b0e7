"""The status of the service as JSON values."""

from __future__ import annotations

from typing import Any

from dicom_adapter.ledger.configurations import Configuration
from dicom_adapter.operations.documents.moments import iso
from dicom_adapter.operations.documents.senders import rejection_as_json
from dicom_adapter.operations.status import AeTitleStatus
from dicom_adapter.operations.status_report import StatusReport


def status_as_json(report: StatusReport) -> dict[str, Any]:
    """Return the status as JSON values."""
    storage, capacity = report.config.storage, report.storage.capacity
    return {
        "health": report.level.value,
        "problems": [
            {"level": problem.level.value, "part": problem.part, "reason": problem.reason}
            for problem in report.problems
        ],
        "service": report.service.value,
        "parts": [
            {
                "part": part.part,
                "state": part.state.value,
                "reason": part.reason,
                "pid": part.pid,
                "since": iso(part.since),
                "seenAt": iso(part.seen_at),
            }
            for part in report.facts.parts.values()
        ],
        "configuration": None if report.facts.newest is None else configuration_as_json(report.facts.newest),
        "storage": {
            "totalBytes": None if capacity is None else capacity.total_bytes,
            "freeBytes": None if capacity is None else capacity.free_bytes,
            "watermarkPercent": storage.watermark_percent,
            "reserveBytes": storage.reserve,
        },
        "notEntered": {
            "instances": report.facts.backlog.count,
            "oldestAt": iso(report.facts.backlog.oldest_at),
        },
        "waitingJobs": [
            {"submitter": one.submitter, "jobs": one.count, "reason": one.reason} for one in report.facts.waiting_jobs
        ],
        "rejections": [rejection_as_json(one) for one in report.facts.rejected],
        "aeTitles": [_ae_title_as_json(status, report) for status in report.facts.ae_titles],
    }


def configuration_as_json(newest: Configuration) -> dict[str, Any]:
    """Return the state of a configuration as JSON values."""
    return {
        "number": newest.number,
        "state": newest.state.value,
        "reason": newest.reason,
        "since": iso(newest.changed_at),
    }


def _ae_title_as_json(status: AeTitleStatus, report: StatusReport) -> dict[str, Any]:
    lane, oldest = status.lane, status.oldest
    return {
        "aeTitle": status.ae_title,
        "state": report.state_of(status),
        "reason": (lane.reason or lane.full_reason if lane is not None else "") or report.refusal_of(status),
        "groups": 0 if lane is None else lane.groups,
        "nextDueAt": iso(lane.waiting[0].until) if lane is not None and lane.waiting else None,
        "pending": status.held.pending,
        "quarantined": status.held.quarantined,
        "quarantinedResults": status.held.results,
        "quarantinedBytes": status.held_bytes.quarantined,
        "faultedBytes": status.held_bytes.in_jobs,
        "duplicates": {"dropped": status.duplicates.dropped, "quarantined": status.duplicates.quarantined},
        "jobs": {state.value: count for state, count in status.jobs.items()},
        "oldestUnfinishedJob": None
        if oldest is None
        else {"jobId": oldest.job_id, "state": oldest.state.value, "createdAt": iso(oldest.created_at)},
    }
