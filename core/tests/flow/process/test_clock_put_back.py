"""The clock was put back while the service was stopped, so that times in the ledger are in the future."""

from __future__ import annotations

from typing import Any

import pytest

from dicom_adapter import InstanceStorageInfo, JobProcessorBase, JobState, NoSettings, Retriable, hookimpl
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.testing import Adapter, Plugin

CONFIGURATION = """
[submitters.memory]
type = "memory"
retry-first = 8
retry-most = 16  # longest pause in seconds
retry-for = 100
[ae-titles.LUNG]
processor = "patient"
"""
HOUR_S = 3600
WAIT_S = 60
LONGEST_PAUSE_S = 16
RETRY_FOR_S = 100


class Patient(JobProcessorBase[NoSettings]):
    """Processor that submits each instance a minute after its arrival."""

    name = "patient"

    def handle_instance(self, instance: InstanceStorageInfo) -> None:
        self.call_later(WAIT_S, lambda: self.submit(instance))

    def submit(self, instance: InstanceStorageInfo) -> None:
        self.submit_pipeline_job("job", "p1", "normal", [instance])
        self.remove_instances([instance])

    def set_alarm(self, seconds: float, called: list[str], name: str) -> None:
        self.call_later(seconds, lambda: called.append(name))


class PatientPlugin:
    """The plugin with the processor `Patient`."""

    @hookimpl
    def dicom_adapter_processors(self) -> list[type[JobProcessorBase[Any]]]:
        return [Patient]


@pytest.fixture
def adapter(make_adapter: Any) -> Adapter:
    adapter: Adapter = make_adapter(CONFIGURATION, Plugin(PatientPlugin()))
    return adapter


def put_back_while_stopped(adapter: Adapter, seconds: float = HOUR_S) -> None:
    with adapter.down():
        adapter.clock.advance(-seconds)


def test_a_group_waits_no_longer_than_its_processor_requests(adapter: Adapter) -> None:
    """The wait begins again at the restart. The turn of the timer still has the time that the processor requested.

    Verified to fail when timers are due at their time on the clock: the job comes an hour later.
    """
    adapter.receive(make_instance(rows=2, columns=2))
    due_at = adapter.clock.now().timestamp() + WAIT_S
    put_back_while_stopped(adapter)
    adapter.advance(WAIT_S - 0.1)
    assert [] == list(adapter.jobs)
    adapter.advance(0.1)
    assert [due_at] == [job.created_at.timestamp() for job in adapter.jobs]


def test_an_instance_that_arrives_after_the_clock_was_put_back_is_not_delayed(adapter: Adapter) -> None:
    adapter.receive(make_instance(rows=2, columns=2))
    put_back_while_stopped(adapter)
    adapter.receive(make_instance(rows=2, columns=2))
    adapter.advance(WAIT_S)
    assert 2 == len(adapter.jobs)


def test_timers_are_called_in_the_order_in_which_they_are_due(adapter: Adapter) -> None:
    """A timer that is due soon does not wait for a timer with an earlier time that is due later.

    Verified to fail when timers are sorted by the times of their turns.
    """
    adapter.receive(make_instance(rows=2, columns=2))
    put_back_while_stopped(adapter)
    called: list[str] = []
    adapter.ask("LUNG", lambda processor: processor.set_alarm(HOUR_S / 2, called, "later"))
    adapter.advance(WAIT_S)
    assert 1 == len(adapter.jobs)
    assert [] == called
    adapter.advance(HOUR_S / 2)
    assert ["later"] == called


def test_a_retry_comes_no_later_than_the_longest_pause(adapter: Adapter) -> None:
    """Verified to fail when the next attempt of the ledger is always respected: the retry comes an hour later."""
    adapter.platform.fail("create_job", Retriable("busy"))
    adapter.receive(make_instance(rows=2, columns=2))
    adapter.advance(WAIT_S)
    [job] = adapter.jobs
    assert (JobState.QUEUED, 1) == (job.state, job.attempts)
    put_back_while_stopped(adapter)
    adapter.advance(LONGEST_PAUSE_S)
    assert [JobState.SUBMITTED] == [job.state for job in adapter.jobs]


def test_retries_end_after_their_total_time(adapter: Adapter) -> None:
    """The first failure has a time in the future, which does not prolong the retries.

    Verified to fail when the time in the ledger is used unchanged.
    """
    adapter.platform.fail("create_job", Retriable("busy"), times=1000)
    adapter.receive(make_instance(rows=2, columns=2))
    adapter.advance(WAIT_S)
    put_back_while_stopped(adapter)
    adapter.advance(RETRY_FOR_S + 2 * LONGEST_PAUSE_S)
    assert [JobState.FAULTED] == [job.state for job in adapter.jobs]
