"""The adapter under test: its configuration, and its termination by SIGKILL."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from random import Random
from typing import Any

from attrs import frozen

from dicom_adapter.service.launch import LaunchedService, ServiceEnded
from faults.clock import ServiceClock
from faults.commands import DESTINATION, Commands
from faults.log_reader import ServiceWithLogReader
from faults.mount import Mount
from support.restartable import free_ports

START_SECONDS = 180.0  # limit until the service listens, on a busy machine
POLL_SECONDS = 0.05  # between two attempts to connect


@frozen(kw_only=True)
class AeTitle:
    """One AE title of the configuration."""

    processor: str = "aetitle"
    submitter: str
    settings: str  # lines of TOML, without pipelines
    pipelines: tuple[str, ...]  # ids of pipelines that only this AE title has
    overwrites: bool = False  # overwrite-same-instance

    @property
    def submits_on_request(self) -> bool:
        """Return whether this AE title submits jobs only on request."""
        return self.processor == "cache"


RETRIES = "retry-first = 0.1\nretry-most = 1\nstatus-every = 5"  # retry-most: longest pause in seconds


def _pipelines(number: int, count: int) -> tuple[str, ...]:
    return tuple(f"{number:016x}{pipeline:016x}" for pipeline in range(1, count + 1))


# A kill interrupts groups, which wait for their senders. This wait is short, because no sender returns in the end.
WAIT = "interrupted-wait = 15"
DISK = "disk"  # the mount point, in the folder of the adapter
CACHE = "CACHE"
COMMANDS = "COMMANDS"  # its jobs run a command, and their results are delivered to a folder and to products
SETTLE_SECONDS = 3  # the largest value; reloads change the setting
AE_TITLES: Mapping[str, AeTitle] = {
    "STUDIES": AeTitle(submitter="grpc", settings=WAIT, pipelines=_pipelines(1, 3)),
    "PATIENTS": AeTitle(
        submitter="rest",
        settings=f'group-by = "patient"\ntimeout = 6\npriority = "higher"\n{WAIT}',
        pipelines=_pipelines(2, 2),
    ),
    "SERIES": AeTitle(
        submitter="rest", settings=f'group-by = "series"\nmax-wait = 8\n{WAIT}', pipelines=_pipelines(3, 1)
    ),
    "NEWEST": AeTitle(submitter="grpc", settings=WAIT, pipelines=_pipelines(4, 2), overwrites=True),
    COMMANDS: AeTitle(submitter="local", settings=WAIT, pipelines=("copy",)),
    CACHE: AeTitle(processor="cache", submitter="grpc", settings="settle = 2", pipelines=_pipelines(5, 2)),
}


# The changes of a reload: a submitter, groupings, and whether COMES_AND_GOES is configured.
CHANGES = [
    ("deadline = 2", "deadline = 3"),
    ("timeout = 6", "timeout = 7"),
    ("max-wait = 8", "max-wait = 9"),
    ("settle = 2", f"settle = {SETTLE_SECONDS}"),
]
COMES_AND_GOES = "SERIES"


class Victim(str, Enum):
    """The processes that are killed."""

    EVERYTHING = "everything"  # as at a crash of the machine
    SUPERVISOR = "supervisor"  # the child processes then end without a kill
    HOST = "host"
    RECEIVER = "receiver"


@frozen
class Ports:
    """The ports of all servers, which stay the same after restarts."""

    adapter: int
    grpc: int  # port of the platform
    rest: int
    http: int  # port of the adapter

    @classmethod
    def free(cls) -> Ports:
        return cls(*free_ports(4))


class Adapter:
    """The service in `folder`: one process tree at a time, always with the same port."""

    def __init__(self, folder: Path, ports: Ports, random: Random, destinations: Mapping[str, str]) -> None:
        """`destinations`: the products that receive results, with the tables of their submitters."""
        folder.mkdir()
        self._destinations = destinations
        self.commands = Commands(folder)
        self.commands.prepare()
        self.clock = ServiceClock(folder / "clock", random)
        self.mount = Mount(folder / DISK)
        self.folder = folder
        self.port = ports.adapter
        self.http_port = ports.http
        self.kills: Counter[str] = Counter()
        self.launches = 0
        self.full_log_pipes = 0  # times that the service could not write its log because the reader had stopped
        self.waited = 0.0  # seconds in `wait_until_it_listens`
        self._configuration = folder / "adapter.toml"
        self._ports = ports
        self.reloads = 0
        self.restore()
        self._service: ServiceWithLogReader | None = None

    @property
    def log(self) -> Path:
        return self.folder / "service.log"

    @property
    def data(self) -> Path:
        return self.folder / DISK / "data"

    def ensure_running(self) -> None:
        """Start the service unless its supervisor is running. Processes of an earlier service may prevent the start."""
        if self._service is None or _has_ended(self._service):
            self.continue_log_reader()  # what the ended service has logged
            self.clock.set_for_start()
            self._service = ServiceWithLogReader(
                self._configuration, "--port", str(self.port), python=str(self.clock.python)
            )
            self.launches += 1

    @property
    def listens(self) -> bool:
        """Return whether the service has logged since its start that it listens."""
        return self._service is not None and bool(self._service.logged("service_listening"))

    def wait_until_it_listens(self) -> None:
        """Wait until the service listens, also after a restart of its receiver. Raises ServiceEnded at the limit."""
        began = time.monotonic()
        deadline = began + START_SECONDS
        while not self._accepts_connections(deadline):
            if time.monotonic() > deadline:
                raise ServiceEnded(f"the service does not listen after {START_SECONDS:.0f} s: see {self.log}")
            time.sleep(POLL_SECONDS)
        self.waited += time.monotonic() - began

    def _accepts_connections(self, deadline: float) -> bool:
        """Start the service if it has ended, and wait for its first `service_listening`. Return whether it listens now.

        The log does not show whether a restarted receiver listens: its reader may have stopped.
        """
        self.ensure_running()
        assert self._service is not None
        try:
            self._service.port(deadline - time.monotonic())
            socket.create_connection(("127.0.0.1", self.port)).close()
        except (ServiceEnded, ConnectionRefusedError):
            return False
        return True

    def kill(self, victim: Victim) -> None:
        """Send SIGKILL to the victim, if it is running."""
        assert self._service is not None
        if victim is Victim.EVERYTHING:
            self._service.kill()
        elif not _kill(_running_pid(self._service, victim), self._service.pids()[0]):
            return
        self.kills[victim.value] += 1

    def reload(self, random: Random) -> None:
        """Change the configuration file and request a reload. The service may be in any state."""
        left_out = [COMES_AND_GOES] if random.random() < 0.3 else []
        text = self._text(left_out)
        for before, after in random.sample(CHANGES, random.randint(1, len(CHANGES))):
            text = text.replace(before, after)
        self._write(text)
        assert self._service is not None
        if not _has_ended(self._service):
            os.kill(self._service.pids()[0], signal.SIGHUP)
            self.reloads += 1

    def step_clock(self) -> bool:
        """Put the system clock forward or back. Return False if the service has not created its clock yet."""
        if self._service is None or not self._service.logged("process_started"):
            return False
        self.clock.step()
        return True

    def stop_log_reader(self) -> None:
        """Stop reading the service's log, until its end at the latest."""
        if self._service is not None:
            self._service.stop_log_reader()

    def continue_log_reader(self) -> None:
        """Read the service's log again."""
        if self._service is not None and self._service.continue_log_reader():
            self.full_log_pipes += 1

    def restore(self) -> None:
        """Write the configuration that the count assumes, for the next start."""
        self._write(self._text())

    def _text(self, left_out: Sequence[str] = ()) -> str:
        text = _configuration(self._ports, [DESTINATION, *self._destinations], left_out)
        text += self.commands.configuration(AE_TITLES[COMMANDS].pipelines, RETRIES)
        return text + "".join(self._destinations.values())

    def _write(self, text: str) -> None:
        new = self._configuration.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        new.replace(self._configuration)

    def stop(self) -> int:
        """Stop the service with SIGTERM. Returns its exit status."""
        assert self._service is not None
        return self._service.stop(60)

    def audit(self) -> Mapping[str, Any]:
        """Return the report of `dicom-adapter audit`. The service must be stopped."""
        command = [sys.executable, "-m", "dicom_adapter", "audit", "--config", str(self._configuration)]
        audit = subprocess.run([*command, "--verify", "--json"], stdout=subprocess.PIPE, check=False)
        report: Mapping[str, Any] = json.loads(audit.stdout)
        return report

    def end(self) -> None:
        """Kill the service if it is running."""
        if self._service is not None:
            self._service.kill()
            self.continue_log_reader()


def _has_ended(service: LaunchedService) -> bool:
    try:
        service.wait(0)
    except subprocess.TimeoutExpired:
        return False
    return True


def _running_pid(service: LaunchedService, victim: Victim) -> int | None:
    """Return the process id, unless the process has ended and the service has logged it."""
    if victim is Victim.SUPERVISOR:
        return None if _has_ended(service) else service.pids()[0]
    started = service.logged("process_started", name=victim.value)
    died = service.logged("process_died", name=victim.value)
    return started[-1]["child"] if len(started) > len(died) and not _has_ended(service) else None


def _kill(pid: int | None, group: int) -> bool:
    """Send SIGKILL. Return whether the process existed, in this process group: its id may have been used again."""
    if pid is None:
        return False
    try:
        if os.getpgid(pid) != group:
            return False
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _configuration(ports: Ports, destinations: Sequence[str], left_out: Sequence[str]) -> str:
    return f"""
[dicom]
bind = "127.0.0.1"
max-associations-per-peer = 50

[http]
port = {ports.http}

[storage]
path = "{DISK}/data"
watermark-percent = 100
reserve = 0

[submitters.grpc]
type = "clara-grpc"
endpoint = "127.0.0.1:{ports.grpc}"
deadline = 2
upload-deadline = 4
follow = false
{RETRIES}

[submitters.rest]
type = "clara-rest"
endpoint = "http://127.0.0.1:{ports.rest}"
timeout = 2
upload-timeout = 4
follow = false
{RETRIES}
""" + "".join(_ae_title(name, destinations) for name in AE_TITLES if name not in left_out)


def _ae_title(name: str, destinations: Sequence[str]) -> str:
    table = AE_TITLES[name]
    pipelines = "\n".join(f'pipeline-{number} = "{key}"' for number, key in enumerate(table.pipelines, 1))
    return f"""
[ae-titles.{name}]
processor = "{table.processor}"
submitter = "{table.submitter}"
overwrite-same-instance = {str(table.overwrites).lower()}

[ae-titles.{name}.settings]
{table.settings}
{pipelines}
""" + (_results(destinations) if name == COMMANDS else "")


def _results(destinations: Sequence[str]) -> str:
    return f"""
[ae-titles.{COMMANDS}.results]
to = {json.dumps(list(destinations))}
expect-results = true
"""
