"""Supervision of servers: the servers of plugins, and the HTTP server of the adapter."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial

import structlog

from dicom_adapter.api.errors import Refused, describe_failure
from dicom_adapter.api.server import Server
from dicom_adapter.plugins.measured import MeasuredCaller
from dicom_adapter.runtime.clock import Clock
from dicom_adapter.runtime.deadline import call_within

log = structlog.get_logger("dicom_adapter.host")

CHECK_EVERY = timedelta(seconds=1)
SERVER_STOP_SECONDS = 15.0  # after this time, a server is abandoned; the HTTP server needs up to 13 s


class SupervisedServer:
    """A server that is started, checked every second, and restarted when it is not alive."""

    def __init__(self, name: str, server: Server, clock: Clock, caller: MeasuredCaller) -> None:
        self._name = name
        self._caller = caller
        self._server = server
        self._clock = clock
        self._is_started = False

    def start(self) -> None:
        """Start the server. Raises the errors of the server."""
        self._caller("start", self._server.start)
        self._is_started = True

    def step(self) -> datetime:
        """Check the server, and start the server if it does not run."""
        if self._is_started and not self._caller("is_alive", self._server.is_alive):
            log.error("server_ended", server=self._name)
            self.close()
        if not self._is_started:
            try:
                self.start()
            except (OSError, Refused) as failure:
                log.error("server_start_failed", server=self._name, reason=str(failure))
                raise
        return self._clock.now() + CHECK_EVERY

    def close(self) -> None:
        """Stop the server, if it was started. A failure is logged, not raised, so that the other parts are closed."""
        if not self._is_started:
            return
        self._is_started = False
        try:
            call_within(SERVER_STOP_SECONDS, partial(self._caller, "stop", self._server.stop))
        except BaseException as failure:  # noqa: BLE001 - a plugin may raise anything, even SystemExit
            log.error("server_stop_failed", server=self._name, error=describe_failure(failure))
