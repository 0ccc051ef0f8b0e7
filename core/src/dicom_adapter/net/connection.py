"""One connection: a socket joined with an `Acceptor`, which knows the protocol, and `Handlers`, which decide.

The pieces of a data set go on as they come. While an instance is being committed its connection is read on, but not
without end: a sender that does not wait for answers is stopped by not reading.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, cast
from uuid import uuid4

import structlog
from attrs import define, frozen

from dicom_adapter.api.errors import describe_failure
from dicom_adapter.api.receiving import (
    AssociationDecision,
    AssociationRequest,
    IncomingDataSet,
    Rejection,
    StoreOutcome,
    StoreRequest,
    StoreResult,
)
from dicom_adapter.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_adapter.net.acceptor import Acceptor, StoreBegun, StoreBroken, StoreEnded
from dicom_adapter.net.codes import C_STORE_STATUS, REJECT_REASON, CStoreStatus
from dicom_adapter.net.dimse import Command
from dicom_adapter.net.negotiation import negotiate
from dicom_adapter.net.tls import certificate_names
from dicom_adapter.net.upper_layer import Ended, ReleaseRequested, Requested

if TYPE_CHECKING:
    from dicom_adapter.net.server import Server

log = structlog.get_logger("dicom_adapter.net")

Deliver: TypeAlias = Callable[[Sequence[tuple[Any, StoreResult]]], None]  # answers, each with its ticket

UNANSWERED = 4  # instances of a connection that may wait for their commit; then nothing is read from it
OURS = (IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME)


@frozen(kw_only=True)
class Closed:
    """An association that was accepted and has ended."""

    association_id: str
    request: AssociationRequest
    how: str  # "released", "aborted" or "lost"
    statuses: Mapping[str, int]  # how many C-STOREs were answered with which status, by name


DataSetT = TypeVar("DataSetT", bound=IncomingDataSet)


class Handlers(Protocol[DataSetT]):
    """What the receiver decides. But for `requested`, all is called in the loop, and must be quick."""

    def start(self, loop: asyncio.AbstractEventLoop, deliver: Deliver, has_one_connection: Callable[[], bool]) -> None:
        """Called once, before all others. `deliver` receives, in the loop, answers with the tickets passed to `end`.

        `has_one_connection()` is called in the loop: whether no other connection is open or about to be.
        """

    def requested(
        self, association_id: str, request: AssociationRequest, associations: int, of_peer: int
    ) -> AssociationDecision:
        """Accept? `associations` are open already, so many of them of this peer.

        Called on several threads: it may take its time.
        """

    def begin(self, request: StoreRequest, refusal: StoreResult | None = None) -> DataSetT:
        """Prepare for the data set of an instance. `refusal`: it is already refused; do not store it."""

    def end(self, incoming: DataSetT, ticket: object) -> StoreResult | None:
        """Complete an instance. Returns None if the answer will be delivered later, with `ticket`."""

    def closed(self, closed: Closed) -> None:
        """An accepted association has ended."""


@define
class _Association:
    """What is known of an association from its request on."""

    association_id: str
    request: AssociationRequest
    statuses: dict[str, int]
    is_accepted: bool = False
    how: str = "lost"


class Connection(asyncio.BufferedProtocol):
    """From its accept to its close. Lives in the loop."""

    def __init__(self, server: Server, peer: str) -> None:
        """`peer`: its address."""
        self.peer = peer
        self.has_begun = False
        self.association: _Association | None = None  # when it is one of those that are limited in number
        self._server = server
        self._acceptor = Acceptor(server.dicom.max_pdu)
        self._incoming: IncomingDataSet | None = None
        self._pieces: list[memoryview] = []  # of its data set, from the buffer that is just being read
        self._waits = 0  # instances that are being committed
        self._peer_is_slow = False  # to read what it is sent
        self._is_paused = False
        self._last_heard = server.loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._artim_since: float | None = self._last_heard

    # --- called by asyncio ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.has_begun = True
        self._server.came(self)
        self._watch()

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint  # as much as there is
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._last_heard = self._server.loop.time()
        for happening in self._acceptor.receive(self._server.buffer[:nbytes]):
            if isinstance(happening, memoryview):
                self._pieces.append(happening)
            else:
                self._pass_pieces_on()
                self._take(happening)
        self._pass_pieces_on()
        self._flush()

    def eof_received(self) -> None:
        self._disconnected()  # at once: whoever comes next must find its place free

    def pause_writing(self) -> None:
        self._peer_is_slow = True
        self._read_or_not()

    def resume_writing(self) -> None:
        self._peer_is_slow = False
        self._read_or_not()

    def connection_lost(self, _reason: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._disconnected()
        self._server.gone(self)

    # --- what happens -----------------------------------------------------------------------------------------------

    def _pass_pieces_on(self) -> None:
        if self._pieces:
            assert self._incoming is not None  # StoreBegun came before
            self._incoming.write(self._pieces)
            self._pieces.clear()

    def _take(self, happening: object) -> None:
        if isinstance(happening, StoreBegun):
            self._begin(happening)
        elif isinstance(happening, StoreEnded):
            self._end(happening.command)
        elif isinstance(happening, StoreBroken):
            assert self._incoming is not None  # StoreBegun came before
            self._incoming.discard()
            self._incoming = None
        elif isinstance(happening, Requested):
            self._requested(happening)
        elif isinstance(happening, ReleaseRequested):
            self._note_end("released")
        elif isinstance(happening, Ended):
            self._ended(happening)

    def _requested(self, requested: Requested) -> None:
        request = AssociationRequest(
            called_ae_title=requested.request.called_ae_title,
            calling_ae_title=requested.request.calling_ae_title,
            peer_address=self.peer,
            certificate_names=certificate_names(self._transport.get_extra_info("peercert")),
        )
        self._server.admission.when_there_is_room(self.peer, lambda *others: self._judge(request, *others))

    def _judge(self, request: AssociationRequest, others: int, of_peer: int) -> None:
        """`others`: associations that are open already; so many of them are this peer's."""
        if self._transport.is_closing():  # the peer has left
            return
        association = self.association = _Association(uuid4().hex, request, {})
        self._server.admission.associated(self.peer)
        if self._server.is_stopping:
            self._judged(
                AssociationDecision(rejection=Rejection.TEMPORARY_CONGESTION, reason="the service is stopping")
            )
            return

        def judge() -> AssociationDecision:
            try:
                return self._server.handlers.requested(association.association_id, request, others, of_peer)
            except Exception as failure:  # noqa: BLE001 - whatever it is, nobody is accepted for it
                error = describe_failure(failure)
                log.error("association_not_judged", association_id=association.association_id, error=error)
                return AssociationDecision(rejection=Rejection.TEMPORARY_CONGESTION, reason="it could not be judged")

        self._server.in_the_background(judge, self._judged)  # reading on, to see when the peer leaves

    def _judged(self, decision: AssociationDecision) -> None:
        if self.association is None:  # the peer has left
            return
        if decision.rejection is not None:
            self._acceptor.reject(*REJECT_REASON[decision.rejection])
            self._leave()
        else:
            assert self._acceptor.request is not None  # it was judged
            self.association.is_accepted = True
            self._acceptor.accept(negotiate(self._acceptor.request.contexts), OURS)
        self._flush()

    def _begin(self, begun: StoreBegun) -> None:
        assert self.association is not None  # accepted
        request = StoreRequest(
            ae_title=self.association.request.called_ae_title,
            calling_ae_title=self.association.request.calling_ae_title,
            peer_address=self.peer,
            association_id=self.association.association_id,
            sop_class_uid=begun.command.sop_class_uid,
            sop_instance_uid=begun.command.sop_instance_uid,
            transfer_syntax_uid=begun.context.transfer_syntax,
        )
        refusal = None
        if request.sop_class_uid != begun.context.abstract_syntax:
            reason = "its SOP class is not that of its presentation context"
            refusal = StoreResult(outcome=StoreOutcome.SOP_CLASS_NOT_SUPPORTED, reason=reason)
        self._incoming = self._server.handlers.begin(request, refusal)

    def _end(self, command: Command) -> None:
        incoming, self._incoming = self._incoming, None
        assert incoming is not None  # StoreBegun came before
        result = self._server.handlers.end(incoming, (self, command))
        if result is not None:
            self._answer(command, result)
        else:
            self._waits += 1
            self._read_or_not()

    def committed(self, command: Command, result: StoreResult) -> None:
        """The answer that `_end` did without."""
        self._waits -= 1
        self._last_heard = self._server.loop.time()  # the peer has had to wait for us
        self._answer(command, result)
        self._flush()
        self._read_or_not()

    def _answer(self, command: Command, result: StoreResult) -> None:
        status = C_STORE_STATUS[result.outcome]
        if self.association is not None:
            statuses = self.association.statuses
            statuses[status.name] = statuses.get(status.name, 0) + 1
        comment = "" if status is CStoreStatus.SUCCESS else result.reason
        self._acceptor.answer(command, status, comment)

    def _ended(self, ended: Ended) -> None:
        self._note_end("lost" if ended.how == "lost" else "aborted")
        if ended.how == "violation":
            log.warning("protocol_violated", peer=self.peer, reason=ended.why)

    def _note_end(self, how: str) -> None:
        if self.association is not None:
            self.association.how = how

    def _disconnected(self) -> None:
        for happening in self._acceptor.closed():
            self._take(happening)
        self._leave()

    def _leave(self) -> None:
        """The association is over, one way or another."""
        association, self.association = self.association, None
        if association is None:
            return
        if association.is_accepted:
            self._server.handlers.closed(
                Closed(
                    association_id=association.association_id,
                    request=association.request,
                    how=association.how,
                    statuses=association.statuses,
                )
            )
        self._server.admission.association_left(self.peer)

    # --- time and flow ----------------------------------------------------------------------------------------------

    def _read_or_not(self) -> None:
        is_paused = self._waits >= UNANSWERED or self._peer_is_slow
        if is_paused is not self._is_paused and not self._transport.is_closing():
            self._is_paused = is_paused
            (self._transport.pause_reading if is_paused else self._transport.resume_reading)()

    def _flush(self) -> None:
        layer = self._acceptor.layer
        outgoing = layer.take_outgoing()
        if outgoing and not self._transport.is_closing():
            self._transport.write(outgoing)
        if not layer.artim_runs:
            self._artim_since = None
        elif self._artim_since is None:
            self._artim_since = self._server.loop.time()
        if layer.is_to_close:
            self._transport.close()

    def _watch(self) -> None:
        """Look at the clock when the nearest deadline may be over: it has moved on with everything that was heard."""
        dicom, now = self._server.dicom, self._server.loop.time()
        if self._artim_since is not None:
            deadline = self._artim_since + dicom.association_timeout
        else:
            deadline = self._last_heard + dicom.idle_timeout
        if deadline > now or self._waits:
            self._timer = self._server.loop.call_at(max(deadline, now + 0.1), self._watch)
        elif self._artim_since is not None:
            self._acceptor.artim_expired()
            self.drop()
        else:
            self.abort()
            self._watch()

    def abort(self) -> None:
        """End the association at once; the peer closes the connection."""
        self._note_end("aborted")
        self._acceptor.abort()
        self._flush()

    def drop(self) -> None:
        """Close the connection without another word."""
        self._transport.abort()
