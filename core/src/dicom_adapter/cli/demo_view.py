"""The output of `dicom-adapter demo` while it runs: a table on a terminal, otherwise a line for each change."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timezone

from attrs import define, field, frozen
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dicom_adapter.api.counts import counted
from dicom_adapter.api.values import Job, JobState, Waiting
from dicom_adapter.ledger import Ledger, instances, jobs, lanes
from dicom_adapter.ledger.lanes import LaneReport

RESULTS = "results"  # pipeline id of the jobs that deliver results
MOST_JOBS = 100  # number of jobs that are read from a ledger; the demo has fewer
LONGEST_LABEL = 32  # characters of a group's label that are shown: a line fits in 80 columns


@define
class DemoState:
    """The state of a running demo."""

    adapter: Ledger
    pacs: Ledger
    began: float = field(factory=time.monotonic)  # monotonic time in seconds
    messages: list[str] = field(factory=list)  # lines about the studies that were sent
    printed: set[str] = field(factory=set)  # keys of the changes that were printed
    has_sent: bool = False  # all studies were sent
    _seen: object = None  # the facts that `note_progress` compares, at the last progress
    _changed: float = field(factory=time.monotonic)  # monotonic time of the last progress

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last progress."""
        return time.monotonic() - self._changed

    def note_progress(self, view: View) -> None:
        """Note the time if anything has happened since the last call."""
        seen = (len(self.messages), view.counts, [job.state for job in view.jobs], view.received, view.archived)
        if seen != self._seen:
            self._seen, self._changed = seen, time.monotonic()

    def add_message(self, line: str) -> None:
        self.messages.append(f"{self.seconds:5.1f} s  {line}")


@frozen
class View:
    """The contents of the ledgers at one time."""

    lanes: dict[str, LaneReport]
    counts: dict[tuple[str, str], int]  # number of instances by AE title and state
    jobs: list[Job]  # oldest first
    received: int  # number of results that the PACS has received
    archived: int  # number of results in the folder of the PACS

    @property
    def succeeded(self) -> list[Job]:
        """The succeeded jobs of the pipeline."""
        return [job for job in self.jobs if job.state is JobState.SUCCEEDED and not is_delivery(job)]

    @property
    def processed(self) -> int:
        """Number of instances in the succeeded jobs of the pipeline."""
        return sum(job.instance_count for job in self.succeeded)

    @property
    def delivered(self) -> int:
        """Number of results that are delivered, or will be."""
        return sum(job.instance_count for job in self.jobs if is_delivery(job))

    @property
    def pending(self) -> int:
        """Number of instances that wait for their job."""
        return sum(count for (_ae_title, state), count in self.counts.items() if state == "pending")

    def is_complete(self, sent: int) -> bool:
        """Return whether all `sent` instances were processed, and the PACS has all results.

        An instance is sent again if its response is late. Then more than `sent` instances are processed.
        """
        is_processed = self.pending == 0 and self.processed >= sent
        is_finished = all(job.state in (JobState.SUCCEEDED, JobState.SUBMITTED) for job in self.jobs)
        return is_processed and is_finished and 0 < self.delivered <= self.archived

    @property
    def needs_operator(self) -> bool:
        """Return whether a job needs an operator, so that the demo cannot be completed."""
        return any(job.state in (JobState.FAULTED, JobState.FAILED) for job in self.jobs)


def is_delivery(job: Job) -> bool:
    """Return whether the job delivers results."""
    return job.pipeline_id == RESULTS


def read_view(demo: DemoState) -> View:
    """Read both ledgers."""
    with demo.pacs.read() as transaction:
        received = sum(instances.count_by_state(transaction).values())
        archive = [row.job for row in jobs.newest(transaction, MOST_JOBS)]
    with demo.adapter.read() as transaction:
        return View(
            lanes=lanes.load(transaction),
            counts=instances.count_by_state(transaction),
            jobs=[row.job for row in reversed(jobs.newest(transaction, MOST_JOBS))],
            received=received,
            archived=sum(job.instance_count for job in archive if job.state is JobState.SUBMITTED),
        )


def render(demo: DemoState, view: View) -> Group:
    """Return the tables for a terminal."""
    return Group(
        Text("\n".join(demo.messages)), _lanes(view.lanes, view.counts), table_of_jobs(view.jobs), Text(_pacs(view))
    )


def print_news(demo: DemoState, view: View) -> None:
    """Print a line for each change except that of a countdown; used if the output is not a terminal."""
    for line in list(demo.messages):
        _once(demo, line, line)
    for ae_title, report in view.lanes.items():
        for group in report.waiting:
            line = f"{ae_title}: {_describe_group(group)}"
            _once(demo, line, f"{demo.seconds:5.1f} s  {line}{_countdown(group.until)}")
    for job in view.jobs:
        line = f"{job.name}: {_contents(job)}, {job.state.value}"
        _once(demo, job.job_id + job.state.value, f"{demo.seconds:5.1f} s  {line}")
    if view.received:
        _once(demo, _pacs(view), f"{demo.seconds:5.1f} s  {_pacs(view)}")


def _once(demo: DemoState, key: str, line: str) -> None:
    if key not in demo.printed:
        demo.printed.add(key)
        print(line, flush=True)  # noqa: T201 - this is a command


def table_of_jobs(found: Sequence[Job]) -> Table:
    """Return a table with a row for each job."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for job in found:
        table.add_row(escape(job.name), _contents(job), job.state.value)
    return table


def _pacs(view: View) -> str:
    return f"PACS: {counted(view.received, 'result')} received, {view.archived} in its folder"


def _contents(job: Job) -> str:
    return counted(job.instance_count, "result" if is_delivery(job) else "instance")


def _describe_group(group: Waiting) -> str:
    label = group.label if len(group.label) <= LONGEST_LABEL else f"{group.label[: LONGEST_LABEL - 1]}…"
    return f"{label}, {counted(group.instance_count, 'instance')}"


def _lanes(reports: dict[str, LaneReport], counts: dict[tuple[str, str], int]) -> Table:
    table = Table("AE title", "Instances", "Pending", "Reclaimed", "Groups and when they become jobs")
    for ae_title, report in reports.items():
        by_state = {state: count for (name, state), count in counts.items() if name == ae_title}
        groups = "\n".join(f"{_describe_group(group)}{_countdown(group.until)}" for group in report.waiting)
        numbers = (sum(by_state.values()), by_state.get("pending", 0), by_state.get("reclaimed", 0))
        table.add_row(ae_title, *map(str, numbers), groups)
    return table


def _countdown(until: datetime | None) -> str:
    if until is None:
        return ""
    return f", due in {max(0.0, (until - datetime.now(timezone.utc)).total_seconds()):.0f} s"
