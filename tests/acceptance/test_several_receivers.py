"""Several receivers on one port: start, kill, stop, and their names in log and health."""

from __future__ import annotations

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
from support import INSTANCE_LINES, STORAGE, PlatformFolder
from support.certificates import Pki

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # several starts of processes, on a busy machine

SECONDS = 90  # time limit of each wait, on a busy machine
SUCCESS = 0x0000
LUNG = """
[ae-titles.LUNG.settings]
interrupted = "submit"
pipeline-a = "pipeline-1"
"""
TWO_RECEIVERS = INSTANCE_LINES + "[dicom]\nreceivers = 2\n" + STORAGE + LUNG


@define
class Sender:
    """A sender that stores instances one after the other, each in a separate association, until it is stopped."""

    port: int
    tls: tuple[object, str] | None = None
    acknowledged: list[str] = field(factory=list)
    failures: list[str] = field(factory=list)  # why instances were not stored; they are sent again

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            data_set = synthetic.make_instance()
            while failure := self.send(data_set):
                self.failures.append(failure)
                stop.wait(0.05)

    def send(self, data_set: object) -> str:
        """Store an instance in an association. Return why it was not stored; "" if it was."""
        entity = AE(ae_title="SENDER")
        entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = SECONDS
        association = entity.associate("127.0.0.1", self.port, ae_title="LUNG", tls_args=self.tls)
        if not association.is_established:
            return "rejected" if association.is_rejected else "not established"
        status = association.send_c_store(data_set).get("Status")
        association.release()
        if status is None:
            return "lost"
        if status != SUCCESS:
            return f"status {status:#06x}"
        self.acknowledged.append(str(data_set.SOPInstanceUID))
        return ""


def run_under_load(
    service: LaunchedService, action: Callable[[list[Sender]], None], tls: tuple[object, str] | None = None
) -> list[Sender]:
    """Run an action while four senders store."""
    senders, stop = [Sender(service.port(SECONDS), tls) for _number in range(4)], threading.Event()
    with ThreadPoolExecutor(len(senders)) as pool:
        running = [pool.submit(sender.run, stop) for sender in senders]
        try:
            service.wait_for("instance_stored", SECONDS, times=5)
            action(senders)
        finally:
            stop.set()
        for future in running:
            future.result()
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


def ports_of_receivers(service: LaunchedService) -> dict[str, int]:
    """Return the ports on which the receivers listen, by name of the receiver."""
    return {entry["process"]: entry["port"] for entry in service.logged("receiver_listening")}


def test_all_receivers_share_one_port(launch_service: LaunchService) -> None:
    """With port 0, all receivers use the port that the system selects. Each has its name in log and health.

    Instances of one study that different receivers store become one job.
    """
    service = launch_service(TWO_RECEIVERS.replace("2", "3", 1))  # the fixture starts it with `--port 0`
    port = service.port(SECONDS)
    assert {f"receiver {number}": port for number in (1, 2, 3)} == ports_of_receivers(service)
    assert 5 == len(service.pids())
    sender = Sender(port)
    study = synthetic.make_study(modality="CT", instances=20)
    assert {""} == {sender.send(data_set) for data_set in study}
    assert len({entry["process"] for entry in service.logged("instance_stored")}) > 1
    service.wait_for("job_submitted", SECONDS)
    assert sorted(sender.acknowledged) == submitted(service)
    assert 0 == service.stop(SECONDS)
    ledger = Ledger(f"sqlite:///{service.configuration.parent / 'data' / 'ledger.sqlite'}")
    with ledger.read() as transaction:
        parts = health.load(transaction)
    ledger.close()
    assert {"receiver 1", "receiver 2", "receiver 3"} == {name for name in parts if name.startswith("receiver")}


def test_if_one_receiver_is_killed_under_load_only_this_receiver_is_restarted(launch_service: LaunchService) -> None:
    """The receiver keeps port and name. Each acknowledged instance is in one job."""
    service = launch_service(TWO_RECEIVERS)
    port = service.port(SECONDS)
    supervisor, host, first_receiver, second_receiver = service.pids()

    def kill(senders: list[Sender]) -> None:
        os.kill(first_receiver, signal.SIGKILL)
        service.wait_for("receiver_listening", SECONDS, times=2, process="receiver 1", port=port)
        stored = len(service.logged("instance_stored"))
        service.wait_for("instance_stored", SECONDS, times=stored + 5)

    senders = run_under_load(service, kill)
    now_supervisor, now_host, restarted_receiver, now_second = service.pids()
    assert (supervisor, host, second_receiver) == (now_supervisor, now_host, now_second)
    assert first_receiver != restarted_receiver
    assert ["receiver 1"] == [entry["name"] for entry in service.logged("process_died")]
    assert_all_submitted(service, senders, duplicates_allowed=True)


def assert_all_submitted(service: LaunchedService, senders: list[Sender], *, duplicates_allowed: bool = False) -> None:
    """Check that each acknowledged instance was submitted.

    `duplicates_allowed`: an instance that was stored but not acknowledged may be sent, and submitted, again.
    """
    expected = sorted(uid for sender in senders for uid in sender.acknowledged)
    wait_until_submitted(service, set(expected))
    assert 0 == service.stop(SECONDS)
    uids = submitted(service)
    assert expected == (sorted(set(uids)) if duplicates_allowed else uids)


def wait_until_submitted(service: LaunchedService, expected: set[str]) -> None:
    """Wait until all instances, each of another study, are submitted."""
    while True:
        seen = len(service.logged("job_submitted"))
        missing = expected - set(submitted(service))
        if not missing:
            return
        service.wait_for("job_submitted", SECONDS, times=seen + len(missing))


def test_no_association_fails_when_the_host_is_killed_under_load(launch_service: LaunchService) -> None:
    """Several receivers accept instances while the host is restarted."""
    service = launch_service(TWO_RECEIVERS)

    def kill(senders: list[Sender]) -> None:
        _supervisor, host, *_receivers = service.pids()
        os.kill(host, signal.SIGKILL)
        service.wait_for("host_started", SECONDS, times=2)
        stored = len(service.logged("instance_stored"))
        service.wait_for("instance_stored", SECONDS, times=stored + 5)

    senders = run_under_load(service, kill)
    assert [] == [failure for sender in senders for failure in sender.failures]
    assert_all_submitted(service, senders)


@pytest.mark.parametrize("with_tls", [False, True])
def test_open_associations_of_all_receivers_can_finish_after_a_stop(
    launch_service: LaunchService, tmp_path: Path, with_tls: bool
) -> None:
    """New connections are refused. Open associations can store and release, with and without TLS."""
    tls_args, lines = None, ""
    if with_tls:
        pki = Pki(tmp_path / "pki")
        certificate, key = pki.adapter()
        lines = f'[dicom.tls]\ncertificate = "{certificate}"\nkey = "{key}"\n'
        tls_args = (client_context(pki.authority), "127.0.0.1")
    service = launch_service(TWO_RECEIVERS + lines)
    entity = AE(ae_title="SENDER")
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    port = service.port(SECONDS)
    associations = [entity.associate("127.0.0.1", port, ae_title="LUNG", tls_args=tls_args) for _number in range(8)]
    assert all(association.is_established for association in associations)
    supervisor, *_children = service.pids()
    os.kill(supervisor, signal.SIGTERM)
    service.wait_for("service_stopping")
    wait_until_not_listening(port)
    statuses = [association.send_c_store(synthetic.make_instance()).Status for association in associations]
    assert [SUCCESS] * 8 == statuses
    for association in associations:
        association.release()
    assert 0 == service.wait(SECONDS)
    assert 2 == len(service.logged("receiver_stopped", drained=True))
    assert 8 == len(service.logged("association_closed", how="released"))
    assert [] == service.logged("process_killed")


def wait_until_not_listening(port: int) -> None:
    pause = threading.Event()
    for _try in range(SECONDS * 20):
        with socket.socket() as caller:
            if caller.connect_ex(("127.0.0.1", port)) != 0:
                return
        pause.wait(0.05)
    raise AssertionError("the port is still open")


def test_two_services_never_share_a_port(launch_service: LaunchService) -> None:
    """Only the receivers of one service share a port. Two services would receive each other's instances."""
    first = launch_service(TWO_RECEIVERS)
    second = launch_service(TWO_RECEIVERS, "--port", str(first.port(SECONDS)), name="second")
    with pytest.raises(ServiceEnded, match="Address already in use"):
        second.port(SECONDS)
    assert 1 == second.wait(SECONDS)
