"""A receiver reports to the service and in the ledger that one of its threads has ended."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

from dicom_adapter.config.listening import DicomConfig
from dicom_adapter.ledger.health import RECEIVER, PartState
from dicom_adapter.net.server import DicomServer
from dicom_adapter.receiver.__main__ import ReceiverCheck
from dicom_adapter.runtime.parts import Part, PartKind, process_part
from dicom_adapter.runtime.watch import PartFinding
from support.listening import wait_until

WORKS = {process_part(RECEIVER): PartFinding(), Part(PartKind.REFUSALS, RECEIVER): PartFinding()}


def working_receiver() -> Mock:
    """Return a receiver without problems, which has refused nothing."""
    receiver = Mock(commits_are_alive=True, storage_problem="")
    receiver.refusals.finding.return_value = PartFinding()
    return receiver


class Reports:
    """The channel to the service."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def report(self, event: str, **_fields: Any) -> None:
        self.events.append(event)


def test_a_receiver_whose_accept_thread_has_ended_reports_a_failure() -> None:
    """The failure is reported once, and the part fails until the receiver is restarted.

    A stopping server is not a failure.

    Verified to fail when `accept_loop_died` does not check the thread, or every examination reports the failure.
    """
    server, reports = DicomServer(DicomConfig(port=0, bind="127.0.0.1"), Mock()), Reports()
    check = ReceiverCheck(server, working_receiver(), reports)  # type: ignore[arg-type] # all of a channel that it uses
    server.start()
    assert WORKS == check.examine()
    server.loop.call_soon_threadsafe(server.loop.stop)
    wait_until(lambda: server.accept_loop_died)
    assert [PartState.FAILING] * 2 == [check.examine()[process_part(RECEIVER)].state for _look in range(2)]
    assert ["failed"] == reports.events
    server.is_stopping = True
    assert WORKS == check.examine()
    assert server._socket is not None
    server._socket.close()  # `stop` needs the thread that has ended
    server.loop.close()


def test_a_receiver_whose_commit_thread_has_ended_reports_a_failure() -> None:
    """Without the report, senders would wait forever. A stopping receiver is not a failure."""
    server, receiver, reports = (
        Mock(accept_loop_died=False, is_stopping=False),
        working_receiver(),
        Reports(),
    )
    check = ReceiverCheck(server, receiver, reports)  # type: ignore[arg-type] # as above
    assert WORKS == check.examine()
    receiver.commits_are_alive = False
    assert [PartState.FAILING] * 2 == [check.examine()[process_part(RECEIVER)].state for _look in range(2)]
    assert ["failed"] == reports.events
    server.is_stopping = True
    assert WORKS == check.examine()


def test_a_receiver_whose_storage_was_replaced_is_red_and_is_not_restarted() -> None:
    """A restart would end open associations, and would not help. The part recovers with the next stored instance."""
    server, reports = Mock(accept_loop_died=False, is_stopping=False), Reports()
    receiver = working_receiver()
    receiver.storage_problem = "segment 1 was replaced"
    check = ReceiverCheck(server, receiver, reports)  # type: ignore[arg-type] # as above
    finding = PartFinding(state=PartState.FAILING, reason="segment 1 was replaced")
    assert {**WORKS, process_part(RECEIVER): finding} == check.examine()
    receiver.storage_problem = ""
    assert WORKS == check.examine()
    assert [] == reports.events
