"""The reason why a job waits although nothing fails: the limit of running jobs is reached."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from dicom_adapter.api.values import Job, JobState
from dicom_adapter.ledger.health import STALE_AFTER, PartHealth, PartState
from dicom_adapter.runtime.parts import Part, PartKind

HELD_BACK = (JobState.QUEUED, JobState.UPLOADED)  # states in which a job waits at the limit


def limit_reached(submitter: str, parts: Mapping[str, PartHealth], now: datetime) -> str:
    """Return why the service starts no further job of a submitter; "" if it starts jobs, or is not running."""
    platform = parts.get(str(Part(PartKind.PLATFORM, submitter)))
    if platform is None or platform.state is not PartState.OK or abs(now - platform.seen_at) > STALE_AFTER:
        return ""
    return platform.reason


def why_waits(job: Job, parts: Mapping[str, PartHealth], now: datetime) -> str:
    """Return the limit for which a job waits; "" if it does not wait for a limit."""
    is_due = job.state in HELD_BACK and job.next_attempt_at is None and not job.cancel_requested
    return limit_reached(job.submitter, parts, now) if is_due else ""
