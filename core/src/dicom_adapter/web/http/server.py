"""Run uvicorn in a separate thread, on a socket that is bound before the thread starts."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as NoResponse
from functools import partial
from threading import Thread
from typing import Any, Protocol, cast

import structlog
import uvicorn
from litestar.types import ASGIApp

from dicom_adapter.api.errors import Refused
from dicom_adapter.api.server import Server
from dicom_adapter.config.listening import HttpConfig
from dicom_adapter.net.address import cannot_listen
from dicom_adapter.net.connection_counts import ConnectionCounts
from dicom_adapter.runtime.descriptors import max_descriptors
from dicom_adapter.web.http.connection import HttpConnection

log = structlog.get_logger("dicom_adapter.http")

BACKLOG = 128  # maximum number of connections that wait to be accepted
KEEP_ALIVE_S = 30  # time after which an idle connection is closed
DESCRIPTORS_PER_CONNECTION = 4  # one connection for 4 descriptors of the process, so that most are free for other work
GRACE_S = 3  # time limit for open requests when the server stops
RESPONSE_S = 10.0  # time limit for a response of the event loop, after which the loop is regarded as blocked


class Companion(Protocol):
    """Background work that runs as long as the server."""

    def start(self) -> None:
        """Begin the work. Called again after `stop` if the server is restarted."""

    def stop(self) -> None:
        """End the work within a few seconds."""


class HttpServer(Server):
    """The HTTP server of the adapter."""

    name = "http"

    def __init__(
        self,
        app: ASGIApp,
        config: HttpConfig,
        companions: Sequence[Companion] = (),
        end_streams: Callable[[], None] = lambda: None,
    ) -> None:
        """`companions` are started before the server, and stopped after it.

        `end_streams` ends the responses that have no end, so that the stop does not wait for them.
        """
        self._app = app
        self._companions = companions
        self._end_streams = end_streams
        self._config = config
        self._port = config.port
        self._thread: Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: uvicorn.Server | None = None

    def start(self) -> None:
        """Bind the address, then start the thread. Raises Refused if the address cannot be bound."""
        listener = self._listen()
        for companion in self._companions:
            companion.start()
        self._port = listener.getsockname()[1]  # a restarted server keeps its port
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._app,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=GRACE_S,
                http=cast(Any, partial(HttpConnection, self._counts())),
            )
        )
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=_serve, args=[self._server, self._loop, listener], name="http", daemon=True)
        self._thread.start()
        log.info("http_listening", address=self._config.bind, port=self._port)

    def _counts(self) -> ConnectionCounts:
        """Return the limits of connections. Most descriptors are reserved for other work than HTTP."""
        limit = min(self._config.max_connections, max_descriptors() // DESCRIPTORS_PER_CONNECTION)
        return ConnectionCounts(limit, self._config.max_connections_per_peer or max(1, limit // 2))

    @property
    def port(self) -> int:
        """The port on which the server listens, after its start."""
        return self._port

    def _listen(self) -> socket.socket:
        address = (self._config.bind, self._port)
        family = socket.AF_INET6 if ":" in self._config.bind else socket.AF_INET
        try:
            listener = socket.create_server(address, family=family, backlog=BACKLOG)
        except OSError as failure:
            raise Refused(f"[http]: {cannot_listen(self._config.bind, self._port, failure)}") from failure
        # Connections inherit this option. Without it, the body of a response is sent 40 ms after its headers.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener

    def is_alive(self) -> bool:
        """Return whether the thread runs and the event loop responds."""
        if self._thread is None or self._loop is None or not self._thread.is_alive():
            return False
        try:
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self._loop).result(RESPONSE_S)
        except (NoResponse, RuntimeError):  # RuntimeError: the loop has just ended
            return False
        return True

    def stop(self) -> None:
        """Stop the server. Open requests have a few seconds to complete."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._end_streams()
            self._thread.join(GRACE_S + RESPONSE_S)
        for companion in self._companions:
            companion.stop()


def _serve(server: uvicorn.Server, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
    asyncio.set_event_loop(loop)
    try:
        with listener:
            loop.run_until_complete(server.serve(sockets=[listener]))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
