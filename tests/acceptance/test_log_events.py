"""Every line of the service's log is an event, and a peer cannot fill the log."""

from __future__ import annotations

import socket

from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE

CONFIGURATION = (
    """
[http]
port = 0
"""
    + STORAGE
    + """
[ae-titles.LUNG.settings]
pipeline-a = "pipeline-1"
"""
)
BURST = 50  # number of messages of libraries that the rate limit lets through at once
REQUESTS = 120  # number of invalid requests, more than BURST
NOT_AN_EVENT = "text"  # the event name that the log reader gives a line that is not an event


def test_invalid_requests_over_http_are_events_with_a_rate_limit(launch_service: LaunchService) -> None:
    """uvicorn logs a warning for each request. The rate limit drops further warnings, and their number is logged.

    Verified to fail when the messages of libraries have no limit, and when they are not events.
    """
    service = launch_service(CONFIGURATION)
    service.port()
    port = service.wait_for("http_listening")["port"]
    for _number in range(REQUESTS):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
            while connection.recv(4096):
                pass
    suppressed = service.wait_for("log_lines_suppressed", of="library_message")
    logged = service.logged("library_message", logger="uvicorn.error")
    assert {"Invalid HTTP request received."} == {entry["text"] for entry in logged}
    assert BURST <= len(logged) < REQUESTS
    assert 0 == service.stop()
    assert suppressed["count"] <= REQUESTS - BURST
    assert [] == service.logged(NOT_AN_EVENT)
