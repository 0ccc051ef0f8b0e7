"""The listening side: every association of a receiver in one event loop, on a thread of its own.

`Connection` joins a socket with an `Acceptor`, which knows the protocol, and `Handlers`, which decide. What may take
time (a judgement, an instance to be kept) happens on other threads; while an instance is being kept nothing is read
from its connection, so that a sender is never faster than that.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar, cast
from uuid import uuid4

import structlog
from attrs import define, frozen

from dicom_adapter.config.model import Dicom
from dicom_adapter.errors import describe_failure
from dicom_adapter.flow.association import AssociationRequest, Rejection, Verdict
from dicom_adapter.flow.store import Answer, Received, Status
from dicom_adapter.net.acceptor import Acceptor, StoreBegun, StoreBroken, StoreEnded
from dicom_adapter.net.associate import AnsweredContext
from dicom_adapter.net.dimse import Command
from dicom_adapter.net.negotiation import negotiate
from dicom_adapter.net.upper_layer import Ended, ReleaseRequested, Requested
from dicom_adapter.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

log = structlog.get_logger("dicom_adapter.net")

BACKLOG = 1024  # connections that may wait to be taken
SPARE_CONNECTIONS = 100  # beside the associations: those that have yet to request one, or to close
RECEIVE_BUFFER = 1 << 18  # bytes read at a time; one buffer for all, since everything is taken from it at once
THREADS = 32  # for what takes time
ABORT_SECONDS = 2.0  # for peers to close their connections after an A-ABORT; then they are dropped

T = TypeVar("T")


@frozen(kw_only=True)
class Closed:
    """An association that was accepted and has ended."""

    association_id: str
    request: AssociationRequest
    how: str  # "released", "aborted" or "lost"
    statuses: Mapping[str, int]  # how many C-STOREs were answered with which status, by name


class Handlers(Protocol):
    """What the receiver decides. Called from several threads."""

    def requested(self, association_id: str, request: AssociationRequest, associations: int) -> Verdict:
        """Accept? `associations` are open already."""

    def store(self, received: Received) -> Answer:
        """Keep it?"""

    def closed(self, closed: Closed) -> None:
        """An accepted association has ended."""


class Server:
    """Listens from `start` to `stop`, both called from outside of its thread."""

    def __init__(self, dicom: Dicom, handlers: Handlers) -> None:
        self.dicom = dicom
        self.handlers = handlers
        self.connections: set[Connection] = set()
        self.buffer = memoryview(bytearray(RECEIVE_BUFFER))
        self.loop = asyncio.new_event_loop()
        self.is_stopping = False
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="store")
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)
        self._socket: socket.socket | None = None
        self._listener: asyncio.Server | None = None

    def start(self) -> int:
        """Bind and listen; returns the port. Raises OSError when that is not possible."""
        self._socket = socket.socket(socket.AF_INET6 if ":" in self.dicom.bind else socket.AF_INET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((self.dicom.bind, self.dicom.port))
        except OSError:
            self._socket.close()
            raise
        port: int = self._socket.getsockname()[1]
        self._thread.start()
        self._call(self._listen())
        return port

    @property
    def is_deaf(self) -> bool:
        """Whether it takes no connections any more although nobody has stopped it."""
        return not self._thread.is_alive() and not self.is_stopping

    def stop(self, drain_seconds: float) -> None:
        """Take no more connections, wait for open associations that long, then abort what is left."""
        self.is_stopping = True
        self._call(self._drain(drain_seconds))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self._pool.shutdown(wait=False)
        self.loop.close()

    def in_the_background(self, act: Callable[[], T], then: Callable[[T], None]) -> None:
        """Call `act` on another thread, then `then` with its result in the loop. `act` must not raise."""

        def both() -> None:
            result = act()
            self.loop.call_soon_threadsafe(then, result)

        self._pool.submit(both)

    @property
    def associations(self) -> int:
        """Accepted ones, and those that are being judged."""
        return sum(1 for connection in self.connections if connection.counts)

    def _run(self) -> None:
        self.loop.run_forever()

    def _call(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    async def _listen(self) -> None:
        assert self._socket is not None  # bound before
        self._listener = await self.loop.create_server(lambda: Connection(self), sock=self._socket, backlog=BACKLOG)

    async def _drain(self, seconds: float) -> None:
        assert self._listener is not None  # listening
        self._listener.close()
        await self._until_nothing_is_open(seconds)
        for connection in list(self.connections):
            connection.abort()
        await self._until_nothing_is_open(ABORT_SECONDS)
        for connection in list(self.connections):
            connection.drop()

    async def _until_nothing_is_open(self, seconds: float) -> None:
        deadline = self.loop.time() + seconds
        while self.connections and self.loop.time() < deadline:
            await asyncio.sleep(0.01)


@define
class _Association:
    """What is known of an association from its request on."""

    association_id: str
    request: AssociationRequest
    statuses: dict[str, int]
    is_accepted: bool = False
    how: str = "lost"


@define
class _Incoming:
    """A C-STORE whose data set is on its way."""

    context: AnsweredContext
    data_set: bytearray


class Connection(asyncio.BufferedProtocol):
    """One connection, from its accept to its close. Lives in the loop."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._acceptor = Acceptor(server.dicom.max_pdu)
        self._association: _Association | None = None
        self._incoming: _Incoming | None = None
        self._waits = 0  # instances that are being kept; nothing is read meanwhile
        self._peer_is_slow = False  # to read what it is sent
        self._last_heard = server.loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._artim_since: float | None = self._last_heard

    @property
    def counts(self) -> bool:
        """Whether it is one of the associations that are limited in number."""
        return self._association is not None

    # --- called by asyncio ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        address = self._transport.get_extra_info("peername")
        self._peer = str(address[0]).partition("%")[0] if address else ""
        self._server.connections.add(self)
        if len(self._server.connections) > self._server.dicom.max_associations + SPARE_CONNECTIONS:
            log.warning("connection_refused", peer=self._peer, connections=len(self._server.connections))
            self._transport.abort()
            return
        self._watch()

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint  # as much as there is
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._last_heard = self._server.loop.time()
        for happening in self._acceptor.receive(self._server.buffer[:nbytes]):
            self._take(happening)
        self._flush()

    def pause_writing(self) -> None:
        self._peer_is_slow = True
        self._read_or_not()

    def resume_writing(self) -> None:
        self._peer_is_slow = False
        self._read_or_not()

    def connection_lost(self, _reason: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for happening in self._acceptor.closed():
            self._take(happening)
        self._server.connections.discard(self)
        self._end_association()

    # --- what happens -----------------------------------------------------------------------------------------------

    def _take(self, happening: object) -> None:
        if isinstance(happening, memoryview):
            assert self._incoming is not None  # StoreBegun came before
            self._incoming.data_set += happening
        elif isinstance(happening, Requested):
            self._requested(happening)
        elif isinstance(happening, StoreBegun):
            self._incoming = _Incoming(happening.context, bytearray())
        elif isinstance(happening, StoreEnded):
            self._store(happening.command)
        elif isinstance(happening, StoreBroken):
            self._incoming = None
        elif isinstance(happening, ReleaseRequested):
            self._note_end("released")
        elif isinstance(happening, Ended):
            self._ended(happening)

    def _requested(self, requested: Requested) -> None:
        if self._server.associations < self._server.dicom.max_associations:
            self._judge(requested)
        else:  # perhaps a peer has left and that has yet to be read, which the loop does before the second of these
            self._server.loop.call_soon(self._server.loop.call_soon, self._judge, requested)

    def _judge(self, requested: Requested) -> None:
        others = self._server.associations
        request = AssociationRequest(
            called_ae_title=requested.request.called_ae_title,
            calling_ae_title=requested.request.calling_ae_title,
            peer_address=self._peer,
        )
        association = self._association = _Association(uuid4().hex, request, {})
        if self._server.is_stopping:
            self._judged(Verdict(rejection=Rejection.TEMPORARY_CONGESTION, why="the service is stopping"))
            return

        def judge() -> Verdict:
            try:
                return self._server.handlers.requested(association.association_id, request, others)
            except Exception as failure:  # noqa: BLE001 - whatever it is, nobody is accepted for it
                error = describe_failure(failure)
                log.error("association_not_judged", association_id=association.association_id, error=error)
                return Verdict(rejection=Rejection.TEMPORARY_CONGESTION, why="it could not be judged")

        self._server.in_the_background(judge, self._judged)  # reading on, to see when the peer leaves

    def _judged(self, verdict: Verdict) -> None:
        if self._association is None:  # the peer has left
            return
        if verdict.rejection is not None:
            self._acceptor.reject(*verdict.rejection.value)
            self._association = None
        else:
            assert self._acceptor.request is not None  # it was judged
            self._association.is_accepted = True
            ours = (IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME)
            self._acceptor.accept(negotiate(self._acceptor.request.contexts), ours)
        self._flush()

    def _store(self, command: Command) -> None:
        incoming, self._incoming = self._incoming, None
        assert incoming is not None  # StoreBegun came before
        assert self._association is not None  # accepted
        if command.sop_class_uid != incoming.context.abstract_syntax:
            why = "its SOP class is not that of its presentation context"
            self._answer(command, Answer(status=Status.SOP_CLASS_NOT_SUPPORTED, why=why))
            return
        request = self._association.request
        received = Received(
            ae_title=request.called_ae_title,
            calling_ae_title=request.calling_ae_title,
            peer_address=request.peer_address,
            association_id=self._association.association_id,
            sop_class_uid=command.sop_class_uid,
            sop_instance_uid=command.sop_instance_uid,
            transfer_syntax_uid=incoming.context.transfer_syntax,
            data_set=bytes(incoming.data_set),
        )
        self._waits += 1
        self._read_or_not()
        self._server.in_the_background(lambda: self._keep(received), lambda answer: self._kept(command, answer))

    def _keep(self, received: Received) -> Answer:
        try:
            return self._server.handlers.store(received)
        except Exception as failure:  # noqa: BLE001 - whatever it is, the peer must not take it for kept
            log.error("store_failed", error=describe_failure(failure))
            return Answer(status=Status.PROCESSING_FAILURE, why="it could not be kept")

    def _kept(self, command: Command, answer: Answer) -> None:
        self._waits -= 1
        self._last_heard = self._server.loop.time()  # the peer has had to wait for us
        self._answer(command, answer)
        self._flush()
        self._read_or_not()

    def _answer(self, command: Command, answer: Answer) -> None:
        if self._association is not None:
            statuses = self._association.statuses
            statuses[answer.status.name] = statuses.get(answer.status.name, 0) + 1
        comment = "" if answer.status is Status.SUCCESS else answer.why
        self._acceptor.answer(command, answer.status, comment)

    def _ended(self, ended: Ended) -> None:
        self._note_end("lost" if ended.how == "lost" else "aborted")
        if ended.how == "violation":
            log.warning("protocol_violated", peer=self._peer, reason=ended.why)

    def _note_end(self, how: str) -> None:
        if self._association is not None:
            self._association.how = how

    def _end_association(self) -> None:
        association, self._association = self._association, None
        if association is not None and association.is_accepted:
            self._server.handlers.closed(
                Closed(
                    association_id=association.association_id,
                    request=association.request,
                    how=association.how,
                    statuses=association.statuses,
                )
            )

    # --- time and flow -------------------------------------------------------------------------------------

    def _read_or_not(self) -> None:
        if self._transport.is_closing():
            return
        if self._waits or self._peer_is_slow:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

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
