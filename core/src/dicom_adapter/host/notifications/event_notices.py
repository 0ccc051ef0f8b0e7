"""Notices of events in the ledger. Their texts contain no messages of platforms, no UIDs and no patient data."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrs import frozen

from dicom_adapter.api.notifier import Notice, NoticeKind
from dicom_adapter.api.values import SOURCE_JOB, Job
from dicom_adapter.ledger.events import JOB_INCOMPLETE, Event
from dicom_adapter.ledger.health import HOST, RECEIVER, SERVICE
from dicom_adapter.runtime.parts import PartKind

LONGEST_REASON = 300  # characters
STATUS = "`dicom-adapter status` shows why"
# The parts that are about a platform, by the beginning of their names.
OF_PLATFORM = (PartKind.PLATFORM, PartKind.STATUS_WATCH, PartKind.SUBMITTER, PartKind.TIME_LIMIT, PartKind.CLEAN_UP)
OF_STORAGE = (PartKind.STORAGE, PartKind.GENERATION)
# Kinds whose reasons are made by the adapter from its configuration, from figures and from locations in its code. The
# reasons of other kinds may repeat messages of platforms, peers and plugins.
WITH_REASON = (NoticeKind.STORAGE, NoticeKind.CERTIFICATE, NoticeKind.PROCESS)


@frozen
class _Rule:
    """The notice of one event."""

    kind: NoticeKind
    subject: str  # "{}" is the AE title
    text: str
    is_over: bool = False


LANE = "AE title {}"
QUOTA = "quarantine-quota of {}"
RULES: Mapping[str, _Rule] = {
    "instance_quarantined": _Rule(
        NoticeKind.QUARANTINED,
        "instances",
        "quarantined: `dicom-adapter instances list --state quarantined` shows why",
    ),
    "result_quarantined": _Rule(
        NoticeKind.QUARANTINED, "results", "quarantined: `dicom-adapter results list --state quarantined` shows why"
    ),
    JOB_INCOMPLETE: _Rule(
        NoticeKind.JOB_INCOMPLETE,
        "jobs",
        "submitted although instances may be missing: `dicom-adapter jobs list` shows what is known",
    ),
    "lane_stopped": _Rule(NoticeKind.AE_TITLE, LANE, f"stopped, and rejects associations: {STATUS}"),
    "lane_restarted": _Rule(NoticeKind.AE_TITLE, LANE, "restarted", is_over=True),
    "lane_changed": _Rule(NoticeKind.AE_TITLE, LANE, "restarted with other settings", is_over=True),
    "ae_title_full": _Rule(NoticeKind.AE_TITLE, QUOTA, f"used up, so associations are rejected: {STATUS}"),
    "ae_title_below_quota": _Rule(NoticeKind.AE_TITLE, QUOTA, "instances are accepted again", is_over=True),
}
OF_JOB = ("job_faulted", "job_failed")
JOB_TEXTS = {
    NoticeKind.JOB_FAULTED: "a job was given up: `dicom-adapter jobs list --state faulted` shows why",
    NoticeKind.JOB_FAILED: "a job has failed: `dicom-adapter jobs list --state failed` shows why",
    NoticeKind.DELIVERY_FAILED: "results were not delivered: `dicom-adapter jobs list` shows why",
}
PART_TEXTS = {
    "part_hangs": "does not finish its current work",
    "part_failing": "does not work",
    "part_degraded": "needs attention",
    "platform_down": "is not available",
    "part_recovered": "works again",
    "platform_up": "is available again",
}
ENDS = ("part_recovered", "platform_up")
EVENT_NAMES = (*RULES, *OF_JOB, *PART_TEXTS)  # the events that are read from the ledger


def notice_of(event: Event, find_job: Callable[[str], Job | None]) -> Notice:
    """Return the notice of one event with one of the EVENT_NAMES. `find_job` returns a job by its id."""
    if event.event in OF_JOB:
        return _of_job(event, find_job(event.job_id or ""))
    if event.event in PART_TEXTS:
        return _of_part(event)
    rule = RULES[event.event]
    return _notice(event, rule.kind, rule.subject.format(event.ae_title), rule.text, is_over=rule.is_over)


def _of_job(event: Event, job: Job | None) -> Notice:
    kind = NoticeKind.JOB_FAULTED if event.event == "job_faulted" else NoticeKind.JOB_FAILED
    subject = "jobs" if job is None else f"submitter {job.submitter}"
    if job is not None and SOURCE_JOB in job.metadata:
        kind, subject = NoticeKind.DELIVERY_FAILED, f"destination {job.submitter}"
    return _notice(event, kind, subject, JOB_TEXTS[kind], job_ids=(event.job_id,) if event.job_id else ())


def _of_part(event: Event) -> Notice:
    part = str(event.detail.get("part", ""))
    kind, text, is_over = kind_of_part(part), PART_TEXTS[event.event], event.event in ENDS
    if not is_over:
        reason = plain(str(event.detail.get("reason", "")))
        text = f"{text}: {reason}" if kind in WITH_REASON and reason else f"{text}: {STATUS}"
    return _notice(event, kind, part, text, is_over=is_over)


def kind_of_part(part: str) -> NoticeKind:
    """Return the kind of the notices about a part, by the name that operators see."""
    if part.startswith(f"{PartKind.LANE.title} "):
        return NoticeKind.AE_TITLE
    if any(part.startswith(f"{kind.title} ") for kind in OF_PLATFORM):
        return NoticeKind.PLATFORM
    if part in [kind.title for kind in OF_STORAGE]:
        return NoticeKind.STORAGE
    if part == PartKind.CERTIFICATES.title:
        return NoticeKind.CERTIFICATE
    if part in (SERVICE, HOST) or part.split(" ")[0] == RECEIVER:
        return NoticeKind.PROCESS
    return NoticeKind.PART


def _notice(
    event: Event, kind: NoticeKind, subject: str, text: str, *, is_over: bool = False, job_ids: tuple[str, ...] = ()
) -> Notice:
    return Notice(
        kind=kind,
        ae_title=event.ae_title,
        subject=subject,
        text=text,
        count=1,
        first_at=event.at,
        last_at=event.at,
        is_over=is_over,
        job_ids=job_ids,
    )


def plain(text: str) -> str:
    """Return a text on one line, without control characters, and not too long for a message."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(printable.split())[:LONGEST_REASON]
