"""`DicomServer`: listens on the DICOM port, with all connections of a receiver in one event loop on its own thread.

Decisions about associations and commits run on other threads, because they may block. Data sets are written to the
storage backend in the loop, piece by piece: to pass every piece to another thread would take longer than to write it.
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

from dicom_adapter.api.receiving import RejectedPeer, RejectionCause, StoreResult
from dicom_adapter.config.listening import DicomConfig
from dicom_adapter.net.address import plain_address
from dicom_adapter.net.admission import Admission
from dicom_adapter.net.connection import CLOSE_SECONDS, Connection
from dicom_adapter.net.dimse import Command
from dicom_adapter.net.proxy import InvalidProxyHeader, ProxyHeader
from dicom_adapter.net.storage_scp import StorageScp
from dicom_adapter.net.tls import Certificates

log = structlog.get_logger("dicom_adapter.net")

BACKLOG = 1024  # maximum number of connections that wait to be accepted
RECEIVE_BUFFER_BYTES = 1 << 18  # one buffer for all connections: received bytes are processed immediately
THREADS = 4  # threads for decisions about associations
MAX_ENDED_CONNECTIONS = 100  # connections whose associations have ended, but that are not closed yet
ACCEPT_PAUSE_SECONDS = 1.0  # pause after a failed accept(2), for example if no descriptor is free
RENEW_SECONDS = 2.0  # time between two checks for changed certificates

T = TypeVar("T")


class DicomServer:
    """The DICOM server of a receiver. `start`, `configure` and `stop` are not called on the network thread."""

    def __init__(
        self, dicom: DicomConfig, scp: StorageScp[Any], *, shares_port: bool = False, is_first: bool = False
    ) -> None:
        """`shares_port`: other receivers of the service use the port, too; `is_first`: this receiver starts first."""
        self.dicom = dicom
        self.scp = scp
        self._shares_port = shares_port
        self._is_first = is_first
        self.buffer = memoryview(bytearray(RECEIVE_BUFFER_BYTES))
        self.loop = asyncio.new_event_loop()
        self.is_stopping = False
        self.admission = Admission(dicom, self.loop)
        self._certificates: Certificates | None = None
        # A task for each accepted socket whose TLS handshake or PROXY header is not complete yet
        self._connecting: set[asyncio.Task[None]] = set()
        self._connections: set[Connection] = set()
        self._ended: dict[Connection, None] = {}  # connections whose associations have ended, the oldest first
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="decide")
        self._thread = threading.Thread(target=self.loop.run_forever, name="network", daemon=True)
        self._socket: socket.socket | None = None

    # --- called on other threads --------------------------------------------------------------------------------------

    def start(self) -> int:
        """Bind the socket, listen, and return the port. Raises OSError or UnusableCertificate."""
        if self.dicom.tls is not None:
            self._certificates = Certificates(self.dicom.tls)
        self._socket = self._bind()
        self._socket.setblocking(False)
        port: int = self._socket.getsockname()[1]
        self.scp.start(self.loop, _deliver, self.has_one_connection)
        self._thread.start()
        self.loop.call_soon_threadsafe(self._listen)
        self.loop.call_soon_threadsafe(self._renew_certificates)
        return port

    def _bind(self) -> socket.socket:
        """Bind the socket. Raises OSError, also if a shared port belongs to another service."""
        address = self.dicom.bind, self.dicom.port
        if self._shares_port and self._is_first:  # without SO_REUSEPORT, this fails if another program uses the port
            _bind_socket(address, shares_port=False, backlog=None).close()
        return _bind_socket(address, shares_port=self._shares_port, backlog=BACKLOG)

    def configure(self, dicom: DicomConfig) -> None:
        """Apply changed limits and time limits. Open connections stay open; the address and TLS do not change."""
        self.dicom = dicom
        self.loop.call_soon_threadsafe(self.admission.set_limits, dicom)

    @property
    def accept_loop_died(self) -> bool:
        """True if the network thread has ended without `stop()`."""
        return not self._thread.is_alive() and not self.is_stopping

    def stop(self, drain_seconds: float) -> None:
        """Accept no more connections, wait for open associations, but at most `drain_seconds`, then abort the rest."""
        self.is_stopping = True
        self._run_in_loop(self._drain(drain_seconds))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self._pool.shutdown(wait=False)
        self.loop.close()

    def _run_in_loop(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    # --- connections --------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        assert self._socket is not None  # bound
        self.loop.add_reader(self._socket, self._accept, self._socket)

    def _accept(self, listening: socket.socket) -> None:
        """Accept the waiting connections. Close connections above the limits before memory is allocated for them."""
        for _number in range(BACKLOG):
            try:
                accepted, address = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as failure:  # no free descriptors, or no memory: connections wait in the backlog
                log.error("accept_failed", errno=failure.errno)
                self.loop.remove_reader(listening)
                self.loop.call_later(ACCEPT_PAUSE_SECONDS, self._listen)
                return
            accepted.setblocking(False)
            peer = plain_address(address[0])
            is_proxy = self._is_proxy(peer)
            if self._admit(accepted, peer, is_proxy=is_proxy):
                connecting = self._connect_proxied(accepted, peer) if is_proxy else self._connect(accepted, peer)
                task = self.loop.create_task(connecting)
                self._connecting.add(task)
                task.add_done_callback(self._connecting.discard)

    def _admit(self, accepted: socket.socket, peer: str, *, is_proxy: bool = False) -> bool:
        """Return whether the connection is within the limits; close it otherwise."""
        reason = self.admission.open_connection(peer, is_proxy=is_proxy)
        if reason:
            log.warning("connection_refused", peer=peer, reason=reason)
            self._record_rejection(peer, RejectionCause.LIMIT, reason)
            accepted.close()
        return not reason

    def _record_rejection(self, peer: str, cause: RejectionCause, reason: str) -> None:
        self.scp.peer_rejected(RejectedPeer(peer_address=peer, cause=cause, reason=reason))

    def _is_proxy(self, peer: str) -> bool:
        return any(ip_address(peer) in network for network in self.dicom.proxies)

    async def _connect_proxied(self, accepted: socket.socket, proxy: str) -> None:
        """Read the PROXY header, which names the peer, then continue as with a connection of this peer."""
        header = ProxyHeader()
        try:
            await asyncio.wait_for(self._read_header(header, accepted), self.dicom.association_timeout)
        except (OSError, asyncio.TimeoutError, asyncio.CancelledError, InvalidProxyHeader) as failure:
            self.admission.close_connection(proxy)
            accepted.close()
            if header.has_begun or not isinstance(failure, (ConnectionError, asyncio.CancelledError)):
                reason = str(failure) or "it did not arrive in time"
                log.warning("proxy_header_refused", peer=proxy, reason=reason)
                self._record_rejection(proxy, RejectionCause.PROXY, reason)
            return
        self.admission.close_connection(proxy)
        if self._admit(accepted, header.source or proxy, is_proxy=header.source is None):
            await self._connect(accepted, header.source or proxy)

    async def _read_header(self, header: ProxyHeader, accepted: socket.socket) -> None:
        while header.bytes_to_read:
            data = await self.loop.sock_recv(accepted, header.bytes_to_read)
            if not data:  # as in the health check of a load balancer
                raise ConnectionAbortedError("closed before the end of its header")
            header.feed(data)

    async def _connect(self, accepted: socket.socket, peer: str) -> None:
        connection = Connection(self, peer)
        try:
            await self.loop.connect_accepted_socket(lambda: connection, accepted, **self._tls_arguments())
        except (OSError, asyncio.CancelledError) as failure:
            # The TLS handshake failed or took too long, or the peer has disconnected.
            if not connection.is_open:
                self.admission.close_connection(peer)
            accepted.close()
            if self._certificates is not None and isinstance(failure, OSError):
                reason = _tls_failure(failure)
                log.warning("tls_handshake_failed", peer=peer, reason=reason)
                if not isinstance(failure, ConnectionResetError):  # raised if the peer disconnects, as in health checks
                    self._record_rejection(peer, RejectionCause.TLS, reason)

    def _tls_arguments(self) -> dict[str, Any]:
        """Return the TLS arguments of a connection. The handshake has the time limit of the association request."""
        if self._certificates is None:
            return {}
        arguments = {"ssl": self._certificates.context, "ssl_handshake_timeout": self.dicom.association_timeout}
        if sys.version_info >= (3, 11):  # older versions wait for the peer without a limit
            arguments["ssl_shutdown_timeout"] = CLOSE_SECONDS
        return arguments

    def _renew_certificates(self) -> None:
        if self._certificates is not None:
            self.run_in_background(self._certificates.renew, self._schedule_renewal)

    def _schedule_renewal(self, _nothing: None) -> None:
        self.loop.call_later(RENEW_SECONDS, self._renew_certificates)

    def has_one_connection(self) -> bool:
        """Return whether exactly one connection is open and no other is being opened.

        Connections whose associations have ended are not counted.
        """
        return len(self._connections) - len(self._ended) == 1 and not self._connecting

    def connection_opened(self, connection: Connection) -> None:
        self._connections.add(connection)

    def association_ended(self, connection: Connection) -> None:
        self._ended[connection] = None
        self.admission.close_connection(connection.peer)
        if len(self._ended) > MAX_ENDED_CONNECTIONS:
            next(iter(self._ended)).drop()

    def connection_closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if connection in self._ended:
            del self._ended[connection]
        else:
            self.admission.close_connection(connection.peer)

    # --- background ---------------------------------------------------------------------------------------------------

    def run_in_background(self, function: Callable[[], T], then: Callable[[T], None]) -> None:
        """Call `function` on another thread, then `then` with its result in the loop. `function` must not raise."""

        def run() -> None:
            result = function()
            self.loop.call_soon_threadsafe(then, result)

        self._pool.submit(run)

    # --- stopping -----------------------------------------------------------------------------------------------------

    async def _drain(self, seconds: float) -> None:
        assert self._socket is not None  # listening
        self.loop.remove_reader(self._socket)
        self._socket.close()
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        await self._wait_while(lambda: any(connection.has_association for connection in self._connections), seconds)
        for connection in list(self._connections):
            connection.abort()
        await self._wait_while(lambda: bool(self._connections), CLOSE_SECONDS)
        for connection in list(self._connections):
            connection.drop()

    async def _wait_while(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = self.loop.time() + seconds
        while condition() and self.loop.time() < deadline:
            await asyncio.sleep(0.01)


def _bind_socket(address: tuple[str, int], *, shares_port: bool, backlog: int | None) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shares_port:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(address)
        if backlog is not None:
            listening.listen(backlog)
    except OSError:
        listening.close()
        raise
    return listening


def _tls_failure(failure: OSError) -> str:
    """Return why the TLS handshake failed, as OpenSSL or the system reports it."""
    if isinstance(failure, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {failure.verify_message}"
    return str(getattr(failure, "reason", None) or failure.strerror or failure)


def _deliver(results: Sequence[tuple[tuple[Connection, Command], StoreResult]]) -> None:
    """Answer the C-STORE requests of committed instances. Called in the loop."""
    for (connection, command), result in results:
        connection.deliver(command, result)
