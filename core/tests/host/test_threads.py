"""The threads of the host, run in the process of the test."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import trustme
from structlog.testing import capture_logs

from dicom_adapter import InstanceStorageInfo, JobProcessorBase, LaneHandle, NoSettings, Retriable, Server, hookimpl
from dicom_adapter.config import load
from dicom_adapter.flow.process import lane
from dicom_adapter.host import threads
from dicom_adapter.host.threads import HostProcess
from dicom_adapter.plugins.registry import installed
from dicom_adapter.plugins.registry import load as load_plugins
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.simulation.platform import MemoryPlugin, MemorySubmitter
from dicom_adapter.testing import Plugin

CONFIGURATION = """
[storage]
path = "data"
watermark-percent = 100
reserve = 0
[submitters.platform]
type = "memory"
[ae-titles.A]
processor = "slow"
"""
MEMORY = Plugin(MemoryPlugin(), name="memory")


class Slow(JobProcessorBase[NoSettings]):
    """A processor for slow requests."""

    name = "slow"

    def handle_instance(self, instance: InstanceStorageInfo) -> None:
        """Do nothing, because no instance arrives."""


class Front(Server):
    """Server that records the requests that are answered when it stops, like an HTTP server that waits for them."""

    name = "front"

    def __init__(self, lane: LaneHandle) -> None:
        self.lane = lane
        self.waiting: list[Future[Any]] = []
        self.answered: list[bool] = []

    def start(self) -> None:
        """Do nothing, because this server has no port."""

    def is_alive(self) -> bool:
        return True

    def stop(self) -> None:
        self.answered = [future.done() for future in self.waiting]


class SlowPlugin:
    """A plugin with processor and server."""

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
    """Return the read end of a pipe through which receivers notify the host of arrivals.

    `HostProcess.stop` does not wait for two workers. They must end before the pipe is closed and before the next test
    begins; otherwise their failures would appear in the output of the next test.
    """
    reading, writing = os.pipe()
    yield reading
    os.close(writing)  # the worker that waits for notifications ends
    left = [thread for thread in threading.enumerate() if thread.name in (str(threads.WAKE_UPS), "health")]
    for thread in left:
        thread.join(30)
    assert not any(thread.is_alive() for thread in left)
    os.close(reading)


def test_requests_to_a_lane_are_answered_before_servers_stop(
    tmp_path: Path, wake_ups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A started request is completed.

    A later request fails with `Retriable`, and the server can still return this error.

    Verified to fail when lanes are closed after the servers.
    """
    plugin, begun, stopping = SlowPlugin(), threading.Event(), threading.Event()
    plugins = load_plugins([*installed(), MEMORY, Plugin(plugin, name="slowly")])
    config = load(CONFIGURATION, folder=tmp_path, catalogue=plugins.catalogue()).config
    assert config is not None
    monkeypatch.setattr(lane, "SLICE_SECONDS", 0)  # a step is one turn
    (tmp_path / "adapter.toml").touch()  # an empty folder could be a mount point without its disk
    host = HostProcess(config, plugins, SystemClock(), is_first=True)
    host.start(wake_ups)
    [front] = plugin.fronts
    join = threads.join

    def finish_request(workers: Any, seconds: float) -> Collection[str]:
        stopping.set()
        return join(workers, seconds)

    monkeypatch.setattr(threads, "join", finish_request)
    front.waiting.append(front.lane.ask(lambda _processor: (begun.set(), stopping.wait(30))))
    assert begun.wait(30)
    front.waiting.append(front.lane.ask(lambda _processor: None))
    host.stop()
    assert [True, True] == front.answered
    assert (None, True) == front.waiting[0].result()
    with pytest.raises(Retriable, match="nothing was changed"):
        front.waiting[1].result()


class Exclusive(MemorySubmitter):
    """A submitter that opens an exclusive resource."""

    name = "exclusive"
    calls: ClassVar[queue.SimpleQueue[str]]
    go_on: ClassVar[threading.Event]

    def open(self) -> None:
        self.calls.put("open")
        assert self.go_on.wait(30)

    def close(self) -> None:
        self.calls.put("close")


def test_a_submitter_is_closed_before_its_replacement_opens(
    tmp_path: Path, wake_ups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both may use the same folder or connection. The first submitter finishes its step before it is closed.

    Verified to fail when new workers start before the old ones have stopped (then the `open` of a submitter with a
    folder deletes the incomplete files of a running upload, and its job faults).
    """
    Exclusive.calls, Exclusive.go_on = queue.SimpleQueue(), threading.Event()
    exclusive = SimpleNamespace(dicom_adapter_submitters=hookimpl(lambda: [Exclusive]))
    plugins = load_plugins(
        [*installed(), MEMORY, Plugin(SlowPlugin(), name="slowly"), Plugin(exclusive, name="exclusive")]
    )
    first, second = (
        load(
            CONFIGURATION.replace('"memory"', f'"exclusive"\nretry-first = {seconds}'),
            folder=tmp_path,
            catalogue=plugins.catalogue(),
        ).config
        for seconds in (1, 2)
    )
    assert first is not None
    assert second is not None
    (tmp_path / "adapter.toml").touch()  # an empty folder could be a mount point without its disk
    host = HostProcess(first, plugins, SystemClock(), is_first=True)
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


def test_a_difference_between_the_clocks_is_reported(tmp_path: Path, wake_ups: int) -> None:
    """The clock of the service, which the host continues, is an hour ahead: the system clock was put back.

    Verified to fail when the host starts another clock.
    """
    plugins = load_plugins([*installed(), MEMORY, Plugin(SlowPlugin(), name="slowly")])
    config = load(CONFIGURATION, folder=tmp_path, catalogue=plugins.catalogue()).config
    assert config is not None
    clock = SystemClock((time.time_ns() + 3600 * 10**9, time.monotonic_ns()))
    (tmp_path / "adapter.toml").touch()  # an empty folder could be a mount point without its disk
    host = HostProcess(config, plugins, clock, is_first=True)
    with capture_logs() as logged:
        host.start(wake_ups)
    host.stop()
    [entry] = [entry for entry in logged if entry["event"] == "part_degraded"]
    assert "clock" == entry["part"]
    assert "put back: the clock of the service is 3600 s ahead" in entry["reason"]


def test_a_certificate_that_expires_soon_is_reported(tmp_path: Path, wake_ups: int) -> None:
    """The part `certificates` is degraded. Verified to fail when the host does not read the files."""
    plugins = load_plugins([*installed(), MEMORY, Plugin(SlowPlugin(), name="slowly")])
    issued = trustme.CA().issue_cert("127.0.0.1", not_after=datetime.now(timezone.utc) + timedelta(days=9, hours=1))
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "own.pem")
    text = CONFIGURATION + '[dicom.tls]\ncertificate = "own.pem"\n'
    config = load(text, folder=tmp_path, catalogue=plugins.catalogue()).config
    assert config is not None
    host = HostProcess(config, plugins, SystemClock(), is_first=True)
    with capture_logs() as logged:
        host.start(wake_ups)
        host._read_certificates()
        host._watch.examine()
    host.stop()
    [entry] = [entry for entry in logged if entry["event"] == "part_degraded"]
    assert "certificates" == entry["part"]
    assert f"dicom.tls: certificate {tmp_path / 'own.pem'}: 9 days left" in entry["reason"]
