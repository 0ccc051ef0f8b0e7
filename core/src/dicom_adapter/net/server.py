"""The listening side: every connection of a receiver in one event loop, on a thread of its own.

What may take time happens on other threads: a judgement, and the commit of what has arrived. What is written to the
storage backend is written in the loop, piece by piece: to hand every piece to another thread costs more than that.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Any, TypeVar

import structlog

from dicom_adapter.api.receiving import StoreResult
from dicom_adapter.config.listening import DicomConfig
from dicom_adapter.net.address import plain_address
from dicom_adapter.net.admission import Admission
from dicom_adapter.net.connection import Connection, Handlers
from dicom_adapter.net.dimse import Command
from dicom_adapter.net.proxy import InvalidProxyHeader, ProxyHeader
from dicom_adapter.net.tls import Certificates

log = structlog.get_logger("dicom_adapter.net")

BACKLOG = 1024  # connections that may wait to be taken
RECEIVE_BUFFER = 1 << 18  # bytes read at a time; one buffer for all, since everything is taken from it at once
THREADS = 4  # for judgements
ABORT_SECONDS = 2.0  # for peers to close their connections after an A-ABORT; then they are dropped
ACCEPT_PAUSE_SECONDS = 1.0  # when the system has no descriptors left
RENEW_SECONDS = 2.0  # between two looks whether the certificates have changed

T = TypeVar("T")


class Server:
    """Listens from `start` to `stop`, both called from outside of its thread."""

    def __init__(
        self, dicom: DicomConfig, handlers: Handlers[Any], *, shares_port: bool = False, is_first: bool = False
    ) -> None:
        """`shares_port`: other processes of this service listen on it, too; `is_first`: they are yet to begin."""
        self.dicom = dicom
        self.handlers = handlers
        self._shares_port = shares_port
        self._is_first = is_first
        self.buffer = memoryview(bytearray(RECEIVE_BUFFER))
        self.loop = asyncio.new_event_loop()
        self.is_stopping = False
        self.admission = Admission(dicom, self.loop)
        self._certificates: Certificates | None = None
        self._arriving: set[asyncio.Task[None]] = set()  # those that are no connections yet
        self._connections: set[Connection] = set()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="judge")
        self._thread = threading.Thread(target=self.loop.run_forever, name="network", daemon=True)
        self._socket: socket.socket | None = None

    # --- from outside -----------------------------------------------------------------------------------------------

    def start(self) -> int:
        """Bind and listen; returns the port. Raises OSError when that is not possible, or UnusableCertificate."""
        if self.dicom.tls is not None:
            self._certificates = Certificates(self.dicom.tls)
        self._socket = self._bind()
        self._socket.setblocking(False)
        port: int = self._socket.getsockname()[1]
        self.handlers.start(self.loop, _answer, self.has_one_connection)
        self._thread.start()
        self.loop.call_soon_threadsafe(self._listen)
        self.loop.call_soon_threadsafe(self._renew_certificates)
        return port

    def _bind(self) -> socket.socket:
        """Raises OSError: where a port is shared, too, when it is somebody else's."""
        address = self.dicom.bind, self.dicom.port
        if self._shares_port and self._is_first:
            _bound(address, shares_port=False, backlog=None).close()
        return _bound(address, shares_port=self._shares_port, backlog=BACKLOG)

    def configure(self, dicom: DicomConfig) -> None:
        """Go on with other limits, as far as they are no matter of listening; connections that are open stay."""
        self.dicom = dicom
        self.loop.call_soon_threadsafe(self.admission.limit, dicom)

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

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    # --- connections ------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        assert self._socket is not None  # bound before
        self.loop.add_reader(self._socket, self._accept, self._socket)

    def _accept(self, listening: socket.socket) -> None:
        """Take those that wait, within limits: what is too much is closed before it costs anything."""
        for _number in range(BACKLOG):
            try:
                accepted, address = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as failure:  # no descriptors, or no memory: everybody has to wait
                log.error("connections_not_accepted", errno=failure.errno)
                self.loop.remove_reader(listening)
                self.loop.call_later(ACCEPT_PAUSE_SECONDS, self._listen)
                return
            accepted.setblocking(False)
            peer = plain_address(address[0])
            is_proxy = self._is_proxy(peer)
            if self._enter(accepted, peer, is_proxy=is_proxy):
                arrive = self._connect_through(accepted, peer) if is_proxy else self._connect(accepted, peer)
                task = self.loop.create_task(arrive)
                self._arriving.add(task)
                task.add_done_callback(self._arriving.discard)

    def _enter(self, accepted: socket.socket, peer: str, *, is_proxy: bool = False) -> bool:
        """Whether there is a place for it; else it is closed."""
        refusal = self.admission.enter(peer, is_proxy=is_proxy)
        if refusal:
            log.warning("connection_refused", peer=peer, reason=refusal)
            accepted.close()
        return not refusal

    def _is_proxy(self, peer: str) -> bool:
        return any(ip_address(peer) in network for network in self.dicom.proxies)

    async def _connect_through(self, accepted: socket.socket, proxy: str) -> None:
        """Hear from a proxy whose connection it is, and take it as that peer's."""
        header = ProxyHeader()
        try:
            await asyncio.wait_for(self._read(header, accepted), self.dicom.association_timeout)
        except (OSError, asyncio.TimeoutError, asyncio.CancelledError, InvalidProxyHeader) as failure:
            self.admission.leave(proxy)
            accepted.close()
            if header.has_begun or not isinstance(failure, (ConnectionError, asyncio.CancelledError)):
                log.warning("proxy_header_refused", peer=proxy, reason=str(failure) or "it did not come in time")
            return
        self.admission.leave(proxy)
        if self._enter(accepted, header.source or proxy, is_proxy=header.source is None):
            await self._connect(accepted, header.source or proxy)

    async def _read(self, header: ProxyHeader, accepted: socket.socket) -> None:
        while header.wanted:
            data = await self.loop.sock_recv(accepted, header.wanted)
            if not data:  # as balancers do that only look whether somebody listens
                raise ConnectionAbortedError("closed before the end of its header")
            header.feed(data)

    async def _connect(self, accepted: socket.socket, peer: str) -> None:
        connection = Connection(self, peer)
        try:
            await self.loop.connect_accepted_socket(lambda: connection, accepted, **self._encryption())
        except (OSError, asyncio.CancelledError) as failure:  # no handshake in time, or it has gone already
            if not connection.has_begun:
                self.admission.leave(peer)
            accepted.close()
            if self._certificates is not None and isinstance(failure, OSError):
                log.warning("tls_handshake_failed", peer=peer, reason=_reason(failure))

    def _encryption(self) -> dict[str, Any]:
        """What a connection needs for TLS; for all of it and the request of an association there is the same time."""
        if self._certificates is None:
            return {}
        arguments = {"ssl": self._certificates.context, "ssl_handshake_timeout": self.dicom.association_timeout}
        if sys.version_info >= (3, 11):  # before, who does not close its side is waited for without end
            arguments["ssl_shutdown_timeout"] = ABORT_SECONDS
        return arguments

    def _renew_certificates(self) -> None:
        if self._certificates is not None:
            self.in_the_background(self._certificates.renew, self._renew_later)

    def _renew_later(self, _nothing: None) -> None:
        self.loop.call_later(RENEW_SECONDS, self._renew_certificates)

    def has_one_connection(self) -> bool:
        """Return whether one connection is open, and no other one is about to be."""
        return len(self._connections) == 1 and not self._arriving

    def came(self, connection: Connection) -> None:
        """A connection is open."""
        self._connections.add(connection)

    def gone(self, connection: Connection) -> None:
        """A connection is closed."""
        self._connections.discard(connection)
        self.admission.leave(connection.peer)

    # --- background -------------------------------------------------------------------------------------------------

    def in_the_background(self, act: Callable[[], T], then: Callable[[T], None]) -> None:
        """Call `act` on another thread, then `then` with its result in the loop. `act` must not raise."""

        def both() -> None:
            result = act()
            self.loop.call_soon_threadsafe(then, result)

        self._pool.submit(both)

    # --- stopping ---------------------------------------------------------------------------------------------------

    async def _drain(self, seconds: float) -> None:
        assert self._socket is not None  # listening
        self.loop.remove_reader(self._socket)
        self._socket.close()
        for task in self._arriving:
            task.cancel()
        await asyncio.gather(*self._arriving, return_exceptions=True)
        await self._until_nothing_is_open(seconds)
        for connection in list(self._connections):
            connection.abort()
        await self._until_nothing_is_open(ABORT_SECONDS)
        for connection in list(self._connections):
            connection.drop()

    async def _until_nothing_is_open(self, seconds: float) -> None:
        deadline = self.loop.time() + seconds
        while self._connections and self.loop.time() < deadline:
            await asyncio.sleep(0.01)


def _bound(address: tuple[str, int], *, shares_port: bool, backlog: int | None) -> socket.socket:
    found = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shares_port:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        found.bind(address)
        if backlog is not None:
            found.listen(backlog)
    except OSError:
        found.close()
        raise
    return found


def _reason(failure: OSError) -> str:
    """Why there is no TLS with a peer, in the words of OpenSSL or of the system."""
    if isinstance(failure, ssl.SSLCertVerificationError):
        return f"its certificate is not good: {failure.verify_message}"
    return str(getattr(failure, "reason", None) or failure.strerror or failure)


def _answer(results: Sequence[tuple[tuple[Connection, Command], StoreResult]]) -> None:
    """In the loop: what was committed is acknowledged."""
    for (connection, command), result in results:
        connection.committed(command, result)
