"""Another program locks the ledger for a long time, for example a database client with an open transaction."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association

from dicom_adapter.dicom import synthetic
from dicom_adapter.receiver.__main__ import LEDGER_WAIT_SECONDS
from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE, send, write_study

CONFIGURATION = f"""{STORAGE}
[dicom]
drain-timeout = 0
[ae-titles.LUNG.settings]
pipeline-a = "pipeline-1"
interrupted = "submit"
"""
OUT_OF_RESOURCES = 0xA700
DOCUMENTED_STOP_S = 30  # after the drain timeout (docs/operation.md)


@contextmanager
def locked(service: LaunchedService) -> Iterator[None]:
    """Lock the ledger for writing."""
    connection = sqlite3.connect(service.configuration.parent / "data" / "ledger.sqlite", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("ROLLBACK")
    connection.close()


def associate(service: LaunchedService) -> Association:
    entity = AE(ae_title="SENDER")
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", service.port(), ae_title="LUNG")
    assert association.is_established
    return association


def test_senders_do_not_wait_for_the_ledger(launch_service: LaunchService, tmp_path: Path) -> None:
    """Instances of several associations are acknowledged while the ledger is locked. Their rows are entered later."""
    service = launch_service(CONFIGURATION)
    association, data_set = associate(service), synthetic.make_instance()
    association.dimse_timeout = 10
    with locked(service):
        assert 0x0000 == association.send_c_store(data_set).Status
        results = send(write_study(tmp_path / "study"), service, "LUNG")
        assert [0x0000] * 2 == [result.status for result in results]
        association.release()
    service.wait_for("job_submitted", times=2)
    assert [] == service.logged("instance_refused")
    assert 0 == service.stop()


def test_senders_are_answered_while_the_ledger_is_locked(launch_service: LaunchService, tmp_path: Path) -> None:
    """A storage backend without recovery records needs the ledger before the answer.

    C-STOREs are refused as out of resources, in several associations. Later the same instance can be stored.

    Verified to fail when a commit waits for the ledger for a minute.
    """
    service = launch_service(CONFIGURATION.replace("[storage]", '[storage]\nbackend = "files"'))
    association, data_set = associate(service), synthetic.make_instance()
    association.dimse_timeout = 10
    with locked(service):
        assert OUT_OF_RESOURCES == association.send_c_store(data_set).Status
        results = send(write_study(tmp_path / "study"), service, "LUNG")
        assert [OUT_OF_RESOURCES] * 2 == [result.status for result in results]
    assert 0x0000 == association.send_c_store(data_set).Status
    association.release()
    reasons = {entry["reason"] for entry in service.logged("instance_refused", status="0xA700")}
    assert {"the ledger is locked by another transaction"} == reasons
    service.wait_for("job_submitted")
    assert 0 == service.stop()


def test_two_commits_fit_into_the_time_that_a_sender_waits() -> None:
    """Senders are expected to wait at least 10 s. An instance may wait for the commit before its own.

    A commit waits LEDGER_WAIT_SECONDS for other processes, or 1.5 times as long if threads of the receiver wait, too.
    """
    assert 2 * 1.5 * LEDGER_WAIT_SECONDS < 10


def test_a_service_stops_in_order_while_the_ledger_is_locked(launch_service: LaunchService) -> None:
    """The service stops in the documented time, and no process has to be killed.

    Verified to fail when the processes wait for the ledger for a minute.
    """
    service = launch_service(CONFIGURATION)
    association = associate(service)
    with locked(service):
        association.send_c_store(synthetic.make_instance())
        association.release()
        service.wait_for("association_closed")
        service._process.send_signal(signal.SIGTERM)
        assert 0 == service.wait(DOCUMENTED_STOP_S)
    assert [] == service.logged("process_killed")
    assert [] == service.logged("workers_abandoned")
    service.wait_for("service_stopped")


def test_a_service_that_starts_while_the_ledger_is_locked_waits_for_it(launch_service: LaunchService) -> None:
    """Verified to fail when the locked ledger is a reason not to start."""
    service = launch_service(CONFIGURATION)
    service.port()
    assert 0 == service.stop()
    with locked(service):
        again = launch_service(CONFIGURATION)
        failure = again.wait_for("process_failed")
    assert "host" == failure["name"]
    assert "database is locked" in failure["reason"]
    again.port()
    assert 0 == again.stop()
