"""A readable description of an adapter at one moment: jobs, waiting groups, instances and failures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from dicom_adapter.api.counts import counted
from dicom_adapter.api.receiving import StoreResult
from dicom_adapter.ledger import instances
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.net.codes import C_STORE_STATUS
from dicom_adapter.simulation.adapter import SimulatedAdapter
from dicom_adapter.testing.expectation import ActualJob

FAILURES = ("processor_failed", "instance_quarantined", "lane_stopped")
SHOWN_FAILURES = 5  # number of failures of an AE title that are shown: the latest


def describe(adapter: SimulatedAdapter, started_at: datetime, refused: Sequence[StoreResult]) -> Iterator[str]:
    """Yield the lines of the description."""
    now = adapter.clock.now()
    yield f"at {(now - started_at).total_seconds():.10g} s ({now:%H:%M:%S} UTC)"
    jobs = [ActualJob(job=job, instances=(), started_at=started_at) for job in adapter.jobs]
    yield "jobs:" if jobs else "jobs: none"
    yield from (f"  {number}. {job}" for number, job in enumerate(jobs, start=1))
    for result in refused:
        yield f"an instance was not stored (0x{C_STORE_STATUS[result.outcome]:04X}): {result.reason}"
    for lane in adapter.host.describe_lanes():
        yield from _describe_lane(adapter, lane, started_at)
    for ae_title, reason in adapter.host.refused.items():
        yield f"AE title {ae_title} is refused: {reason}"


def _describe_lane(adapter: SimulatedAdapter, lane: LaneReport, started_at: datetime) -> Iterator[str]:
    summary = adapter.host.served[lane.ae_title]
    processor = f"processor {adapter.config.ae_titles[lane.ae_title].processor}" + (f" ({summary})" if summary else "")
    yield f"AE title {lane.ae_title}, {processor}: {lane.state.value}" + (f", {lane.reason}" if lane.reason else "")
    with adapter.ledger.read() as transaction:
        counts = instances.count_by_state(transaction)
    states = [f"{count} {state}" for (ae_title, state), count in counts.items() if ae_title == lane.ae_title]
    yield f"  instances: {', '.join(states) or 'none'}"
    for group in lane.waiting:
        until = "" if group.until is None else f", until {(group.until - started_at).total_seconds():.10g} s"
        yield f"  waiting: {group.label}, {counted(group.instance_count, 'instance')}{until}"
    yield from _describe_failures(adapter, lane.ae_title, started_at)


def _describe_failures(adapter: SimulatedAdapter, ae_title: str, started_at: datetime) -> Iterator[str]:
    failures = [event for event in adapter.events if event.ae_title == ae_title and event.event in FAILURES]
    for event in failures[-SHOWN_FAILURES:]:
        reason = event.detail.get("reason") or event.detail.get("error")
        yield f"  {event.event} at {(event.at - started_at).total_seconds():.10g} s: {reason}"
