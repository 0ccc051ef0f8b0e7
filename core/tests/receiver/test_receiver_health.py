"""A receiver notices that it takes no connections any more, and says so to the service and in the ledger."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

from dicom_adapter.config.listening import DicomConfig
from dicom_adapter.ledger.health import RECEIVER, PartState
from dicom_adapter.net.server import DicomServer
from dicom_adapter.receiver.__main__ import Listener
from dicom_adapter.runtime.parts import process_part
from dicom_adapter.runtime.watch import PartFinding

SECONDS = 30  # that a thread may take to end


class Reports:
    """The channel to the service."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def report(self, event: str, **_fields: Any) -> None:
        self.told.append(event)


def test_a_receiver_whose_accepting_thread_has_ended_asks_to_begin_again() -> None:
    """Once, and it is red until it does; an orderly stop is no reason.

    Tried: `accept_loop_died` that does not look at the thread, and a report at every look.
    """
    server, reports = DicomServer(DicomConfig(port=0, bind="127.0.0.1"), Mock()), Reports()
    listener = Listener(server, Mock(commits=True), reports)  # type: ignore[arg-type] # all of a channel that it uses
    server.start()
    assert {process_part(RECEIVER): PartFinding()} == listener.examine()
    server.loop.call_soon_threadsafe(server.loop.stop)
    server._thread.join(SECONDS)
    assert [PartState.FAILING] * 2 == [listener.examine()[process_part(RECEIVER)].state for _look in range(2)]
    assert ["failed"] == reports.told
    server.is_stopping = True
    assert {process_part(RECEIVER): PartFinding()} == listener.examine()
    assert server._socket is not None
    server._socket.close()
    server.loop.close()


def test_a_receiver_that_commits_no_more_asks_to_begin_again() -> None:
    """Its senders would wait for ever; a receiver that is being stopped has a reason."""
    server, receiver, reports = Mock(accept_loop_died=False, is_stopping=False), Mock(commits=True), Reports()
    listener = Listener(server, receiver, reports)  # type: ignore[arg-type] # as above
    assert {process_part(RECEIVER): PartFinding()} == listener.examine()
    receiver.commits_are_alive = False
    assert [PartState.FAILING] * 2 == [listener.examine()[process_part(RECEIVER)].state for _look in range(2)]
    assert ["failed"] == reports.told
    server.is_stopping = True
    assert {process_part(RECEIVER): PartFinding()} == listener.examine()
