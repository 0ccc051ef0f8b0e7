"""The overview: the health with its reasons, rates, storage, platforms, and each AE title."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from attrs import frozen

from dicom_adapter.api.counts import counted
from dicom_adapter.api.values import Job, Waiting
from dicom_adapter.ledger.configurations import ConfigurationState
from dicom_adapter.ledger.health import STALE_AFTER
from dicom_adapter.ledger.jobs import HELD, UNFINISHED
from dicom_adapter.operations.status import AeTitleStatus, Level, Problem, ServiceState
from dicom_adapter.operations.status_report import StatusReport
from dicom_adapter.runtime.parts import PartKind
from dicom_adapter.web.pages.words import without_command

HEADLINES = {Level.GREEN: "Everything works", Level.YELLOW: "Working, with notices", Level.RED: "Needs attention now"}
MOST_GROUPS = 3  # waiting groups of an AE title that are shown
CHART_WIDTH, CHART_HEIGHT = 240, 40  # units of the chart of a rate
# Pages that show more about a problem, by a command that its reason names
LINKS = (
    ("instances list --state quarantined", "/quarantine", "Open the quarantine"),
    ("results list --state quarantined", "/quarantine", "Open the quarantine"),
    ("jobs list --state faulted", "/jobs?state=faulted", "Show these jobs"),
    ("jobs list --state failed", "/jobs?state=failed", "Show these jobs"),
    ("jobs list", "/jobs", "Show the jobs"),
    ("dicom-adapter senders", "/senders", "Show the senders"),
)


@frozen(kw_only=True)
class ShownProblem:
    """A problem with the page that shows more."""

    level: str
    part: str
    reason: str
    link: str = ""
    link_text: str = ""


@frozen(kw_only=True)
class ShownRate:
    """Rows per minute in the last hour."""

    title: str
    last: int  # of the last full minute
    total: int  # of the hour
    highest: int  # of a minute
    line: str  # the path of the chart
    area: str  # the path of the area below the line


@frozen(kw_only=True)
class ShownStorage:
    """The use of the storage."""

    used_percent: float | None  # None: unknown, or no limit
    watermark_percent: int
    free_bytes: int | None
    total_bytes: int | None
    reserve_bytes: int
    problem: str


@frozen(kw_only=True)
class ShownAeTitle:
    """An AE title on the overview."""

    name: str
    state: str
    reason: str  # why it refuses associations or instances, or is stopped; "" if it is served
    groups: Sequence[Waiting]  # the groups that are due next
    more_groups: int
    pending: int
    quarantined: int
    unfinished: int  # jobs
    held: Mapping[str, int]  # faulted and failed jobs, by state
    finished: int
    oldest: Job | None
    last_arrival: datetime | None


@frozen(kw_only=True)
class ShownPlatform:
    """A submitter with the state of its platform."""

    name: str
    state: str  # a PartState, or "unknown"
    reason: str
    unfinished: int  # jobs
    waiting: str  # the limit that is reached; "" if jobs are started


@frozen(kw_only=True)
class OverviewContent:
    """Everything on the overview."""

    level: str
    headline: str
    problems: Sequence[ShownProblem]
    service: str
    since: datetime | None  # start of the running configuration
    configuration: int | None
    has_new_configuration: bool  # another configuration is being applied
    rates: Sequence[ShownRate]
    storage: ShownStorage
    pending: int
    unfinished: int
    held: int
    quarantined: int
    ae_titles: Sequence[ShownAeTitle]
    platforms: Sequence[ShownPlatform]
    port: int
    is_new: bool  # no instance has arrived yet


def view_overview(
    report: StatusReport,
    rates: Mapping[str, Sequence[int]],
    arrivals: Mapping[str, datetime],
    unfinished: Mapping[str, int],
    *,
    is_new: bool,
) -> OverviewContent:
    """Return what the overview shows.

    `rates`: rows by minute, by title; `arrivals`: the last arrival at each AE title; `unfinished`: the number of
    unfinished jobs of each submitter.
    """
    facts = report.facts
    ae_titles = [view_ae_title(status, report, arrivals.get(status.ae_title)) for status in facts.ae_titles]
    running, newest = facts.running, facts.newest
    return OverviewContent(
        level=report.level.value,
        headline="The service is not running"
        if report.service is ServiceState.NOT_RUNNING
        else HEADLINES[report.level],
        problems=[view_problem(problem) for problem in report.problems],
        service=report.service.value,
        since=None if running is None else running.changed_at,
        configuration=None if running is None else running.number,
        has_new_configuration=newest is not None and newest.state is ConfigurationState.REQUESTED,
        rates=[view_rate(title, counts) for title, counts in rates.items()],
        storage=view_storage(report),
        pending=sum(one.pending for one in ae_titles),
        unfinished=sum(one.unfinished for one in ae_titles),
        held=sum(sum(one.held.values()) for one in ae_titles),
        quarantined=sum(one.quarantined for one in ae_titles),
        ae_titles=ae_titles,
        platforms=list(view_platforms(report, unfinished)),
        port=report.config.dicom.port,
        is_new=is_new,
    )


def view_problem(problem: Problem) -> ShownProblem:
    """Return a problem with the page to go to."""
    for command, link, text in LINKS:
        if command in problem.reason:
            reason = without_command(problem.reason)
            return ShownProblem(level=problem.level.value, part=problem.part, reason=reason, link=link, link_text=text)
    return ShownProblem(level=problem.level.value, part=problem.part, reason=problem.reason)


def view_rate(title: str, counts: Sequence[int]) -> ShownRate:
    """Return a rate with the path of its chart. The last of the counts is that of the current minute."""
    full = counts[:-1]
    highest = max(full, default=0)
    step = CHART_WIDTH / max(1, len(full) - 1)
    scale = (CHART_HEIGHT - 3) / highest if highest else 0
    points = [f"{number * step:.1f} {CHART_HEIGHT - 1 - count * scale:.1f}" for number, count in enumerate(full)]
    line = f"M{' L'.join(points)}" if points else ""
    return ShownRate(
        title=title,
        last=full[-1] if full else 0,
        total=sum(counts),
        highest=highest,
        line=line,
        area=f"{line} L{CHART_WIDTH} {CHART_HEIGHT} L0 {CHART_HEIGHT} Z" if line else "",
    )


def view_storage(report: StatusReport) -> ShownStorage:
    """Return the use of the storage."""
    capacity, settings = report.storage.capacity, report.config.storage
    is_known = capacity is not None and capacity.total_bytes > 0
    return ShownStorage(
        used_percent=round(100 * (1 - capacity.free_bytes / capacity.total_bytes), 1)
        if is_known and capacity is not None
        else None,
        watermark_percent=settings.watermark_percent,
        free_bytes=None if capacity is None else capacity.free_bytes,
        total_bytes=None if capacity is None else capacity.total_bytes,
        reserve_bytes=settings.reserve,
        problem=report.storage.failure,
    )


def view_ae_title(status: AeTitleStatus, report: StatusReport, last_arrival: datetime | None) -> ShownAeTitle:
    """Return an AE title as the overview shows it."""
    lane = status.lane
    groups = () if lane is None else lane.waiting[:MOST_GROUPS]
    own = "" if lane is None else lane.reason or lane.full_reason
    held = {state.value: status.jobs[state] for state in HELD if state in status.jobs}
    unfinished = sum(status.jobs.get(state, 0) for state in UNFINISHED)
    return ShownAeTitle(
        name=status.ae_title,
        state=report.state_of(status),
        reason=own or report.refusal_of(status),
        groups=groups,
        more_groups=0 if lane is None else max(0, lane.groups - len(groups)),
        pending=status.held.pending,
        quarantined=status.held.quarantined + status.held.results,
        unfinished=unfinished,
        held=held,
        finished=sum(status.jobs.values()) - unfinished - sum(held.values()),
        oldest=status.oldest,
        last_arrival=last_arrival,
    )


def view_platforms(report: StatusReport, unfinished: Mapping[str, int]) -> Iterator[ShownPlatform]:
    """Yield the configured submitters with the states of their platforms."""
    facts = report.facts
    waiting = {one.submitter: f"{counted(one.count, 'job')} waiting: {one.reason}" for one in facts.waiting_jobs}
    for name in report.config.submitters:
        part = facts.parts.get(f"{PartKind.PLATFORM.title} {name}")
        is_known = part is not None and abs(facts.at - part.seen_at) <= STALE_AFTER
        yield ShownPlatform(
            name=name,
            state=part.state.value if is_known and part is not None else "unknown",
            reason=part.reason if is_known and part is not None and not waiting.get(name) else "",
            unfinished=unfinished.get(name, 0),
            waiting=waiting.get(name, ""),
        )
