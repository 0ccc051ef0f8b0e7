"""A crash at any moment while a job is submitted and run: after the restart, the job ends as without the crash."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from dicom_adapter import JobState
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.submit import operators
from dicom_adapter.ledger import Transaction, jobs
from dicom_adapter.ledger.jobs import JobRow
from dicom_adapter.testing import Adapter

CONFIGURATION = """
[submitters.platform]
type = "memory-followed"
running = 1
[ae-titles.LUNG]
processor = "by-study"
[ae-titles.LUNG.settings]
pipeline-one = "p1"
"""
CHANGES = 14  # no job of this module has more changes of its row


class Crash(BaseException):
    """The end of the process: nothing may catch it."""


class CrashingLedger:
    """Lets the process end at one change of a job's row: what the transaction would have written is lost."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.left = at
        self._change = jobs.change
        monkeypatch.setattr(jobs, "change", self.change)

    def change(self, transaction: Transaction, row: JobRow, **values: Any) -> JobRow:
        if any(getattr(row.job, name, value) != value for name, value in values.items()):  # a poll may find no news
            self.left -= 1
            if self.left == -1:
                raise Crash
        return self._change(transaction, row, **values)


def survive(adapter: Adapter, action: Callable[[], object]) -> None:
    """Run an action, and restart the adapter if it crashes."""
    try:
        action()
    except Crash:
        with suppress(Crash):
            adapter.restart()


@pytest.mark.parametrize("at", range(CHANGES))
@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([True], JobState.SUCCEEDED),
        ([False], JobState.FAILED),
        ([False, True], JobState.SUCCEEDED),
        ([None], JobState.CANCELLED),
        ([False, None], JobState.CANCELLED),
    ],
    ids=["succeeds", "fails", "is-retried", "is-cancelled", "fails-and-is-cancelled"],
)
def test_a_crash_changes_nothing_about_the_end_of_a_job(
    make_adapter: Callable[..., Adapter],
    monkeypatch: pytest.MonkeyPatch,
    at: int,
    outcomes: list[bool | None],
    expected: JobState,
) -> None:
    """The process ends at each change of the job's row in turn; steps have then reached the platform or not.

    `outcomes`: how each run ends on the platform; None: an operator cancels the job instead. Verified to fail when the
    end on the platform and the state failed are committed separately.
    """
    adapter = make_adapter(CONFIGURATION)
    adapter.receive(*(make_instance(seed="study", instance_number=number) for number in (1, 2)))
    crashing = CrashingLedger(monkeypatch, at)
    survive(adapter, lambda: adapter.advance(6))
    for number, outcome in enumerate(outcomes, start=1):
        survive(adapter, lambda: adapter.advance(60))
        job = adapter.jobs[0]
        if outcome is None:
            survive(adapter, lambda: operators.cancel(adapter.ledger, adapter.clock, adapter.jobs[0].job_id))
            if not adapter.jobs[0].cancel_requested:  # the command was killed: the operator repeats it
                operators.cancel(adapter.ledger, adapter.clock, adapter.jobs[0].job_id)
        else:
            assert (JobState.RUNNING, number) == (job.state, job.run)
            adapter.platform.end(job, succeeded=outcome)
        survive(adapter, lambda: adapter.advance(60))
        survive(adapter, lambda: adapter.advance(60))
        if number < len(outcomes) and outcomes[number] is not None:
            survive(adapter, lambda: operators.retry(adapter.ledger, adapter.clock, adapter.jobs[0].job_id))
            if adapter.jobs[0].state is JobState.FAILED:
                operators.retry(adapter.ledger, adapter.clock, adapter.jobs[0].job_id)
            survive(adapter, lambda: adapter.advance(30))
    (job,) = adapter.jobs
    assert expected is job.state
    runs = adapter.platform.jobs
    assert job.run == len(runs), "a run was created twice"
    assert all(run.started and len(run.files) == len(adapter.instances_of(job)) for run in runs.values())
    assert (expected is JobState.FAILED) is (job.state not in jobs.FINISHED)
    assert crashing.left < 0 or at > 8, "no crash was tested"  # every job has at least nine changes
