"""`Connection`: combines a socket, the protocol (`Acceptor`), and the decisions of the receiver (`StorageScp`).

The pieces of a data set are passed to the receiver as they arrive. The connection is read while instances are being
committed, but only up to a limit: reading is paused for a sender that does not wait for responses (back-pressure).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast
from uuid import uuid4

import structlog

from dicom_adapter.api.receiving import (
    AssociationDecision,
    AssociationRequest,
    IncomingDataSet,
    RejectedPeer,
    RejectionCause,
    StoreOutcome,
    StoreRequest,
    StoreResult,
)
from dicom_adapter.config.listening import DicomConfig
from dicom_adapter.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_adapter.net.acceptor import Acceptor, StoreAborted, StoreCompleted, StoreRequested
from dicom_adapter.net.admission import Admission
from dicom_adapter.net.codes import C_STORE_STATUS, REJECT_REASON, CStoreStatus
from dicom_adapter.net.deadlines import Deadlines, describe_timeout, seconds_between_checks
from dicom_adapter.net.dimse import Command
from dicom_adapter.net.indications import AssociateIndication, AssociationEnd, ProviderRejection, ReleaseIndication
from dicom_adapter.net.negotiation import describe_declined, negotiate
from dicom_adapter.net.request_reports import report_irregularities, report_provider_rejection
from dicom_adapter.net.requested_association import RequestedAssociation
from dicom_adapter.net.storage_scp import STOPPING, StorageScp, decide_at_once_safely, decide_safely
from dicom_adapter.net.tls import certificate_names

log = structlog.get_logger("dicom_adapter.net")

MAX_UNCOMMITTED = 4  # instances of a connection that may wait for their commit before reading is paused
CLOSE_SECONDS = 2.0  # time in which the peer must close the connection after the end of its association
SHORTEST_PAUSE = 0.1  # seconds between two checks of the deadlines
IMPLEMENTATION = (IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME)

T = TypeVar("T")


class Endpoint(Protocol):
    """The part of the DICOM server that its connections use and share."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    @property
    def dicom(self) -> DicomConfig: ...

    @property
    def scp(self) -> StorageScp[Any]: ...

    @property
    def admission(self) -> Admission: ...

    @property
    def buffer(self) -> memoryview:
        """Memory for received bytes, used by one connection at a time."""

    @property
    def is_stopping(self) -> bool: ...

    def run_in_background(self, function: Callable[[], T], then: Callable[[T], None]) -> None:
        """Call `function` on another thread, then `then` with its result in the loop. `function` must not raise."""

    def connection_opened(self, connection: Connection) -> None: ...

    def association_ended(self, connection: Connection) -> None:
        """Record that the association of the connection has ended, and that only its close is awaited."""

    def connection_closed(self, connection: Connection) -> None: ...


class Connection(asyncio.BufferedProtocol):
    """One connection, from accept to close. Not thread-safe: used in the event loop only."""

    def __init__(self, endpoint: Endpoint, peer: str) -> None:
        """`peer`: the IP address of the peer."""
        self.peer = peer
        self.is_open = False  # True from `connection_made` on
        self.is_half_closed = False  # the peer sends nothing more
        self.has_ended = False  # no association is open, and none can be requested any more
        self.association: RequestedAssociation | None = None  # set while the association is counted by `Admission`
        self._endpoint = endpoint
        self._buffer = endpoint.buffer
        self._loop = endpoint.loop
        self._acceptor = Acceptor(endpoint.dicom.max_pdu)
        self._incoming: IncomingDataSet | None = None
        self._pieces: list[memoryview] = []  # pieces of the current data set: views of the received bytes
        self._uncommitted = 0  # complete instances without a result
        self._peer_reads_slowly = False
        self._is_paused = False
        self._opened_at = self._loop.time()
        self._deadlines = Deadlines(self._acceptor, is_pdu_limited=bool(endpoint.dicom.max_pdu), now=self._opened_at)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def has_association(self) -> bool:
        """True from the request of an association to its end."""
        return self._acceptor.request is not None and not self.has_ended

    # --- called by asyncio --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True
        self._endpoint.connection_opened(self)
        self._check_deadline()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio defines the parameter
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        for event in self._acceptor.receive(self._buffer[:nbytes]):
            if isinstance(event, memoryview):
                self._pieces.append(event)
            else:
                self._write_pieces()
                self._handle(event)
        self._write_pieces()
        self._flush()
        self._deadlines.received(self._loop.time())

    def eof_received(self) -> bool:
        """Return whether the connection stays open.

        The connection stays open until the last response is sent, because the peer may have closed only its sending
        side. Otherwise the association ends at once, so that it does not count when the peer requests the next one.
        """
        self.is_half_closed = True
        for event in self._acceptor.input_ended():
            self._handle(event)
        if self._uncommitted and not self.has_ended and self._transport.get_extra_info("sslcontext") is None:
            return True
        self._handle_disconnect()
        self._end()
        return False  # always with TLS: asyncio cannot send after the end of the input

    def pause_writing(self) -> None:
        self._peer_reads_slowly = True
        self._update_reading()

    def resume_writing(self) -> None:
        self._peer_reads_slowly = False
        self._update_reading()

    def connection_lost(self, _reason: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._handle_disconnect()
        self._endpoint.connection_closed(self)

    # --- events -------------------------------------------------------------------------------------------------------

    def _write_pieces(self) -> None:
        if self._pieces:
            assert self._incoming is not None  # after StoreRequested
            self._incoming.write(self._pieces)
            self._pieces.clear()

    def _handle(self, event: object) -> None:
        if isinstance(event, StoreRequested):
            self._begin_store(event)
        elif isinstance(event, StoreCompleted):
            self._complete_store(event.command)
        elif isinstance(event, StoreAborted):
            assert self._incoming is not None  # after StoreRequested
            self._endpoint.scp.abort_store(self._incoming)
            self._incoming = None
        elif isinstance(event, AssociateIndication):
            self._request_association(event)
        elif isinstance(event, ProviderRejection):
            report_provider_rejection(event.request, self.peer, self._endpoint.scp)
        elif isinstance(event, ReleaseIndication):
            self._set_end("released")
        elif isinstance(event, AssociationEnd):
            self._handle_end(event)

    def _request_association(self, indication: AssociateIndication) -> None:
        report_irregularities(indication.request, self.peer)
        request = AssociationRequest(
            called_ae_title=indication.request.called_ae_title,
            calling_ae_title=indication.request.calling_ae_title,
            peer_address=self.peer,
            certificate_names=certificate_names(self._transport.get_extra_info("peercert")),
        )
        self._endpoint.admission.request_slot(self.peer, lambda *counts: self._decide(request, *counts))

    def _decide(self, request: AssociationRequest, associations: int, associations_of_peer: int) -> None:
        """Request the decision about an association. The numbers are those of open associations, see `StorageScp`."""
        if self.has_ended or self._transport.is_closing():  # the peer disconnected while the request waited
            return
        association = self.association = RequestedAssociation(uuid4().hex, request, self._loop.time())
        self._endpoint.admission.open_association(self.peer)
        if self._endpoint.is_stopping:
            self._respond(STOPPING)
            return
        about = self._endpoint.scp, association.association_id, request, associations, associations_of_peer
        decision = decide_at_once_safely(*about)
        if decision is not None:
            self._respond(decision)
            return

        # Reading is not paused meanwhile, to notice when the peer disconnects.
        self._endpoint.run_in_background(lambda: decide_safely(*about), self._respond)

    def _respond(self, decision: AssociationDecision) -> None:
        if self.association is None:  # the association has ended already
            return
        if decision.rejection is not None:
            self._endpoint.scp.peer_rejected(RejectedPeer.by(decision, self.association.request))
            self._acceptor.reject(*REJECT_REASON[decision.rejection])
            self._close_association()
        else:
            self._accept(self.association, decision)
        self._flush()

    def _accept(self, association: RequestedAssociation, decision: AssociationDecision) -> None:
        assert self._acceptor.request is not None  # the decision is about this request
        proposed = self._acceptor.request.contexts
        results = negotiate(proposed, decision.contexts)
        association.is_accepted = True
        self._acceptor.accept(results, IMPLEMENTATION)
        declined = describe_declined(proposed, results, decision.contexts)
        if declined:
            log.info(
                "presentation_contexts_declined",
                association_id=association.association_id,
                ae_title=association.request.called_ae_title,
                calling_ae_title=association.request.calling_ae_title,
                peer=self.peer,
                declined=declined,
            )

    def _begin_store(self, requested: StoreRequested) -> None:
        assert self.association is not None  # it was accepted
        request = StoreRequest(
            ae_title=self.association.request.called_ae_title,
            calling_ae_title=self.association.request.calling_ae_title,
            peer_address=self.peer,
            association_id=self.association.association_id,
            sop_class_uid=requested.command.sop_class_uid,
            sop_instance_uid=requested.command.sop_instance_uid,
            transfer_syntax_uid=requested.context.transfer_syntax,
        )
        refusal = None
        if request.sop_class_uid != requested.context.abstract_syntax:
            reason = "its SOP class is not the abstract syntax of its presentation context"
            refusal = StoreResult(outcome=StoreOutcome.SOP_CLASS_NOT_SUPPORTED, reason=reason)
        self._incoming = self._endpoint.scp.begin_store(request, refusal)

    def _complete_store(self, command: Command) -> None:
        incoming, self._incoming = self._incoming, None
        assert incoming is not None  # after StoreRequested
        result = self._endpoint.scp.complete_store(incoming, (self, command))
        if result is not None:
            self._answer(command, result)
        else:
            self._uncommitted += 1
            self._update_reading()

    def deliver(self, command: Command, result: StoreResult) -> None:
        """Answer a C-STORE for which `complete_store` returned None."""
        self._uncommitted -= 1
        self._deadlines.answered(self._loop.time())
        self._answer(command, result)
        self._flush()
        if self.is_half_closed and not self._uncommitted:
            self._handle_disconnect()
            self._end()
            self._transport.close()
        self._update_reading()

    def _answer(self, command: Command, result: StoreResult) -> None:
        status = C_STORE_STATUS[result.outcome]
        if self.association is not None:
            self.association.count(status, result)
        comment = "" if status is CStoreStatus.SUCCESS else result.reason
        self._acceptor.answer(command, status, comment)

    def _handle_end(self, end: AssociationEnd) -> None:
        self._set_end("lost" if end.how == "lost" else "aborted")
        if end.how == "violation":
            log.warning("protocol_violated", peer=self.peer, reason=end.reason)
            if self._acceptor.request is None:
                rejected = RejectedPeer(peer_address=self.peer, cause=RejectionCause.NOT_DICOM, reason=end.reason)
                self._endpoint.scp.peer_rejected(rejected)

    def _set_end(self, how: str) -> None:
        if self.association is not None:
            self.association.how = how

    def _handle_disconnect(self) -> None:
        for event in self._acceptor.closed():
            self._handle(event)
        self._close_association()

    def _close_association(self) -> None:
        """Report the end of the association and free its slot. Idempotent."""
        association, self.association = self.association, None
        if association is None:
            return
        if association.is_accepted:
            self._endpoint.scp.association_closed(association.closed(self._loop.time()))
        self._endpoint.admission.close_association(self.peer)

    # --- time and back-pressure ---------------------------------------------------------------------------------------

    def _update_reading(self) -> None:
        is_paused = self._uncommitted >= MAX_UNCOMMITTED or self._peer_reads_slowly
        if is_paused is not self._is_paused and not self._transport.is_closing():
            self._is_paused = is_paused
            if not is_paused:
                self._deadlines.restart(self._loop.time())
            (self._transport.pause_reading if is_paused else self._transport.resume_reading)()

    def _flush(self) -> None:
        outgoing = self._acceptor.take_outgoing()
        if outgoing and not self._transport.is_closing():
            self._transport.write(outgoing)
        if self._acceptor.has_ended:
            self._end()

    def _end(self) -> None:
        """Stop counting the association, and limit the time until the connection is closed. Idempotent."""
        if not self._uncommitted:  # otherwise the last results of the association are not counted yet
            self._close_association()
        if not self.has_ended:
            self.has_ended = True
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(CLOSE_SECONDS, self.drop)
            self._endpoint.association_ended(self)
        if self._acceptor.is_to_close:
            self._transport.close()

    def _check_deadline(self) -> None:
        """Abort the association or close the connection if a deadline has passed; else check again at the next one.

        Received bytes move the deadline but do not change the timer.
        """
        dicom, now = self._endpoint.dicom, self._loop.time()
        deadline, field = self._deadlines.earliest(dicom)
        if self._acceptor.artim_runs:
            deadline = self._opened_at + dicom.association_timeout
        if deadline > now or self._uncommitted:
            next_check = max(min(deadline, now + seconds_between_checks(dicom)), now + SHORTEST_PAUSE)
            self._timer = self._loop.call_at(next_check, self._check_deadline)
        elif self._acceptor.artim_runs:
            self._acceptor.artim_expired()
            self.drop()
        else:
            log.warning("association_timed_out", peer=self.peer, reason=describe_timeout(dicom, field))
            self.abort()

    def abort(self) -> None:
        """Abort the association. The peer is expected to close the connection."""
        self._set_end("aborted")
        self._acceptor.abort()
        self._flush()

    def drop(self) -> None:
        """Close the connection without sending anything."""
        self._transport.abort()
