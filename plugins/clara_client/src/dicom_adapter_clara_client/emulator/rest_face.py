"""The emulated platform as an HTTP server, with the API of `docs/clara-rest-openapi.yaml`."""

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

FILE = "/v1/payloads/{payload}/files/{file:path}"
LAST_PORT = 65535
BACKLOG = 128  # connections that wait to be accepted
KEEP_ALIVE_S = 75  # longer than clients keep their connections, so that they close them
TICKS_PER_S = 10  # in which uvicorn counts
GRACE_S = 1.0  # that calls under way have when the server stops
STOP_S = 10.0  # after which a server that does not stop is a bug


class _Server(uvicorn.Server):
    """A server that stops when it is told to, not when it next looks, and whatever its clients do."""

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
        """Called in the server's thread."""
        self._stop.set()

    async def main_loop(self) -> None:
        ticks = count(step=TICKS_PER_S)
        while not self._stop.is_set() and not await self.on_tick(next(ticks)):
            try:
                await asyncio.wait_for(self._stop.wait(), 1)
            except asyncio.TimeoutError:
                pass  # the next tick brings the Date header up to date

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        under_way = list(self.server_state.tasks)
        if under_way:
            _done, slow = await asyncio.wait(under_way, timeout=GRACE_S)
            for task in slow:
                task.cancel()
        self._connections.abort()
        await asyncio.sleep(0)  # lets the connections close their sockets


class EmulatorRestServer:
    """A server at work. `port` is the one it listens on, whatever it was asked for."""

    def __init__(self, app: Starlette, listener: socket.socket) -> None:
        host, self.port = listener.getsockname()[:2]
        self.address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self.url = f"http://{self.address}"
        self._loop = asyncio.new_event_loop()
        self._server = _Server(app)
        self._thread = Thread(target=self._run, args=[listener], name="emulator-rest", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop; calls under way are cut off after a second."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._server.stop)
            self._thread.join(STOP_S)
        assert not self._thread.is_alive(), "the REST face does not stop"

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
    """Serve a platform on `host:port`; port 0 takes a free one. Raises OSError when the address cannot be had.

    `token`: the bearer token that clients must show; `clock` dates the records of calls.

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
    """The face without a server; the arguments are those of `serve`."""
    calls = RestCalls(platform, faults or Faults(), log or CallLog(), token, clock)
    files = FileTransfers(calls, largest_file_bytes)
    routes = [Route(known.path, calls.endpoint(known), methods=[known.method]) for known in operations()]
    routes += [Route(FILE, files.put, methods=["PUT"]), Route(FILE, files.get, methods=["GET"])]
    return Starlette(routes=routes, exception_handlers={HTTPException: _no_such, Exception: _failed})


async def _no_such(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = STATUSES.get(error.status_code, ("demanded", error.status_code, error.detail))
    return problem_response(ProblemAnswer(kind, headers=error.headers), request.url.path)


async def _failed(request: Request, error: Exception) -> Response:
    """A bug of the emulator. Starlette raises it again, so that it is logged."""
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
    # Connections inherit it; without it the body of an answer waits 40 ms for the client to confirm the head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
