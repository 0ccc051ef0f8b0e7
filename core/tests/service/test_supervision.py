"""The supervisor with fake processes: the test decides when they report and end. No real process is started."""

from __future__ import annotations

import queue
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from dicom_adapter.ledger import Ledger
from dicom_adapter.ledger.configurations import Configuration, ConfigurationState, Draining, ReloadRequest
from dicom_adapter.runtime.channel import ALIVE, APPLIED, ENDED, FAILED, Report, Start
from dicom_adapter.service import process_slot
from dicom_adapter.service import supervisor as module
from dicom_adapter.service.blueprint import Blueprint
from dicom_adapter.service.reload import requests
from dicom_adapter.service.reload.requests import RELOAD
from dicom_adapter.service.reload.snapshot import Snapshot
from dicom_adapter.service.supervisor import CannotStart, Supervisor

SETTINGS = Snapshot(
    salt="", service={"dicom.drain-timeout": "0"}, submitters={}, ae_titles={}, plugins={}, storage_plugin="core"
)
PORT = 11112
KILLED = -9


class FakeChild:
    """A process that is ready at once, applies every configuration, and ends when requested."""

    def __init__(self, name: str, reports: queue.SimpleQueue[tuple[Any, Report]]) -> None:
        self.name = name
        self.pid = 1
        self.starts: list[Start] = []
        self.has_ended = False
        self.ignores_stop = False
        self.on_configure: Callable[[FakeChild], None] = FakeChild.report_success
        self._reports = reports

    def report_success(self) -> None:
        if len(self.starts) > 1:
            self.report(APPLIED)
        elif self.name == "host":
            self.report("ready")
        else:
            self.report("listening", port=PORT)

    def report(self, event: str, **fields: Any) -> None:
        self._reports.put((self, {"event": event, **fields}))

    def end(self, status: int) -> None:
        if not self.has_ended:
            self.has_ended = True
            self.report(ENDED, status=status)

    def configure(self, start: Start) -> None:
        self.starts.append(start)
        self.on_configure(self)

    def stop(self) -> None:
        if not self.ignores_stop:
            self.end(0)

    def kill(self) -> None:
        self.end(KILLED)

    def wait(self, _seconds: float) -> bool:
        return self.has_ended


class RecordedManager:
    """A service manager that records its notifications."""

    beat_seconds = 0.001

    def __init__(self) -> None:
        self.notified: list[str] = []

    def ready(self, _status: str = "") -> None:
        self.notified.append("ready")

    def reloading(self) -> None:
        self.notified.append("reloading")

    def stopping(self, _seconds: float) -> None:
        self.notified.append("stopping")

    def ping(self) -> None:
        self.notified.append("ping")


class Site:
    """A supervisor of one host and one receiver."""

    def __init__(self, folder: Path) -> None:
        url = f"sqlite:///{folder / 'ledger.sqlite'}"
        ledger = Ledger(url, durable=False)
        ledger.migrate()
        ledger.close()
        blueprint = Blueprint(
            path="/etc/adapter.toml",
            configuration="first",
            folder=str(folder),
            settings=SETTINGS,
            log_style="json",
            port=None,
            storage_plugin="core",
            receivers=1,
            data_folder=str(folder),
            ledger_url=url,
            is_durable=False,
            log_level="info",
        )
        self.children: list[FakeChild] = []
        # Actions that prepare a new process, by its name and its number among the processes of this name.
        self.prepare: dict[tuple[str, int], Callable[[FakeChild], None]] = {}
        self.reports: queue.SimpleQueue[tuple[Any, Report]] = queue.SimpleQueue()
        self.manager = RecordedManager()
        manager: Any = self.manager
        start_child: Any = self._start_child  # the process behaves like a Child
        self.supervisor = Supervisor(blueprint, start_child, manager)

    def _start_child(self, name: str, _module: str, _descriptors: Sequence[int], reports: Any) -> FakeChild:
        self.reports = reports
        child = FakeChild(name, reports)
        self.children.append(child)
        prepare = self.prepare.get((name, len(self.all(name))))
        if prepare is not None:
            prepare(child)
        return child

    def all(self, name: str) -> list[FakeChild]:
        return [child for child in self.children if child.name == name]

    def when_configured(self, name: str, number: int, action: Callable[[FakeChild], None]) -> None:
        """Set the action of the `number`-th process of this name when it receives a configuration."""
        self.prepare[name, number] = lambda child: setattr(child, "on_configure", action)

    def report_success_then_stop(self, child: FakeChild) -> None:
        child.report_success()
        self.supervisor.stop()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Return a site that restarts dead processes without a pause. Restore the signal handlers of the test process."""
    for constant in ("LONGEST_PAUSE", "LONGEST_PAUSE_OF_RECEIVER"):
        monkeypatch.setattr(process_slot, constant, 0.0)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield Site(tmp_path)
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_process_that_fails_for_a_transient_reason_is_restarted_during_the_start(site: Site) -> None:
    """The service does not end because a disk is full when it starts.

    Verified to fail when `transient` is ignored: the start raises CannotStart.
    """
    site.when_configured("host", 1, lambda host: host.report(FAILED, reason="the disk is full", transient=True))
    site.when_configured("receiver", 1, site.report_success_then_stop)
    with capture_logs() as logged:
        site.supervisor.run()
    assert [True, True] == [host.has_ended for host in site.all("host")]
    # The fake process ends with status 0 when the supervisor stops it.
    assert [("host", 0)] == [(entry["name"], entry["status"]) for entry in logged if entry["event"] == "process_died"]
    assert [PORT] == [entry["port"] for entry in logged if entry["event"] == "service_listening"]


def test_a_process_that_fails_for_another_reason_ends_the_start(site: Site) -> None:
    """The reason is reported, and the processes that were started are stopped.

    Verified to fail when every failure is treated as transient.
    """
    site.when_configured("host", 1, lambda host: host.report(FAILED, reason="another host uses the folder"))
    site.when_configured("host", 2, lambda _host: site.supervisor.stop())  # ends the test if the host is started again
    with pytest.raises(CannotStart, match="another host uses the folder"):
        site.supervisor.run()
    assert all(child.has_ended for child in site.children)


def test_a_receiver_that_dies_before_its_configuration_is_replaced(site: Site) -> None:
    """A receiver process is started together with the host (preloaded), and configured when the host is ready.

    Verified to fail when `_reap` does not handle a preloaded process: no receiver is started.
    """

    def start_after_death(host: FakeChild) -> None:
        site.all("receiver")[0].end(KILLED)
        host.report_success()

    site.when_configured("host", 1, start_after_death)
    # Ends the test if the dead receiver is configured.
    site.when_configured("receiver", 1, lambda _receiver: site.supervisor.stop())
    site.when_configured("receiver", 2, site.report_success_then_stop)
    with capture_logs() as logged:
        site.supervisor.run()
    assert [0, 1] == [len(receiver.starts) for receiver in site.all("receiver")]
    assert [] == [entry for entry in logged if entry["event"] == "process_died"]


def test_the_next_process_loads_its_modules_during_the_pause(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the death of a receiver, senders wait only for the pause.

    Verified to fail when the next process is created after the pause: it is configured at once.
    """
    monkeypatch.setattr(process_slot, "LONGEST_PAUSE_OF_RECEIVER", 30.0)

    def listen_then_die(receiver: FakeChild) -> None:
        receiver.report_success()
        receiver.end(KILLED)

    site.when_configured("receiver", 1, listen_then_die)
    site.prepare["receiver", 2] = lambda _receiver: site.supervisor.stop()
    site.supervisor.run()
    assert [1, 0] == [len(receiver.starts) for receiver in site.all("receiver")]
    assert all(child.has_ended for child in site.children)


def test_a_host_that_does_not_end_for_a_reload_is_killed_and_started_with_the_new_configuration(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the host, the receiver gets the configuration, and the rollout is complete.

    Verified to fail when there is no kill timer: this test hangs.
    """
    monkeypatch.setattr(module, "HOST_STOP_SECONDS", 0.0)
    requested = Configuration(
        number=2,
        text="second",
        folder="",
        settings=SETTINGS.to_json(),
        request=ReloadRequest(replaces=1, restart_host=True),
        draining=Draining(),
        state=ConfigurationState.REQUESTED,
        reason="",
        changed_at=datetime.now(timezone.utc),
    )

    def receive(receiver: FakeChild) -> None:
        receiver.report_success()
        if len(receiver.starts) == 1:
            site.reports.put((None, {"event": RELOAD, "requested": requested}))
        else:
            site.supervisor.stop()

    site.prepare["host", 1] = lambda host: setattr(host, "ignores_stop", True)
    site.when_configured("receiver", 1, receive)
    site.supervisor.run()
    assert [["first"], ["second"]] == [[start.configuration for start in host.starts] for host in site.all("host")]
    [receiver] = site.all("receiver")
    assert ["first", "second"] == [start.configuration for start in receiver.starts]


def test_a_sighup_before_the_host_works_is_not_lost(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file may be newer than the configuration that the host starts with. The file is applied as soon as possible.

    Verified to fail when the supervisor ignores a SIGHUP while `ReloadRequests` does not exist yet.
    """
    commands: list[list[str]] = []

    def run(command: list[str], **_options: Any) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        site.supervisor.stop()
        return subprocess.CompletedProcess(command, 0, stdout=b'{"problems": [], "applied": 2}', stderr=b"")

    def send_sighup_first(host: FakeChild) -> None:
        site.supervisor.hang_up()
        host.report_success()

    monkeypatch.setattr(requests.subprocess, "run", run)
    site.when_configured("host", 1, send_sighup_first)
    site.supervisor.run()
    assert [["reload", "/etc/adapter.toml", "--apply", "--json"]] == [command[3:] for command in commands]


def test_a_stop_during_the_start_ends_the_started_processes(site: Site) -> None:
    """No receiver is configured after the stop.

    Verified to fail when the start ignores the stop: the receiver starts.
    """

    def stop_first(host: FakeChild) -> None:
        site.supervisor.stop()
        host.report_success()

    site.when_configured("host", 1, stop_first)
    site.when_configured("receiver", 1, site.report_success_then_stop)
    site.supervisor.run()
    assert [("receiver", 0, True), ("host", 1, True)] == [
        (child.name, len(child.starts), child.has_ended) for child in site.children
    ]


def test_a_process_that_is_silent_for_too_long_is_killed_and_restarted(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_slot, "SILENT_SECONDS", 0.01)
    site.when_configured("host", 2, lambda _host: site.supervisor.stop())
    with capture_logs() as logged:
        site.supervisor.run()
    assert "host" in {entry["name"] for entry in logged if entry["event"] == "process_silent"}
    assert ("host", KILLED) in [
        (entry["name"], entry["status"]) for entry in logged if entry["event"] == "process_died"
    ]


def test_a_process_that_reports_is_not_silent(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each ping follows reports of both processes here, so nothing is killed.

    Verified to fail when reports do not end a silence.
    """
    monkeypatch.setattr(process_slot, "SILENT_SECONDS", 0.01)

    def report_of_all() -> None:
        site.manager.notified.append("ping")
        for child in site.children:
            child.report(ALIVE)
        if len(site.manager.notified) > 100:
            site.supervisor.stop()

    monkeypatch.setattr(site.manager, "ping", report_of_all)
    with capture_logs() as logged:
        site.supervisor.run()
    assert [] == [entry for entry in logged if entry["event"] == "process_silent"]


def test_the_service_manager_gets_no_pings_while_a_silent_process_cannot_be_killed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the watchdog of the service manager restarts the service.

    Verified to fail when `_beat` always pings.
    """
    monkeypatch.setattr(process_slot, "SILENT_SECONDS", 0.01)

    def survive() -> None:
        site.manager.notified.append("kill")
        if site.manager.notified.count("kill") == 5:
            site.supervisor.stop()

    for name in ("host", "receiver"):
        site.prepare[name, 1] = lambda child: monkeypatch.setattr(child, "kill", survive)
    site.supervisor.run()
    notified = site.manager.notified
    assert ("ready", "stopping") == (notified[0], notified[-1])
    assert {"ping"} == set(notified[1 : notified.index("kill")])
    assert {"kill"} == set(notified[notified.index("kill") : -1])


def test_the_service_manager_is_notified_of_a_reload_after_sighup(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reload ends also if it is refused."""
    monkeypatch.setattr(
        requests.subprocess,
        "run",
        lambda command, **_options: subprocess.CompletedProcess(command, 1, stdout=b"", stderr=b"no such file"),
    )

    def ready(_status: str = "") -> None:
        site.manager.notified.append("ready")
        if site.manager.notified.count("ready") == 1:
            site.supervisor.hang_up()
        else:
            site.supervisor.stop()

    monkeypatch.setattr(site.manager, "ready", ready)
    site.supervisor.run()
    assert ["ready", "reloading", "ready", "stopping"] == [each for each in site.manager.notified if each != "ping"]
