"""What an operator wants to know at a glance: does the service run, does everything in it work, what waits where.

`gather` collects what the ledger says, `assess` judges it: a function of values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import Enum

from attrs import field, frozen

from dicom_adapter.api.values import Capacity, Job, JobState
from dicom_adapter.config.model import Config
from dicom_adapter.flow.free_space import storage_full
from dicom_adapter.ledger import Transaction, configurations, health, jobs, lanes
from dicom_adapter.ledger.configurations import Configuration
from dicom_adapter.ledger.health import HOST, SERVICE, STALE_AFTER, PartHealth, PartState, processes
from dicom_adapter.ledger.held import Held, HeldBytes, count_held, count_held_bytes
from dicom_adapter.ledger.jobs import UNFINISHED, JobCount
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.ledger.schema import LaneState


class Level(str, Enum):
    """How bad it is; from good to bad."""

    GREEN = "green"
    YELLOW = "yellow"  # it works, and somebody has to decide something
    RED = "red"  # something that should work does not


class Run(str, Enum):
    """Whether the service runs."""

    RUNNING = "running"
    CHANGING = "starting or stopping"
    NOT_RUNNING = "not running"


@frozen(kw_only=True)
class Problem:
    """One reason why not everything is green."""

    level: Level
    part: str  # such as "AE title LUNG", "storage", "receiver"
    reason: str = field(repr=False)


@frozen(kw_only=True)
class AeTitleStatus:
    """What an AE title holds and what became of it."""

    ae_title: str
    is_configured: bool
    lane: LaneReport | None  # as the host described it last; None: it never did
    held: Held
    held_bytes: HeldBytes
    jobs: Mapping[JobState, int]
    oldest: Job | None  # of its unfinished jobs
    is_draining: bool = False  # a reload removed it, and it stays until its work is finished

    @property
    def state(self) -> str:
        """In a word, as long as the service runs."""
        if not self.is_configured:
            return "draining" if self.is_draining else "not configured"
        if self.lane is None:
            return "not yet served"
        if self.lane.state is LaneState.STOPPED:
            return "stopped"
        return "full" if self.lane.full else "served"


@frozen(kw_only=True)
class LedgerStatus:
    """What the ledger says at one moment."""

    at: datetime
    parts: Mapping[str, PartHealth]
    ae_titles: Sequence[AeTitleStatus]
    strangers: Mapping[str, int]  # unfinished jobs of submitters that are not there
    running: Configuration | None = None  # what the service works with
    newest: Configuration | None = None  # what it was given or asked to work with last


@frozen(kw_only=True)
class Room:
    """What the storage backend says."""

    capacity: Capacity | None  # None: it knows no limit
    failure: str = ""  # why it could not be asked


def gather(transaction: Transaction, config: Config, now: datetime) -> LedgerStatus:
    """Collect what the ledger knows."""
    held, described = count_held(transaction), lanes.load(transaction)
    counts, oldest = jobs.count(transaction), jobs.oldest_unfinished(transaction)
    draining = configurations.draining(transaction)
    waiting = {count.ae_title for count in counts if count.state in (*UNFINISHED, JobState.FAULTED)}
    names = [*config.ae_titles, *sorted((held.keys() | waiting) - config.ae_titles.keys())]
    return LedgerStatus(
        at=now,
        parts=health.load(transaction),
        ae_titles=[
            AeTitleStatus(
                ae_title=name,
                is_configured=name in config.ae_titles,
                lane=described.get(name),
                held=held.get(name, Held(pending=0, quarantined=0)),
                held_bytes=count_held_bytes(transaction, name),
                jobs=_by_state(count for count in counts if count.ae_title == name),
                oldest=oldest.get(name),
                is_draining=name in draining.ae_titles,
            )
            for name in names
        ],
        strangers=_strangers([count for count in counts if count.submitter not in draining.submitters], config),
        running=configurations.running(transaction),
        newest=configurations.newest(transaction),
    )


def _by_state(counts: Iterator[JobCount]) -> dict[JobState, int]:
    found: dict[JobState, int] = {}
    for count in counts:
        found[count.state] = found.get(count.state, 0) + count.count
    return {state: found[state] for state in JobState if state in found}


def _strangers(counts: Sequence[JobCount], config: Config) -> dict[str, int]:
    found: dict[str, int] = {}
    for count in counts:
        table = config.submitters.get(count.submitter)
        if count.state in UNFINISHED and (table is None or table.unavailable):
            found[count.submitter] = found.get(count.submitter, 0) + count.count
    return found


# --- judging --------------------------------------------------------------------------------------------------------


def run_of(facts: LedgerStatus, *, host_runs: bool) -> Run:
    """Whether the service runs. `host_runs`: a host works in the data folder."""
    service = facts.parts.get(SERVICE)
    stopped = service is None or service.state is PartState.STOPPED
    if host_runs:
        return Run.CHANGING if stopped else Run.RUNNING
    return Run.NOT_RUNNING if service is None or stopped or _is_stale(service, facts.at) else Run.RUNNING


def assess(facts: LedgerStatus, run: Run, room: Room, config: Config) -> list[Problem]:
    """Everything that is not green, what is worst first."""
    problems = [
        *_of_processes(facts, run, config.dicom.receivers),
        *(problem for ae_title in facts.ae_titles for problem in _of_ae_title(ae_title, run)),
        *_of_jobs(facts, config),
        *_of_storage(room, config),
    ]
    order = list(Level)
    return sorted(problems, key=lambda problem: -order.index(problem.level))


def overall(problems: Sequence[Problem]) -> Level:
    """As the worst of them."""
    return problems[0].level if problems else Level.GREEN


def _of_processes(facts: LedgerStatus, run: Run, receivers: int) -> Iterator[Problem]:
    if run is Run.NOT_RUNNING:
        yield _red(SERVICE, f"does not run; {_last_seen(facts.parts.get(SERVICE))}")
        return
    if run is Run.CHANGING:
        yield Problem(level=Level.YELLOW, part=SERVICE, reason="starts or stops")
        return
    names = processes(receivers)
    for name in names:
        process = facts.parts.get(name)
        if process is None:
            yield _red(name, "has not been heard of yet")
        elif process.state is PartState.STOPPED or _is_stale(process, facts.at):
            yield _red(name, f"has not been heard of since {_time(process.seen_at)}")
        elif process.state is not PartState.OK:
            yield _red(name, process.reason)
    host = facts.parts.get(HOST)
    if host is not None and not _is_stale(host, facts.at):  # else nobody knows how its parts are
        others = (part for name, part in facts.parts.items() if name not in names)
        yield from _of_parts(part for part in others if not _is_stale(part, facts.at))


def _of_parts(parts: Iterable[PartHealth]) -> Iterator[Problem]:
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
    return f"it did not stop in order, and was last heard of at {_time(service.seen_at)}"


def _of_ae_title(status: AeTitleStatus, run: Run) -> Iterator[Problem]:
    name, lane = status.ae_title, status.lane
    held = status.held.pending + status.held.quarantined
    if status.is_draining and not status.is_configured:
        if run is Run.RUNNING and lane is not None and lane.reason:
            yield _red(f"AE title {name}", lane.reason)
    elif not status.is_configured:
        waiting = sum(count for state, count in status.jobs.items() if state in UNFINISHED)
        if held or waiting:
            what = f"{counted(held, 'instance')} and {counted(waiting, 'unfinished job')}"
            yield _yellow(name, f"not configured: {what} held")
    elif run is Run.RUNNING and lane is not None:
        if lane.reason:  # it is stopped, or does not get on
            yield _red(f"AE title {name}", lane.reason)
        if lane.full:
            yield _red(f"AE title {name}", lane.full)
    if status.is_configured and status.held.quarantined:
        what = counted(status.held.quarantined, "instance")
        yield _yellow(name, f"{what} quarantined: `dicom-adapter instances list --state quarantined` shows why")
    faulted = status.jobs.get(JobState.FAULTED, 0)
    if faulted:
        what = counted(faulted, "job")
        yield _yellow(name, f"{what} faulted: `dicom-adapter jobs list --state faulted` shows why")


def _of_jobs(facts: LedgerStatus, config: Config) -> Iterator[Problem]:
    for submitter, count in facts.strangers.items():
        what = counted(count, "unfinished job")
        table = config.submitters.get(submitter)
        why = "not configured" if table is None else f"needs {table.unavailable}"
        yield Problem(level=Level.YELLOW, part=f"submitter {submitter}", reason=f"{why}: {what} held")


def _of_storage(room: Room, config: Config) -> Iterator[Problem]:
    reason = room.failure or storage_full(room.capacity, config.storage)
    if reason:
        yield _red("storage", reason)


def _is_stale(part: PartHealth, now: datetime) -> bool:
    return now - part.seen_at > STALE_AFTER


def _red(part: str, reason: str) -> Problem:
    return Problem(level=Level.RED, part=part, reason=reason)


def _yellow(ae_title: str, reason: str) -> Problem:
    return Problem(level=Level.YELLOW, part=f"AE title {ae_title}", reason=reason)


def counted(count: int, noun: str) -> str:
    """So many of something, in words."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
