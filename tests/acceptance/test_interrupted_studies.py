"""A sender that breaks off in the middle of a data set: real connections, the default processor, a virtual clock."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from pydicom.dataset import Dataset

from dicom_adapter import AssociationReport, AssociationStatus
from dicom_adapter.ledger import association_reports
from dicom_adapter.net.pdu import HEADER
from dicom_adapter.simulation.adapter import encode
from dicom_adapter.testing import Adapter, ExpectedJob, make_study
from dicom_adapter.testing.loopback import HOST, Loopback
from support.conversation import ABORT, COMMAND, LAST, associate, command_set, p_data, pdv, store
from support.listening import SECONDS, wait_until

CONFIGURATION = '[ae-titles.LUNG.settings]\npipeline-lung = "p-lung"\n'
PIECE = 8192  # bytes of a data set in one P-DATA-TF
RETURN = 300  # seconds until the sender returns
BREAKS = {AssociationStatus.ABORTED: ABORT, AssociationStatus.LOST: b""}  # the last bytes of the association


@pytest.fixture
def adapter(make_adapter: Callable[[str], Adapter]) -> Adapter:
    return make_adapter(CONFIGURATION)


@pytest.fixture
def listening(adapter: Adapter) -> Iterator[Loopback]:
    listening = Loopback(adapter.config, adapter.resources)
    yield listening
    listening.close()


def send_and_break(listening: Loopback, whole: Dataset, half: Dataset, last: bytes) -> None:
    """Send one instance and half of another, then `last`, and close the connection."""
    first, data = encode(whole), encode(half)
    pieces = [data[start : start + PIECE] for start in range(0, len(data) // 2, PIECE)]
    with socket.create_connection((HOST, listening.port), SECONDS) as connection:
        for request in (associate(), store(first, 1 + len(first) // PIECE, instance=whole.SOPInstanceUID)):
            connection.sendall(request)
            _kind, length = HEADER.unpack(connection.recv(HEADER.size, socket.MSG_WAITALL))
            assert connection.recv(length, socket.MSG_WAITALL)
        connection.sendall(p_data(pdv(command_set(instance=half.SOPInstanceUID), COMMAND | LAST)))
        connection.sendall(b"".join(p_data(pdv(piece, 0)) for piece in pieces) + last)


def reports(adapter: Adapter) -> list[AssociationReport]:
    with adapter.ledger.read() as transaction:
        return [row.report for row in association_reports.after(transaction, 0, 10, "LUNG") if row.report]


@pytest.mark.parametrize("rows", [64, 1024], ids=["small", "stored while it arrives"])
@pytest.mark.parametrize("how", BREAKS)
def test_sender_that_breaks_off_in_a_data_set_and_returns_completes_its_study(
    adapter: Adapter, listening: Loopback, how: AssociationStatus, rows: int
) -> None:
    """The report names the study, the group waits for the sender, and its job is that of a study in one association.

    Verified to fail when `abort_store` does not call `store_cut_off`.
    """
    study = make_study(instances=3, rows=rows, columns=rows)
    send_and_break(listening, study[0], study[1], BREAKS[how])
    wait_until(lambda: bool(reports(adapter)))
    [report] = reports(adapter)
    assert (how, 1, 1, {}) == (report.status, report.acknowledged, report.cut_off, report.failed)
    assert ((str(study[0].StudyInstanceUID),), True) == (report.studies, report.all_studies_known)

    adapter.advance(RETURN)
    assert [] == adapter.jobs
    [group] = adapter.lanes["LUNG"].waiting
    assert "1 data set cut off" in group.problem
    assert all(result.ok for result in listening.send(study, "LUNG", "CT1"))  # the first is a duplicate
    wait_until(lambda: len(reports(adapter)) == 2)
    adapter.expect_jobs(ExpectedJob("p-lung", instances=study, at=RETURN + 5), by=RETURN + 60)
    assert "Interrupted" not in adapter.jobs[0].metadata


@pytest.mark.parametrize("how", BREAKS)
def test_job_of_a_sender_that_breaks_off_and_does_not_return_is_marked_as_interrupted(
    adapter: Adapter, listening: Loopback, how: AssociationStatus
) -> None:
    """The job contains the acknowledged instance, and its metadata names what is missing."""
    study = make_study(instances=2)
    send_and_break(listening, *study, BREAKS[how])
    wait_until(lambda: bool(reports(adapter)))
    adapter.expect_jobs(ExpectedJob("p-lung", instances=study[:1], at=600), by=601)
    assert f"was {how.value} at" in adapter.jobs[0].metadata["Interrupted"]
    assert "1 data set cut off" in adapter.jobs[0].metadata["Interrupted"]
