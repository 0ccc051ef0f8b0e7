"""The status of the service: its state, its problems, and the instances and jobs of each AE title.

`gather` reads the facts from the ledger. `assess` derives the problems from them, and is a pure function.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum

from attrs import field, frozen

from dicom_adapter.api.counts import counted
from dicom_adapter.api.values import Capacity, Job, JobState
from dicom_adapter.config.model import Config
from dicom_adapter.flow.acceptance import LocalRefusal, Space, association_refusal
from dicom_adapter.ledger import Transaction, configurations, counters, health, jobs, lanes, recorded_events, senders
from dicom_adapter.ledger.configurations import Configuration
from dicom_adapter.ledger.counters import Duplicates
from dicom_adapter.ledger.health import HOST, SERVICE, STALE_AFTER, PartHealth, PartState, processes
from dicom_adapter.ledger.held import Held, HeldBytes, Sizes, count_held, count_held_bytes
from dicom_adapter.ledger.jobs import HELD, UNFINISHED, FailingJobs, JobCount
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.ledger.schema import LaneState
from dicom_adapter.ledger.senders import DAY, Rejected
from dicom_adapter.operations.not_entered import NO_BACKLOG, Backlog, measure_backlog
from dicom_adapter.operations.senders import describe, merged, name_of, rejected_for_long
from dicom_adapter.operations.waiting_jobs import HELD_BACK, limit_reached
from dicom_adapter.runtime.parts import PartKind
from dicom_adapter.runtime.peer_health import DOWN_AFTER

INCOMPLETE_JOBS_SHOWN = timedelta(hours=1)  # time after the submission of an incomplete job in which it is a problem
MAX_GROUPS = 3  # number of interrupted groups of an AE title that are shown
MOST_SENDERS = 5  # number of rejected senders that are named
STORAGE = "storage"  # the part whose problems are those of the storage backend and its folder


class Level(str, Enum):
    """Severity, in ascending order."""

    GREEN = "green"
    YELLOW = "yellow"  # all parts work; an operator has to decide something
    RED = "red"  # a part does not work


class ServiceState(str, Enum):
    """State of the service as a whole."""

    RUNNING = "running"
    CHANGING = "starting or stopping"
    NOT_RUNNING = "not running"


@frozen(kw_only=True)
class Problem:
    """One reason why the status is not green."""

    level: Level
    part: str  # part with the problem, such as "AE title LUNG", "storage" or "receiver"
    reason: str = field(repr=False)


@frozen(kw_only=True)
class AeTitleStatus:
    """The state of an AE title, with its instances and jobs."""

    ae_title: str
    is_configured: bool
    lane: LaneReport | None  # last report of the host; None: there is no report yet
    held: Held
    held_bytes: HeldBytes
    jobs: Mapping[JobState, int]  # number of jobs in each state
    oldest: Job | None  # oldest unfinished job
    duplicates: Duplicates = field(factory=Duplicates)
    incomplete_jobs: int = 0  # number of recent jobs that were submitted although instances may be missing
    is_draining: bool = False  # a reload removed this AE title; its open work is finished first

    @property
    def state(self) -> str:
        """The state in one or two words. Valid only while the service runs."""
        if not self.is_configured:
            return "draining" if self.is_draining else "not configured"
        if self.lane is None:
            return "not yet served"
        if self.lane.state is LaneState.STOPPED:
            return "stopped"
        return "full" if self.lane.full_reason else "served"


@frozen(kw_only=True)
class WaitingJobs:
    """The jobs of one submitter that wait although nothing fails."""

    submitter: str
    count: int
    reason: str  # the limit that is reached


@frozen(kw_only=True)
class LedgerStatus:
    """The contents of the ledger that concern the status, at one time."""

    at: datetime
    parts: Mapping[str, PartHealth]
    ae_titles: Sequence[AeTitleStatus]
    jobs_without_submitter: Mapping[str, int]  # unfinished jobs, by name of a submitter that is not available
    failing_jobs: Sequence[FailingJobs] = ()
    waiting_jobs: Sequence[WaitingJobs] = ()
    running: Configuration | None = None  # the configuration that the service uses
    newest: Configuration | None = None  # the configuration that was requested last
    rejected: Sequence[Rejected] = ()  # rejections of the last 24 hours, by sender and kind
    backlog: Backlog = NO_BACKLOG  # instances that are stored, not yet entered in the ledger


@frozen(kw_only=True)
class StorageStatus:
    """The capacity of the storage backend."""

    capacity: Capacity | None  # None: unlimited, or unknown
    failure: str = ""  # reason why the capacity could not be read
    ledger_free: int | None = None  # free bytes on the ledger's disk; None: unknown

    @property
    def space(self) -> Space:
        """The free space, for the functions that decide about associations and instances."""
        return Space(capacity=self.capacity, ledger_free=self.ledger_free, problem=self.failure)

    @classmethod
    def of(cls, space: Space) -> StorageStatus:
        """Return the status for a measured space."""
        return cls(capacity=space.capacity, ledger_free=space.ledger_free, failure=space.problem)


def gather(transaction: Transaction, config: Config, now: datetime, sizes: Sizes = count_held_bytes) -> LedgerStatus:
    """Read the facts from the ledger, and the backlog of rows from the data folder. `sizes` counts held bytes."""
    held, lane_reports = count_held(transaction), lanes.load(transaction)
    counts, oldest = jobs.count(transaction), jobs.oldest_unfinished(transaction)
    draining, duplicates = configurations.draining(transaction), counters.count_duplicates(transaction)
    waiting = {count.ae_title for count in counts if count.state in (*UNFINISHED, *HELD)}
    parts = health.load(transaction)
    names = [*config.ae_titles, *sorted((held.keys() | waiting) - config.ae_titles.keys())]
    return LedgerStatus(
        at=now,
        parts=parts,
        ae_titles=[
            AeTitleStatus(
                ae_title=name,
                is_configured=name in config.ae_titles,
                lane=lane_reports.get(name),
                held=held.get(name, Held(pending=0, quarantined=0)),
                held_bytes=sizes(transaction, name),
                incomplete_jobs=recorded_events.count_incomplete_jobs(transaction, name, now - INCOMPLETE_JOBS_SHOWN),
                jobs=_by_state(count for count in counts if count.ae_title == name),
                oldest=oldest.get(name),
                duplicates=duplicates.get(name, Duplicates()),
                is_draining=name in draining.ae_titles,
            )
            for name in names
        ],
        jobs_without_submitter=_count_jobs_without_submitter(
            [count for count in counts if count.submitter not in draining.submitters], config
        ),
        failing_jobs=jobs.failing(transaction),
        waiting_jobs=list(_waiting_jobs(counts, parts, now)),
        running=configurations.running(transaction),
        newest=configurations.newest(transaction),
        rejected=merged(senders.rejected(transaction, now - DAY)),
        backlog=measure_backlog(config.storage.path, transaction),
    )


def _by_state(counts: Iterator[JobCount]) -> dict[JobState, int]:
    found: dict[JobState, int] = {}
    for count in counts:
        found[count.state] = found.get(count.state, 0) + count.count
    return {state: found[state] for state in JobState if state in found}


def _waiting_jobs(counts: Sequence[JobCount], parts: Mapping[str, PartHealth], now: datetime) -> Iterator[WaitingJobs]:
    for name in sorted({count.submitter for count in counts}):
        reason = limit_reached(name, parts, now)
        waiting = sum(one.count for one in counts if one.submitter == name and one.state in HELD_BACK)
        if reason and waiting:
            yield WaitingJobs(submitter=name, count=waiting, reason=reason)


def _count_jobs_without_submitter(counts: Sequence[JobCount], config: Config) -> dict[str, int]:
    found: dict[str, int] = {}
    for count in counts:
        table = config.submitters.get(count.submitter)
        if count.state in UNFINISHED and (table is None or table.unavailable):
            found[count.submitter] = found.get(count.submitter, 0) + count.count
    return found


# --- problems -------------------------------------------------------------------------------------------------------


def service_state(facts: LedgerStatus, *, service_runs: bool | None, host_runs: bool) -> ServiceState:
    """Return the state of the service, from the locks of the processes: rows also exist after `kill -9`.

    `service_runs`: a supervisor uses the data folder; None: unknown, because the folder is missing with its locks. Then
    the service runs if its row is recent. `host_runs`: a host uses the data folder.
    """
    service = facts.parts.get(SERVICE)
    is_reporting = service is not None and service.state is not PartState.STOPPED
    if service_runs is None:
        service_runs = service is not None and is_reporting and not _is_stale(service, facts.at)
    if not service_runs:
        return ServiceState.CHANGING if host_runs else ServiceState.NOT_RUNNING
    return ServiceState.RUNNING if is_reporting else ServiceState.CHANGING


def assess(facts: LedgerStatus, service: ServiceState, storage: StorageStatus, config: Config) -> list[Problem]:
    """Return all problems, the worst first."""
    lack = association_refusal("", {}, storage.space, config.storage)
    of_storage = [] if lack is None else [_red(lack.part, lack.reason)]
    of_processes = _process_problems(facts, service, config.dicom.receivers)
    problems = [
        # The service also reports a problem of the storage, and the refusals that follow from it, a few seconds later.
        *(problem for problem in of_processes if not (of_storage and _is_about_storage(problem.part))),
        *(problem for ae_title in facts.ae_titles for problem in _ae_title_problems(ae_title, service)),
        *_backlog_problems(facts, service),
        *_job_problems(facts, config),
        *_sender_problems(facts),
        *of_storage,
    ]
    order = list(Level)
    return sorted(problems, key=lambda problem: -order.index(problem.level))


def refusal_of(
    status: AeTitleStatus, facts: LedgerStatus, storage: StorageStatus, config: Config
) -> LocalRefusal | None:
    """Return why an AE title of the running service refuses associations or instances; None if it accepts them."""
    full = {} if status.lane is None or not status.lane.full_reason else {status.ae_title: status.lane.full_reason}
    refusal = association_refusal(status.ae_title, full, storage.space, config.storage)
    if refusal is not None:
        return refusal
    for part in facts.parts.values():
        is_recent = part.part.startswith(PartKind.REFUSALS.title) and not _is_stale(part, facts.at)
        if is_recent and part.state is PartState.FAILING:
            return LocalRefusal(part=part.part, reason=part.reason)
    return None


def worst_level(problems: Sequence[Problem]) -> Level:
    """Return the level of the worst problem; green if there is no problem."""
    return problems[0].level if problems else Level.GREEN


def _process_problems(facts: LedgerStatus, service: ServiceState, receivers: int) -> Iterator[Problem]:
    if service is ServiceState.NOT_RUNNING:
        yield _red(SERVICE, f"not running; {_last_seen(facts.parts.get(SERVICE))}")
        return
    if service is ServiceState.CHANGING:
        yield Problem(level=Level.YELLOW, part=SERVICE, reason="starting or stopping")
        return
    names = processes(receivers)
    for name in names:
        process = facts.parts.get(name)
        if process is None:
            yield _red(name, "has not reported yet")
        elif process.state is PartState.STOPPED or _is_stale(process, facts.at):
            yield _red(name, f"has not reported since {_time(process.seen_at)}")
        else:
            yield from _part_problems([process])
    if all(name in facts.parts and _is_stale(facts.parts[name], facts.at) for name in names):
        yield _red("ledger", "no process can write to it: its disk is full or fails, or another program locks it")
    host = facts.parts.get(HOST)
    is_known = host is not None and not _is_stale(host, facts.at)  # otherwise the state of its parts is unknown
    others = (part for name, part in facts.parts.items() if name not in names and not _is_stale(part, facts.at))
    yield from _part_problems(part for part in others if is_known or part.part.startswith(PartKind.REFUSALS.title))


def _backlog_problems(facts: LedgerStatus, service: ServiceState) -> Iterator[Problem]:
    is_running = service is ServiceState.RUNNING
    reason = facts.backlog.problem(facts.at, is_running=is_running)
    if reason:
        level = Level.RED if is_running and facts.backlog.refuses(facts.at) else Level.YELLOW
        yield Problem(level=level, part=PartKind.ENTER.title, reason=reason)


def _part_problems(parts: Iterable[PartHealth]) -> Iterator[Problem]:
    for part in parts:
        if part.state in (PartState.FAILING, PartState.HANGS):
            yield _red(part.part, part.reason)
        elif part.state is PartState.DEGRADED:
            yield Problem(level=Level.YELLOW, part=part.part, reason=part.reason)


def _last_seen(service: PartHealth | None) -> str:
    if service is None:
        return "it has never run with this ledger"
    if service.state is PartState.STOPPED:
        return f"it was stopped at {_time(service.since)}"
    return f"it was not stopped in order, and last reported at {_time(service.seen_at)}"


def _ae_title_problems(status: AeTitleStatus, service: ServiceState) -> Iterator[Problem]:
    name, lane = status.ae_title, status.lane
    held = status.held.pending + status.held.quarantined + status.held.results
    if status.is_draining and not status.is_configured:
        if service is ServiceState.RUNNING and lane is not None and lane.reason:
            yield _red(f"AE title {name}", lane.reason)
    elif not status.is_configured:
        waiting = sum(count for state, count in status.jobs.items() if state in UNFINISHED)
        if held or waiting:
            what = f"{counted(held, 'instance')} and {counted(waiting, 'unfinished job')}"
            yield _yellow(name, f"not configured: {what} held")
    elif service is ServiceState.RUNNING and lane is not None:
        if lane.reason:  # it is stopped, or makes no progress
            yield _red(f"AE title {name}", lane.reason)
        if lane.full_reason:
            yield _red(f"AE title {name}", lane.full_reason)
        yield from _interruptions(status, lane)
    yield from _waiting_for_operator(status)


def _waiting_for_operator(status: AeTitleStatus) -> Iterator[Problem]:
    """Yield the instances, results and jobs about which an operator has to decide."""
    name = status.ae_title
    if status.is_configured and status.held.quarantined:
        what = counted(status.held.quarantined, "instance")
        yield _yellow(name, f"{what} quarantined: `dicom-adapter instances list --state quarantined` shows why")
    if status.held.results:
        what = counted(status.held.results, "result")
        yield _yellow(name, f"{what} quarantined: `dicom-adapter results list --state quarantined` shows why")
    for state in status.jobs.keys() & set(HELD):
        what = f"{counted(status.jobs[state], 'job')} {state.value}"
        yield _yellow(name, f"{what}: `dicom-adapter jobs list --state {state.value}` shows why")


def _interruptions(status: AeTitleStatus, lane: LaneReport) -> Iterator[Problem]:
    """Yield the groups and the recent jobs of which instances may be missing."""
    groups = [group for group in lane.waiting if group.problem]
    for group in groups[:MAX_GROUPS]:
        what = f"{group.label} waits for missing instances"
        until = "" if group.until is None else f" until {_time(group.until)}"
        kind, _, uid = group.label.partition(" ")
        study = uid if kind == "study" else "UID"
        command = f"`dicom-adapter ae-titles end-wait {status.ae_title} --study {study}` submits it at once"
        yield _yellow(status.ae_title, f"{what}{until}: {group.problem}; {command}")
    if len(groups) > MAX_GROUPS:
        yield _yellow(status.ae_title, f"{counted(len(groups) - MAX_GROUPS, 'more group')} with missing instances")
    if status.incomplete_jobs:
        what = counted(status.incomplete_jobs, "job")
        where = f"`dicom-adapter jobs list --ae-title {status.ae_title}` shows what is known"
        yield _yellow(status.ae_title, f"{what} submitted within an hour although instances may be missing: {where}")


def _job_problems(facts: LedgerStatus, config: Config) -> Iterator[Problem]:
    for submitter, count in facts.jobs_without_submitter.items():
        what = counted(count, "unfinished job")
        table = config.submitters.get(submitter)
        why = "not configured" if table is None else f"needs {table.unavailable}"
        yield Problem(level=Level.YELLOW, part=f"submitter {submitter}", reason=f"{why}: {what} held")
    for failing in facts.failing_jobs:
        platform = facts.parts.get(f"platform {failing.submitter}")
        is_explained = platform is not None and platform.state is PartState.FAILING
        if facts.at - failing.since >= DOWN_AFTER and not is_explained:
            what = f"{counted(failing.count, 'job')} failing since {_time(failing.since)}"
            reason = f"{what}: {failing.error}; `dicom-adapter jobs list` shows more"
            yield Problem(level=Level.YELLOW, part=f"submitter {failing.submitter}", reason=reason)


def _sender_problems(facts: LedgerStatus) -> Iterator[Problem]:
    found = rejected_for_long(facts.rejected, facts.at)
    for one in found[:MOST_SENDERS]:
        name = name_of(one.calling_ae_title, [one.peer_address])
        assert one.since is not None  # as `rejected_for_long` requires
        reason = f"rejected since {_time(one.since)}, {describe(one)}; `dicom-adapter senders` shows more"
        yield Problem(level=Level.YELLOW, part=f"sender {name}", reason=reason)
    if len(found) > MOST_SENDERS:
        reason = f"{len(found) - MOST_SENDERS} more are rejected: `dicom-adapter senders` shows them"
        yield Problem(level=Level.YELLOW, part="senders", reason=reason)


def _is_about_storage(part: str) -> bool:
    return part == STORAGE or part.startswith(PartKind.REFUSALS.title)


def _is_stale(part: PartHealth, now: datetime) -> bool:
    return abs(now - part.seen_at) > STALE_AFTER  # `seen_at` is in the future if the system clock was put back


def _red(part: str, reason: str) -> Problem:
    return Problem(level=Level.RED, part=part, reason=reason)


def _yellow(ae_title: str, reason: str) -> Problem:
    return Problem(level=Level.YELLOW, part=f"AE title {ae_title}", reason=reason)


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
