"""The host's threads, in the process of the test."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from dicom_adapter import InstanceStorageInfo, JobProcessorBase, LaneHandle, NoSettings, Retriable, Server, hookimpl
from dicom_adapter.config import load
from dicom_adapter.flow.process import lane
from dicom_adapter.host import threads
from dicom_adapter.host.threads import HostProcess
from dicom_adapter.plugins.registry import installed
from dicom_adapter.plugins.registry import load as load_plugins
from dicom_adapter.simulation.platform import MemorySubmitter
from dicom_adapter.testing import Plugin

CONFIGURATION = """
[storage]
path = "data"
watermark-percent = 100
reserve = 0
[submitters.platform]
type = "fake"
[ae-titles.A]
processor = "slow"
"""


class Slow(JobProcessorBase[NoSettings]):
    """Is asked for what takes long."""

    name = "slow"

    def handle_instance(self, instance: InstanceStorageInfo) -> None:
        """Nothing arrives."""


class Front(Server):
    """Waits for those who have asked, as an HTTP server does when it is stopped."""

    name = "front"

    def __init__(self, lane: LaneHandle) -> None:
        self.lane = lane
        self.waiting: list[Future[Any]] = []
        self.answered: list[bool] = []

    def start(self) -> None:
        """It has no port."""

    def is_alive(self) -> bool:
        return True

    def stop(self) -> None:
        self.answered = [future.done() for future in self.waiting]


class Slowly:
    """The plugin."""

    def __init__(self) -> None:
        self.fronts: list[Front] = []

    @hookimpl
    def dicom_adapter_processors(self) -> list[type[Slow]]:
        return [Slow]

    @hookimpl
    def dicom_adapter_servers(self, lanes: Mapping[str, LaneHandle]) -> list[Front]:
        self.fronts = [Front(lane) for lane in lanes.values()]
        return self.fronts


@pytest.fixture
def wake_ups() -> Iterator[int]:
    """A pipe through which receivers would tell of arrivals."""
    reading, writing = os.pipe()
    yield reading
    os.close(writing)
    os.close(reading)


def test_who_waits_for_a_lane_is_answered_before_servers_stop(
    tmp_path: Path, wake_ups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was begun is done; who comes later is told that nothing has happened, while there is a server to tell them.

    Tried: with the lanes closed after the servers, as they were, the second was not answered when the server stopped.
    """
    plugin, begun, stopping = Slowly(), threading.Event(), threading.Event()
    plugins = load_plugins([*installed(), Plugin(plugin, name="slowly")])
    config = load(CONFIGURATION, folder=tmp_path, catalogue=plugins.catalogue()).config
    assert config is not None
    monkeypatch.setattr(lane, "SLICE_SECONDS", 0)  # a step is one turn
    host = HostProcess(config, plugins, first=True)
    host.start(wake_ups)
    [front] = plugin.fronts
    join = threads.join

    def let_go(workers: Any, seconds: float) -> Collection[str]:
        stopping.set()
        return join(workers, seconds)

    monkeypatch.setattr(threads, "join", let_go)
    front.waiting.append(front.lane.ask(lambda _processor: (begun.set(), stopping.wait(30))))
    assert begun.wait(30)
    front.waiting.append(front.lane.ask(lambda _processor: None))
    host.stop()
    assert [True, True] == front.answered
    assert (None, True) == front.waiting[0].result()
    with pytest.raises(Retriable, match="nothing was changed"):
        front.waiting[1].result()


class Exclusive(MemorySubmitter):
    """Opens something that only one submitter at a time can have."""

    name = "exclusive"
    calls: ClassVar[queue.SimpleQueue[str]]
    go_on: ClassVar[threading.Event]

    def open(self) -> None:
        self.calls.put("open")
        assert self.go_on.wait(30)

    def close(self) -> None:
        self.calls.put("close")


def test_a_submitter_is_closed_before_the_one_that_replaces_it_opens(
    tmp_path: Path, wake_ups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both may use the same folder or connection, and the first finishes its step before it is closed.

    Tried: starting the new workers together with stopping the old ones; the `fake` submitter's `open` then deleted
    the half-written files of an upload that was under way, which faulted its job.
    """
    Exclusive.calls, Exclusive.go_on = queue.SimpleQueue(), threading.Event()
    exclusive = SimpleNamespace(dicom_adapter_submitters=hookimpl(lambda: [Exclusive]))
    plugins = load_plugins([*installed(), Plugin(Slowly(), name="slowly"), Plugin(exclusive, name="exclusive")])
    first, second = (
        load(
            CONFIGURATION.replace('"fake"', f'"exclusive"\nretry-first = {seconds}'),
            folder=tmp_path,
            catalogue=plugins.catalogue(),
        ).config
        for seconds in (1, 2)
    )
    assert first is not None
    assert second is not None
    host = HostProcess(first, plugins, first=True)
    host.start(wake_ups)
    assert "open" == Exclusive.calls.get(timeout=30)
    join = threads.join

    def finish_step(workers: Any, seconds: float) -> Collection[str]:
        Exclusive.go_on.set()
        return join(workers, seconds)

    monkeypatch.setattr(threads, "join", finish_step)
    assert [] == host.configure(second)
    assert ["close", "open"] == [Exclusive.calls.get(timeout=30) for _call in range(2)]
    host.stop()
