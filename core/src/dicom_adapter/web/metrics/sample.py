"""Read the values of all gauges once: from the ledger, the storage, the certificates and the processes."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

from attrs import frozen

from dicom_adapter import __version__
from dicom_adapter.api.certificates import Certificate
from dicom_adapter.api.errors import LedgerError
from dicom_adapter.api.values import Capacity
from dicom_adapter.config.model import Config, StorageConfig
from dicom_adapter.flow.free_space import required_free_bytes
from dicom_adapter.ledger import arrival_times
from dicom_adapter.ledger.health import SERVICE
from dicom_adapter.ledger.jobs import HELD, UNFINISHED
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.ledger.ledger_file import database_file
from dicom_adapter.operations.certificates import owner_of
from dicom_adapter.operations.not_entered import Backlog
from dicom_adapter.operations.status import AeTitleStatus, Level
from dicom_adapter.operations.status_report import StatusReport, report_of_host
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.web.metrics import gauges
from dicom_adapter.web.metrics.gauges import Gauge
from dicom_adapter.web.metrics.processes import process_values

Value: TypeAlias = tuple[Gauge, tuple[str, ...], float]  # the metric, the values of its labels, its value


@frozen
class Sample:
    """The values of the gauges at one time."""

    values: Sequence[Value]


def take_sample(config: Config, resources: Resources, certificates: Iterable[Certificate]) -> Sample:
    """Read all values. If the ledger fails, the health is red, and the values from the ledger are missing."""
    now = resources.clock.system_time()
    values = [*_build(), *_quota(config), *_of_certificates(certificates)]
    try:
        with resources.ledger.read() as transaction:
            report = report_of_host(transaction, config, resources, now)
            oldest = arrival_times.oldest_pending(transaction, [one.ae_title for one in report.facts.ae_titles])
            last = arrival_times.last_associations(transaction)
    except LedgerError:
        return Sample([*values, *_of_levels(Level.RED, [Level.RED])])
    values += _of_levels(report.level, [problem.level for problem in report.problems])
    for status in report.facts.ae_titles:
        values += _of_ae_title(report, status, oldest.get(status.ae_title), now)
        if status.ae_title in last:
            values.append((gauges.LAST_ASSOCIATION, (status.ae_title,), last[status.ae_title].timestamp()))
    values += _of_backlog(report.facts.backlog, now)
    values += _of_jobs(report)
    values += _of_storage(report.storage.capacity, config.storage)
    values += _of_ledger(config, report.storage.ledger_free)
    values += _of_processes(report)
    return Sample(values)


def _build() -> Iterator[Value]:
    yield gauges.BUILD, (__version__, platform.python_version()), 1


def _quota(config: Config) -> Iterator[Value]:
    yield gauges.QUARANTINE_QUOTA, (), config.storage.quarantine_quota


def _of_certificates(certificates: Iterable[Certificate]) -> Iterator[Value]:
    first: dict[tuple[str, str], float] = {}
    for one in certificates:
        labels = (owner_of(one), "authority" if one.is_authority else "certificate")
        first[labels] = min(first.get(labels, float("inf")), one.expires_at.timestamp())
    for labels, at in first.items():
        yield gauges.CERTIFICATE, labels, at


def _of_levels(current: Level, levels: Sequence[Level]) -> Iterator[Value]:
    for level in Level:
        yield gauges.HEALTH, (level.value,), int(level is current)
    for level in (Level.YELLOW, Level.RED):
        yield gauges.PROBLEMS, (level.value,), levels.count(level)


def _of_ae_title(
    report: StatusReport, status: AeTitleStatus, oldest: datetime | None, now: datetime
) -> Iterator[Value]:
    labels = (status.ae_title,)
    if status.is_configured:
        yield gauges.ACCEPTING, labels, int(report.state_of(status) == "served")
    yield gauges.PENDING, labels, status.held.pending
    yield gauges.OLDEST_PENDING, labels, _age(oldest, now)
    yield gauges.OPEN_GROUPS, labels, 0 if status.lane is None else status.lane.groups
    yield gauges.GROUP_OVERDUE, labels, _overdue(status.lane, now)
    for state in (*UNFINISHED, *HELD):
        yield gauges.JOBS, (status.ae_title, state.value), status.jobs.get(state, 0)
    yield gauges.OLDEST_JOB, labels, _age(status.oldest.created_at if status.oldest else None, now)
    yield gauges.QUARANTINED, labels, status.held.quarantined
    yield gauges.QUARANTINED_RESULTS, labels, status.held.results
    yield gauges.HELD_BYTES, labels, status.held_bytes.total


def _of_backlog(backlog: Backlog, now: datetime) -> Iterator[Value]:
    yield gauges.NOT_ENTERED, (), backlog.count
    yield gauges.OLDEST_NOT_ENTERED, (), backlog.age(now)


def _of_jobs(report: StatusReport) -> Iterator[Value]:
    failing = {one.submitter: one.count for one in report.facts.failing_jobs}
    for submitter in dict.fromkeys([*report.config.submitters, *failing]):
        yield gauges.FAILING_JOBS, (submitter,), failing.get(submitter, 0)


def _of_storage(capacity: Capacity | None, storage: StorageConfig) -> Iterator[Value]:
    if capacity is not None:
        yield gauges.STORAGE_CAPACITY, (), capacity.total_bytes
        yield gauges.STORAGE_FREE, (), capacity.free_bytes
        yield gauges.STORAGE_LIMIT, (), required_free_bytes(capacity, storage)


def _of_ledger(config: Config, free: int | None) -> Iterator[Value]:
    if free is not None:
        yield gauges.LEDGER_FREE, (), free
    file = database_file(config.ledger_url)
    if file is not None:
        yield gauges.LEDGER_SIZE, (), _size(file) + _size(file.with_name(f"{file.name}-wal"))


def _of_processes(report: StatusReport) -> Iterator[Value]:
    for name, pid in (report.pids | {SERVICE: os.getppid()}).items():
        for gauge, value in process_values(pid, os.getppid()):
            yield gauge, (name,), value


def _age(since: datetime | None, now: datetime) -> float:
    return 0.0 if since is None else max(0.0, (now - since).total_seconds())


def _overdue(lane: LaneReport | None, now: datetime) -> float:
    """Return the time since the first group was due. Groups are in the order in which they are due."""
    dues = [] if lane is None else [group.until for group in lane.waiting if group.until is not None]
    return _age(min(dues), now) if dues else 0.0


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # there is no write-ahead log now
        return 0
