"""The HTTP server of the emulated platform, with the API of `docs/clara-rest-openapi.yaml`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from datetime import datetime
from itertools import count
from threading import Thread
from types import TracebackType

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dicom_adapter_clara_client.emulator.faults import Faults
from dicom_adapter_clara_client.emulator.record import CallLog
from dicom_adapter_clara_client.emulator.rest_calls import RestCalls, problem_response
from dicom_adapter_clara_client.emulator.rest_faults import Connections
from dicom_adapter_clara_client.emulator.rest_files import FileTransfers
from dicom_adapter_clara_client.emulator.rest_operations import operations
from dicom_adapter_clara_client.emulator.rest_problems import FAILED, STATUSES, ProblemAnswer
from dicom_adapter_clara_client.emulator.state import EmulatedPlatform, utc_now

FILE_PATH = "/v1/payloads/{payload}/files/{file:path}"
LAST_PORT = 65535
BACKLOG = 128  # connections that wait to be accepted
KEEP_ALIVE_S = 75  # longer than the clients' limits, so that clients close idle connections
TICKS_PER_S = 10  # in uvicorn; this server calls `on_tick` only once per second
GRACE_S = 1.0  # time for running calls to finish when the server stops
STOP_S = 10.0  # limit for stopping; exceeding it is a bug


class _Server(uvicorn.Server):
    """A server that begins to stop immediately on request, without polling, even if clients are still connected."""

    def __init__(self, app: Starlette) -> None:
        self._connections = Connections()
        self._stop = asyncio.Event()
        super().__init__(
            uvicorn.Config(
                app,
                http=self._connections.protocol(),
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                timeout_keep_alive=KEEP_ALIVE_S,
            )
        )

    def stop(self) -> None:
        """Request the stop. Must be called in the server's thread."""
        self._stop.set()

    async def main_loop(self) -> None:
        ticks = count(step=TICKS_PER_S)
        while not self._stop.is_set() and not await self.on_tick(next(ticks)):
            try:
                await asyncio.wait_for(self._stop.wait(), 1)
            except asyncio.TimeoutError:
                pass  # the next tick updates the Date header

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        running = list(self.server_state.tasks)
        if running:
            _done, slow = await asyncio.wait(running, timeout=GRACE_S)
            for task in slow:
                task.cancel()
        self._connections.abort()
        await asyncio.sleep(0)  # so that the connections close their sockets


class EmulatorRestServer:
    """A running server. `port` is the port that it listens on, even if port 0 was requested."""

    def __init__(self, app: Starlette, listener: socket.socket) -> None:
        host, self.port = listener.getsockname()[:2]
        self.address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self.url = f"http://{self.address}"
        self._loop = asyncio.new_event_loop()
        self._server = _Server(app)
        self._thread = Thread(target=self._run, args=[listener], name="emulator-rest", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop; running calls are aborted after a second."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._server.stop)
            self._thread.join(STOP_S)
        assert not self._thread.is_alive(), "the REST server does not stop"

    def _run(self, listener: socket.socket) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._server.serve(sockets=[listener]))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    def __enter__(self) -> EmulatorRestServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def serve(
    platform: EmulatedPlatform,
    address: str = "127.0.0.1:0",
    *,
    faults: Faults | None = None,
    log: CallLog | None = None,
    token: str | None = None,
    largest_file_bytes: int | None = None,
    clock: Callable[[], datetime] = utc_now,
) -> EmulatorRestServer:
    """Serve a platform on `host:port`; port 0 for any free port. Raises OSError if the address cannot be used.

    `token`: the bearer token that clients must send. `clock`: returns the times for the records of calls.

        with serve(EmulatedPlatform(pipelines="any")) as server:
            httpx.get(f"{server.url}/v1/version")
    """
    app = application(platform, faults=faults, log=log, token=token, largest_file_bytes=largest_file_bytes, clock=clock)
    return EmulatorRestServer(app, _listen(address))


def application(
    platform: EmulatedPlatform,
    *,
    faults: Faults | None = None,
    log: CallLog | None = None,
    token: str | None = None,
    largest_file_bytes: int | None = None,
    clock: Callable[[], datetime] = utc_now,
) -> Starlette:
    """Return the ASGI application; the arguments are those of `serve`."""
    calls = RestCalls(platform, faults or Faults(), log or CallLog(), token, clock)
    files = FileTransfers(calls, largest_file_bytes)
    routes = [Route(each.path, calls.endpoint(each), methods=[each.method]) for each in operations()]
    routes += [Route(FILE_PATH, files.put, methods=["PUT"]), Route(FILE_PATH, files.get, methods=["GET"])]
    return Starlette(routes=routes, exception_handlers={HTTPException: _no_such, Exception: _failed})


async def _no_such(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = STATUSES.get(error.status_code, ("demanded", error.status_code, error.detail))
    return problem_response(ProblemAnswer(kind, headers=error.headers), request.url.path)


async def _failed(request: Request, error: Exception) -> Response:
    """Respond to a bug of the emulator. Starlette raises the error again, so that it is logged."""
    return problem_response(ProblemAnswer(FAILED, type(error).__name__), request.url.path)


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdigit() or int(port) > LAST_PORT:
        raise OSError(f"{address}: not an address such as 127.0.0.1:8090")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, int(port)), family=family, backlog=BACKLOG)
    except OSError as error:
        raise OSError(f"{address}: cannot listen there: {error}") from error
    # Accepted connections inherit this option. Without it, the body of a response waits 40 ms for the acknowledgement
    # of the headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
