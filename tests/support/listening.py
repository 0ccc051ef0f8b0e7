"""A server for tests of connections: the server listens on a real port and accepts every association."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from dicom_adapter.api.receiving import (
    AssociationDecision,
    AssociationRequest,
    RejectedPeer,
    StoreOutcome,
    StoreRequest,
    StoreResult,
)
from dicom_adapter.config.listening import DicomConfig
from dicom_adapter.flow.store.incoming import IncomingInstance
from dicom_adapter.net.server import DicomServer
from dicom_adapter.net.storage_scp import ClosedAssociation, Deliver

SECONDS = 30  # time limit of each wait
STORED = StoreResult(outcome=StoreOutcome.IGNORED, reason="nothing is stored")


class Decisions:
    """Decisions that accept every association, store nothing, and record requests and ends of associations."""

    def __init__(self) -> None:
        self.requests: list[AssociationRequest] = []
        self.ended: list[ClosedAssociation] = []
        self.rejected: list[RejectedPeer] = []
        self.open: list[tuple[int, ...]] = []  # for each request, the open associations: all, and those of the peer
        self.cut_off = 0  # number of instances whose data sets were incomplete
        self.alone: list[bool] = []  # for each instance, whether no other connection was open

    def start(self, _loop: object, _deliver: object, has_one_connection: Callable[[], bool]) -> None:
        self._has_one_connection = has_one_connection

    def decide_at_once(self, *_request: object) -> AssociationDecision | None:
        return None

    def decide(self, association_id: str, request: AssociationRequest, *others: int) -> AssociationDecision:
        self.requests.append(request)
        self.open.append(others)
        return AssociationDecision()

    def begin_store(self, request: StoreRequest, refusal: StoreResult | None = None) -> IncomingInstance:
        return IncomingInstance(request, refusal or STORED)

    def complete_store(self, incoming: IncomingInstance, _ticket: object) -> StoreResult | None:
        assert incoming.refusal is not None
        self.alone.append(self._has_one_connection())
        return incoming.refusal

    def peer_rejected(self, rejected: RejectedPeer) -> None:
        self.rejected.append(rejected)

    def abort_store(self, incoming: IncomingInstance) -> None:
        self.cut_off += 1
        incoming.discard()

    def association_closed(self, closed: ClosedAssociation) -> None:
        self.ended.append(closed)


class SlowCommits(Decisions):
    """Accepts every association. The test decides when the results of instances are delivered."""

    def __init__(self) -> None:
        super().__init__()
        self.completed: SimpleQueue[Any] = SimpleQueue()  # tickets
        self.count = 0  # number of complete instances

    def start(self, loop: asyncio.AbstractEventLoop, deliver: Deliver, has_one_connection: Callable[[], bool]) -> None:
        super().start(loop, deliver, has_one_connection)
        self._loop, self._deliver = loop, deliver

    def begin_store(self, request: StoreRequest, refusal: StoreResult | None = None) -> IncomingInstance:
        return IncomingInstance(request, refusal or STORED)

    def complete_store(self, incoming: IncomingInstance, ticket: object) -> StoreResult | None:
        self.count += 1
        self.completed.put(ticket)
        return None

    def commit(self, ticket: Any) -> None:
        self._loop.call_soon_threadsafe(self._deliver, [(ticket, STORED)])


class Listening:
    """A listening server with its decisions and its log."""

    def __init__(self, dicom: DicomConfig, logged: list[Any], decisions: Decisions | None = None) -> None:
        self.decisions = decisions or Decisions()
        self.server = DicomServer(dicom, self.decisions)
        self.port = self.server.start()
        self._logged = logged

    def logged(self, event: str) -> list[Any]:
        """Return the log entries of one event."""
        return [entry for entry in list(self._logged) if entry["event"] == event]

    def wait_for(self, event: str, times: int = 1) -> Any:
        """Wait until the event has been logged this number of times, and return the last entry."""
        wait_until(lambda: len(self.logged(event)) >= times)
        return self.logged(event)[times - 1]

    def stop(self) -> None:
        """Stop without waiting for open associations."""
        if not self.server.is_stopping:
            self.server.stop(0)


Listen = Callable[..., Listening]


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll a condition that no event reports."""
    pause = threading.Event()
    for _try in range(SECONDS * 50):
        if condition():
            return
        pause.wait(0.02)
    raise AssertionError("the condition did not become true in time")
