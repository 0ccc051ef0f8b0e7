"""Stopping the service in an orderly way and after a timeout, and killing single processes."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association

from dicom_adapter.dicom import synthetic
from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from support import INSTANCE_LINES, STORAGE, PlatformFolder, send, write_study

CONFIGURATION = (
    INSTANCE_LINES
    + STORAGE
    + """
[ae-titles.LUNG.settings]
pipeline-a = "pipeline-1"
"""
)
SUCCESS = 0x0000
SECONDS = 60  # time limit of each wait


def associate(service: LaunchedService, on_abort: Callable[[], None] | None = None) -> Association:
    """Establish an association with LUNG that stays open, as some modalities do."""
    entity = AE(ae_title="SENDER")
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    handlers: list[evt.EventHandlerType] = [] if on_abort is None else [(evt.EVT_ABORTED, lambda _event: on_abort())]
    association = entity.associate("127.0.0.1", service.port(), ae_title="LUNG", evt_handlers=handlers)
    assert association.is_established
    return association


def store(association: Association) -> str:
    """Store an instance, check that it is acknowledged, and return its SOP Instance UID."""
    data_set = synthetic.make_instance()
    assert SUCCESS == association.send_c_store(data_set).Status
    return str(data_set.SOPInstanceUID)


def send_signal(service: LaunchedService, number: signal.Signals) -> None:
    """Send a signal to the supervisor, as a service manager does."""
    os.kill(service.pids()[0], number)


def running(service: LaunchedService) -> list[int]:
    """Return the processes of the service that still run."""
    return [pid for pid in service.pids() if is_running(pid)]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not is_zombie(pid)


def is_zombie(pid: int) -> bool:
    """Return whether a process has ended, but its parent has not read its exit status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except OSError:  # the process has ended, or this system has no /proc
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition for which there is no log event."""
    pause = threading.Event()
    for _try in range(SECONDS * 20):
        if condition():
            return
        pause.wait(0.05)
    raise AssertionError("the condition did not become true in time")


def is_listening(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def submitted(service: LaunchedService) -> list[str]:
    """Return the SOP Instance UIDs in all started jobs."""
    platform = PlatformFolder(service.configuration.parent / "platform")
    return sorted(entry["sopInstanceUid"] for job in platform.jobs for entry in job["instances"])


# --- in an orderly way ------------------------------------------------------------------------------------------------


def test_an_idle_service_stops_completely(launch_service: LaunchService) -> None:
    """After SIGTERM or SIGINT the exit status is 0, no process remains, and the ledger is a single file."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    services = [launch_service(CONFIGURATION, name=number.name) for number in numbers]
    for service, number in zip(services, numbers, strict=True):
        service.port()
        send_signal(service, number)
    for service in services:
        assert 0 == service.wait()
        assert [] == running(service)
        service.wait_for("service_stopped")
        data = service.configuration.parent / "data"
        assert ["ledger.sqlite"] == sorted(path.name for path in data.glob("ledger.sqlite*"))


def test_open_associations_can_finish_after_a_stop(launch_service: LaunchService) -> None:
    """After SIGTERM, new connections are refused. The open association can store and release, then the service ends."""
    service = launch_service(CONFIGURATION)
    port = service.port()
    association = associate(service)
    before = store(association)
    send_signal(service, signal.SIGTERM)
    service.wait_for("service_stopping")
    wait_until(lambda: not is_listening(port))
    after = store(association)
    association.release()
    assert 0 == service.wait()
    closed = service.wait_for("association_closed", how="released")
    assert [2, 2] == [closed["statuses"]["SUCCESS"], closed["instances"]]
    assert 0 < closed["bytes"]
    assert [before, after] == [entry["sop_instance_uid"] for entry in service.logged("instance_stored")]
    assert [] == running(service)


def test_an_association_that_outlasts_the_drain_timeout_is_aborted(launch_service: LaunchService) -> None:
    """The peer receives an A-ABORT, and the service ends normally."""
    service = launch_service("[dicom]\ndrain-timeout = 0.5\n" + CONFIGURATION)
    aborted = threading.Event()
    association = associate(service, on_abort=aborted.set)
    with closing(association.dul.socket.socket):  # pynetdicom does not close the socket if the peer closes first
        uid = store(association)
        send_signal(service, signal.SIGTERM)
        assert aborted.wait(SECONDS)
    assert 0 == service.wait()
    assert 1 == service.wait_for("association_closed", how="aborted")["statuses"]["SUCCESS"]
    assert [] == service.logged("process_killed")
    assert [uid] == [entry["sop_instance_uid"] for entry in service.logged("instance_stored")]


# --- killed processes -------------------------------------------------------------------------------------------------


def test_host_and_receiver_end_when_the_supervisor_is_killed(launch_service: LaunchService) -> None:
    """The service can be started again."""
    first = launch_service(CONFIGURATION)
    first.port()
    send_signal(first, signal.SIGKILL)
    first.wait_for("receiver_stopped", drained=False)
    first.wait_for("host_stopped", requested=False)
    assert -signal.SIGKILL == first.wait()
    wait_until(lambda: [] == running(first))
    second = launch_service(CONFIGURATION)
    second.port()
    assert 0 == second.stop()


def test_a_killed_receiver_is_restarted_on_its_port(launch_service: LaunchService, tmp_path: Path) -> None:
    """Supervisor and host are not affected."""
    service = launch_service(CONFIGURATION)
    port = service.port()
    service_pid, host, receiver = service.pids()
    os.kill(receiver, signal.SIGKILL)
    assert port == service.wait_for("service_listening", times=2)["port"]
    assert [True, True] == [result.ok for result in send(write_study(tmp_path / "study"), service, "LUNG")]
    assert (service_pid, host) == tuple(service.pids()[:2])
    assert receiver != service.pids()[2]
    assert "receiver" == service.wait_for("process_died")["name"]
    assert 0 == service.stop()


def test_an_association_continues_when_the_host_is_killed(launch_service: LaunchService) -> None:
    """Instances are still acknowledged, and each is submitted once."""
    service = launch_service(CONFIGURATION)
    association = associate(service)
    acknowledged = [store(association) for _number in range(5)]
    os.kill(service.pids()[1], signal.SIGKILL)
    acknowledged += store_until(association, lambda: bool(service.logged("host_started")[1:]))
    association.release()
    assert "host" == service.wait_for("process_died")["name"]
    service.wait_for("job_submitted", times=len(acknowledged))
    assert sorted(acknowledged) == submitted(service)
    assert 0 == service.stop()


def store_until(association: Association, is_over: Callable[[], bool]) -> Iterator[str]:
    """Store instances at short intervals until `is_over` returns true."""
    pause = threading.Event()
    for _number in range(SECONDS * 10):
        yield store(association)
        if is_over():
            return
        pause.wait(0.1)
    raise AssertionError("the condition did not become true in time")
