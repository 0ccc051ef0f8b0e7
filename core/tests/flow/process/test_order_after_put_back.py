"""The order of turns after the clock was put back during a stop: the times of pending instances are in the future."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dicom_adapter import InstanceStorageInfo, JobProcessorBase, NoSettings, hookimpl
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.process import inbox
from dicom_adapter.flow.store.commit import Store
from dicom_adapter.simulation.adapter import encode, make_request
from dicom_adapter.testing import Adapter, Plugin

CONFIGURATION = """
[submitters.memory]
type = "memory"
[ae-titles.LUNG]
processor = "under-test"
"""
HOUR_S = 3600
WAIT_S = 5

Serve = Callable[..., Adapter]


@pytest.fixture
def serve(make_adapter: Any) -> Serve:
    """Return a function that creates an adapter whose processor has the given methods."""

    def make(**methods: Any) -> Adapter:
        class UnderTest(JobProcessorBase[NoSettings]):
            name = "under-test"

            def handle_instance(self, instance: InstanceStorageInfo) -> None: ...

        class Registration:
            @hookimpl
            def dicom_adapter_processors(self) -> list[type[JobProcessorBase[Any]]]:
                return [UnderTest]

        for name, method in methods.items():
            setattr(UnderTest, name, method)
        adapter: Adapter = make_adapter(CONFIGURATION, Plugin(Registration()))
        return adapter

    return make


def receive(adapter: Adapter, count: int = 1) -> None:
    adapter.receive(*(make_instance(rows=2, columns=2) for _number in range(count)))


def put_back_while_stopped(adapter: Adapter, seconds: float = HOUR_S) -> None:
    with adapter.down():
        adapter.clock.advance(-seconds)


def store_unnoticed(adapter: Adapter) -> None:
    """Store an instance like a receiver, without running the host."""
    data_set = make_instance(rows=2, columns=2)
    Store(adapter.config, adapter.resources).keep(make_request(data_set, "LUNG", "SENDER", "1"), encode(data_set))


def test_a_timer_that_is_set_when_the_processor_opens_runs_after_pending_instances(serve: Serve) -> None:
    """All instances that are pending at the start are delivered before timers of the present.

    Verified to fail when the timer is compared with the times of arrival: it runs before the instances.
    """
    calls: list[str] = []

    def open_processor(processor: Any) -> None:
        processor.call_later(0, lambda: calls.append("timer"))

    adapter = serve(open=open_processor, handle_instance=lambda _processor, _instance: calls.append("instance"))
    receive(adapter, 2)
    calls.clear()
    put_back_while_stopped(adapter)
    assert ["instance", "instance", "timer"] == calls


def test_a_request_runs_after_all_instances_that_were_pending_at_the_start(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is also true if the delivery takes so long that the times of the instances are in the past at its end.

    Verified to fail when only instances whose time is in the future are treated as earlier than the request.
    """
    monkeypatch.setattr(inbox, "BATCH", 1)
    calls: list[str] = []

    def handle_instance(_processor: Any, _instance: InstanceStorageInfo) -> None:
        calls.append("instance")
        adapter.clock.advance(HOUR_S)
        if len(calls) == 1:
            adapter.host.handles["LUNG"].ask(lambda _processor: calls.append("request"))

    adapter = serve(handle_instance=handle_instance)
    with adapter.down():
        for _number in range(3):
            store_unnoticed(adapter)
        adapter.clock.advance(-HOUR_S * 1.5)  # the second delivery ends after the times of the instances
    assert ["instance", "instance", "instance", "request"] == calls


def test_later_arrivals_do_not_delay_a_timer(serve: Serve) -> None:
    """A timer whose turn has a time in the future runs when its wait is over, before instances that arrive later.

    Verified to fail when the time of the turn is compared with the times of arrival: every instance is delivered first.
    """
    calls: list[str] = []

    def handle_instance(processor: Any, _instance: InstanceStorageInfo) -> None:
        calls.append("instance")
        processor.call_later(WAIT_S, lambda: calls.append("timer"))

    adapter = serve(handle_instance=handle_instance)
    receive(adapter)
    put_back_while_stopped(adapter)
    calls.clear()
    adapter.clock.advance(WAIT_S + 1)  # the lane is busy: the timer is not called yet
    receive(adapter)
    assert ["timer", "instance"] == calls


def test_later_arrivals_do_not_supersede_the_turn_of_a_timer(serve: Serve) -> None:
    """An instance that arrives during the turn, after the timer was due, is not part of its decision.

    Verified to fail when the commit compares the time of the turn with the times of arrival: the processor is rebuilt,
    and the wait begins again.
    """

    def submit(processor: Any, instance: InstanceStorageInfo) -> None:
        adapter.clock.advance(1)
        store_unnoticed(adapter)
        processor.submit_pipeline_job("job", "p1", "normal", [instance])
        processor.remove_instances([instance])

    def handle_instance(processor: Any, instance: InstanceStorageInfo) -> None:
        if instance.instance_id == 1:
            processor.call_later(WAIT_S, lambda: submit(processor, instance))

    adapter = serve(handle_instance=handle_instance)
    receive(adapter)
    put_back_while_stopped(adapter)
    adapter.advance(WAIT_S)
    assert 1 == len(adapter.jobs)
