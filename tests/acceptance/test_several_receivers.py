"""Several receivers on one port: started, killed, stopped, and seen by their names."""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from attrs import define, field
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association

from dicom_adapter.dicom import synthetic
from dicom_adapter.ledger import Ledger, health
from dicom_adapter.net.tls import client_context
from dicom_adapter.service.launch import LaunchedService, ServiceEnded
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE, PlatformFolder
from support.certificates import Pki

pytestmark = pytest.mark.slow

SECONDS = 90  # that anything may take on a busy machine before a test fails
SUCCESS = 0x0000
SERVED = """
[ae-titles.LUNG.settings]
pipeline-a = "pipeline-1"
"""
TWO = "[dicom]\nreceivers = 2\n" + STORAGE + SERVED


@define
class Sender:
    """Stores one instance after the other, each in an association of its own, until it is told to stop."""

    port: int
    tls: tuple[object, str] | None = None
    acknowledged: list[str] = field(factory=list)
    failures: int = 0  # associations that did not come about, or were lost: those instances are sent again

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            data_set = synthetic.make_instance()
            while not self.send(data_set):
                self.failures += 1
                stop.wait(0.05)

    def send(self, data_set: object) -> bool:
        entity = AE(ae_title="SENDER")
        entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        association = entity.associate("127.0.0.1", self.port, ae_title="LUNG", tls_args=self.tls)
        if not association.is_established:
            return False
        status = association.send_c_store(data_set).get("Status")
        association.release()
        if status == SUCCESS:
            self.acknowledged.append(str(data_set.SOPInstanceUID))
        return status == SUCCESS


def under_load(
    service: LaunchedService, happen: Callable[[list[Sender]], None], tls: tuple[object, str] | None = None
) -> list[Sender]:
    """Let things happen while four senders store."""
    senders, stop = [Sender(service.port(SECONDS), tls) for _number in range(4)], threading.Event()
    with ThreadPoolExecutor(len(senders)) as pool:
        running = [pool.submit(sender.run, stop) for sender in senders]
        try:
            service.wait_for("instance_stored", SECONDS, times=5)
            happen(senders)
        finally:
            stop.set()
        for one in running:
            one.result()
    return senders


def submitted(service: LaunchedService) -> list[str]:
    platform = PlatformFolder(service.configuration.parent / "platform")
    return sorted(entry["sopInstanceUid"] for job in platform.jobs for entry in job["instances"])


def associate(port: int) -> Association:
    entity = AE(ae_title="SENDER")
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port, ae_title="LUNG")
    assert association.is_established
    return association


def receivers_at(service: LaunchedService) -> dict[str, int]:
    """The ports of all receivers, by name."""
    return {entry["process"]: entry["port"] for entry in service.logged("receiver_listening")}


def test_all_receivers_listen_on_the_port_that_the_first_one_got(launch_service: LaunchService) -> None:
    """Port 0, too; each has a name, in logs and health; what is sent to any of them is one study for the host."""
    service = launch_service(TWO.replace("2", "3", 1))
    port = service.port(SECONDS)
    assert {f"receiver {number}": port for number in (1, 2, 3)} == receivers_at(service)
    assert 5 == len(service.pids())
    sender = Sender(port)
    study = synthetic.make_study(modality="CT", instances=20)
    assert all(sender.send(data_set) for data_set in study)
    assert len({entry["process"] for entry in service.logged("instance_stored")}) > 1
    service.wait_for("job_submitted", SECONDS)
    assert sorted(sender.acknowledged) == submitted(service)
    assert 0 == service.stop(SECONDS)
    ledger = Ledger(f"sqlite:///{service.configuration.parent / 'data' / 'ledger.sqlite'}")
    with ledger.read() as transaction:
        parts = health.load(transaction)
    ledger.close()
    assert {"receiver 1", "receiver 2", "receiver 3"} == {name for name in parts if name.startswith("receiver")}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of sockets: their peer is killed
def test_a_receiver_that_is_killed_under_load_comes_back_alone(launch_service: LaunchService) -> None:
    """On the same port and under its name, while the others go on; what was acknowledged is there, once."""
    service = launch_service(TWO)
    port = service.port(SECONDS)
    before = service.pids()

    def kill(senders: list[Sender]) -> None:
        os.kill(before[2], signal.SIGKILL)
        service.wait_for("receiver_listening", SECONDS, times=2, process="receiver 1", port=port)
        stored = len(service.logged("instance_stored"))
        service.wait_for("instance_stored", SECONDS, times=stored + 5)

    senders = under_load(service, kill)
    after = service.pids()
    assert (before[:2], before[3]) == (after[:2], after[3])
    assert ["receiver 1"] == [entry["name"] for entry in service.logged("process_died")]
    assert_all_there(service, senders, again=True)
    gc.collect()  # here, where the warning of it is expected


def assert_all_there(service: LaunchedService, senders: list[Sender], *, again: bool = False) -> None:
    """`again`: what was not acknowledged and came again may have been kept before."""
    expected = sorted(uid for sender in senders for uid in sender.acknowledged)
    wait_until_submitted(service, set(expected))
    assert 0 == service.stop(SECONDS)
    found = submitted(service)
    assert expected == (sorted(set(found)) if again else found)


def wait_until_submitted(service: LaunchedService, expected: set[str]) -> None:
    while True:
        seen = len(service.logged("job_submitted"))
        if expected <= set(submitted(service)):
            return
        service.wait_for("job_submitted", SECONDS, times=seen + 1)


def test_no_sender_notices_that_the_host_was_killed_under_load(launch_service: LaunchService) -> None:
    """Not one association fails, with several receivers and senders that go on all the time."""
    service = launch_service(TWO)

    def kill(senders: list[Sender]) -> None:
        os.kill(service.pids()[1], signal.SIGKILL)
        service.wait_for("host_started", SECONDS, times=2)
        stored = len(service.logged("instance_stored"))
        service.wait_for("instance_stored", SECONDS, times=stored + 5)

    senders = under_load(service, kill)
    assert [0, 0, 0, 0] == [sender.failures for sender in senders]
    assert_all_there(service, senders)


@pytest.mark.parametrize("with_tls", [False, True])
def test_open_associations_of_all_receivers_may_finish(
    launch_service: LaunchService, tmp_path: Path, with_tls: bool
) -> None:
    """A stop lets nobody in any more, and whoever is in may send and release, encrypted or not."""
    tls_args, lines = None, ""
    if with_tls:
        pki = Pki(tmp_path / "pki")
        certificate, key = pki.adapter()
        lines = f'[dicom.tls]\ncertificate = "{certificate}"\nkey = "{key}"\n'
        tls_args = (client_context(pki.authority), "127.0.0.1")
    service = launch_service(TWO + lines)
    entity = AE(ae_title="SENDER")
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    port = service.port(SECONDS)
    associations = [entity.associate("127.0.0.1", port, ae_title="LUNG", tls_args=tls_args) for _number in range(8)]
    assert all(association.is_established for association in associations)
    os.kill(service.pids()[0], signal.SIGTERM)
    service.wait_for("service_stopping")
    until_deaf(port)
    statuses = [association.send_c_store(synthetic.make_instance()).Status for association in associations]
    assert [SUCCESS] * 8 == statuses
    for association in associations:
        association.release()
    assert 0 == service.wait(SECONDS)
    assert 2 == len(service.logged("receiver_stopped", drained=True))
    assert 8 == len(service.logged("association_closed", how="released"))
    assert [] == service.logged("process_killed")


def until_deaf(port: int) -> None:
    pause = threading.Event()
    for _try in range(SECONDS * 20):
        with socket.socket() as caller:
            if caller.connect_ex(("127.0.0.1", port)) != 0:
                return
        pause.wait(0.05)
    raise AssertionError("somebody still listens")


def test_a_port_that_is_somebody_elses_is_not_shared(launch_service: LaunchService) -> None:
    """Although the receivers of one service do share theirs: two services would take each other's senders."""
    first = launch_service(TWO)
    second = launch_service(TWO, "--port", str(first.port(SECONDS)), name="second")
    with pytest.raises(ServiceEnded, match="Address already in use"):
        second.port(SECONDS)
    assert 1 == second.wait(SECONDS)
