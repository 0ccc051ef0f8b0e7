"""Indexes of the evidence for the count."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TypeAlias

from attrs import frozen

from faults.evidence import Evidence, LedgerInstance, LedgerJob, PlatformJob
from faults.records import Sent

WAITING = ("pending", "quarantined")  # states of rows that the processor has not removed

Key: TypeAlias = tuple[str, str]  # AE title, SOP Instance UID


@frozen(kw_only=True)
class Finding:
    """A violation of a rule."""

    rule: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.what}"


@frozen(kw_only=True)
class Lookup:
    """The evidence, sorted and grouped."""

    sent: Mapping[Key, list[Sent]]  # in the order of sending
    started: list[PlatformJob]  # in the order of their creation
    holding: Mapping[tuple[str, str], list[PlatformJob]]  # started jobs by pipeline and SOP Instance UID
    rows: Mapping[Key, list[LedgerInstance]]
    by_number: Mapping[int, LedgerInstance]
    jobs: Mapping[str, LedgerJob]  # by id


def look_up(evidence: Evidence) -> Lookup:
    """Sort and group the evidence."""
    sent, rows, holding = defaultdict(list), defaultdict(list), defaultdict(list)
    for request in sorted(evidence.sent, key=lambda request: request.began):
        sent[request.ae_title, request.sop_instance_uid].append(request)
    for row in evidence.instances:
        if not row.is_result:
            rows[row.ae_title, row.sop_instance_uid].append(row)
    started = sorted((job for job in evidence.platform_jobs if job.is_started), key=lambda job: job.created)
    for job in started:
        for uid in {file.sop_instance_uid for file in job.files}:
            holding[job.pipeline, uid].append(job)
    return Lookup(
        sent=sent,
        started=started,
        holding=holding,
        rows=rows,
        by_number={row.number: row for row in evidence.instances},
        jobs={job.job_id: job for job in evidence.jobs},
    )
