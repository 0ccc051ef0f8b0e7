"""Receiver, host, supervisor, or all processes are killed while senders send. No acknowledged instance is lost.

Afterwards ledger and storage agree: the next start enters or deletes each instance that a kill has left without a row.
This is also true for the backend `files`, which has no recovery records.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest
from attrs import define, field
from receive_instances import encode
from receive_link import Link, LinkFailed
from receive_pdus import make_uid, store_request

from dicom_adapter.ledger import Ledger, instances
from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CONFIGURATION = (
    STORAGE.replace("[storage]", '[storage]\nbackend = "{backend}"')
    + """
[ae-titles.LUNG]
settings = {{ timeout = 3600, pipeline-a = "1" }}
"""
)
ROUNDS = 2
SENDERS = 3
ENOUGH = 30  # acknowledged instances in each round before the kill
VICTIMS = {"supervisor": 0, "host": 1, "receiver": 2}  # positions in `LaunchedService.pids`


@define
class Senders:
    """Senders that send instances until they are stopped. They associate again after each failure."""

    port: int
    first: int  # number of the first instance
    acknowledged: list[str] = field(factory=list)
    has_enough: threading.Event = field(factory=threading.Event)
    stopped: threading.Event = field(factory=threading.Event)

    def run(self, sender: int) -> None:
        message = store_request(encode(16), make_uid(2, sender), make_uid(3, sender), 16384)
        numbers = count(self.first + sender, SENDERS)
        while not self.stopped.wait(0.02):
            try:
                with closing(Link(self.port, "LUNG")) as link:
                    while not self.stopped.is_set():
                        uid = make_uid(1, next(numbers))
                        link.store(message.rename(uid))
                        self.acknowledged.append(uid)
                        if len(self.acknowledged) >= ENOUGH:
                            self.has_enough.set()
            except (LinkFailed, OSError):
                pass  # a process was killed


def kill(service: LaunchedService, victim: str) -> bool:
    """Kill a process, or all. Return whether the service has ended."""
    if victim in ("host", "receiver"):
        os.kill(service.pids()[VICTIMS[victim]], signal.SIGKILL)
        return False
    if victim == "supervisor":
        os.kill(service.pids()[0], signal.SIGKILL)
        service.wait()
    else:
        service.kill()
    return True


def rows(service: LaunchedService) -> list[str]:
    url = f"sqlite:///{service.configuration.parent / 'data' / 'ledger.sqlite'}"
    with closing(Ledger(url)) as ledger, ledger.read() as transaction:
        return [row.sop_instance_uid for row in instances.pending_after(transaction, 0, 1_000_000, "LUNG")]


@pytest.mark.parametrize(
    ("backend", "victim"),
    [*(("local", victim) for victim in (*VICTIMS, "all processes")), ("files", "receiver"), ("files", "all processes")],
)
def test_kills_while_senders_send_lose_no_acknowledged_instance(
    launch_service: LaunchService, backend: str, victim: str
) -> None:
    """Each stored instance has one row and one object, whether it was acknowledged or not."""
    configuration = CONFIGURATION.format(backend=backend)
    service = launch_service(configuration)
    acknowledged: list[str] = []
    for number in range(ROUNDS):
        senders = Senders(service.port(), first=number * 10**9)
        with ThreadPoolExecutor(SENDERS) as pool:
            running = [pool.submit(senders.run, sender) for sender in range(SENDERS)]
            assert senders.has_enough.wait(60)
            has_ended = kill(service, victim)
            senders.stopped.set()
        assert [None] * SENDERS == [one.result() for one in running]
        acknowledged += senders.acknowledged
        if has_ended:
            service = launch_service(configuration)
        else:
            service.wait_for("process_started", times=number + 2, name=victim)
    service.port()
    assert 0 == service.stop()

    entered = rows(service)
    assert len(entered) == len(set(entered))
    assert set(acknowledged) <= set(entered)
    assert {} == audit(service.configuration)


def audit(configuration: Path) -> object:
    command = [sys.executable, "-m", "dicom_adapter", "audit", "--verify", "--config", str(configuration), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return json.loads(done.stdout)["counts"]
