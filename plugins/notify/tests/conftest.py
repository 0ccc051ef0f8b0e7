"""A real HTTP server that keeps requests, a real mail server that keeps mails, and their certificates."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from dicom_adapter import Notice, NoticeKind, Notification

NOW = datetime(2026, 1, 5, 8, 0, tzinfo=timezone.utc)


@pytest.fixture
def notification() -> Notification:
    """Return a message with one notice."""
    notice = Notice(
        kind=NoticeKind.JOB_FAULTED,
        ae_title="LUNG",
        subject="submitter lung-ai",
        text="a job was given up",
        count=2,
        first_at=NOW,
        last_at=NOW,
        job_ids=("ab" * 16,),
    )
    return Notification(
        notification_id="1f2e-7",
        created_at=NOW,
        source="gw1",
        title="dicom-adapter on gw1: job-faulted at LUNG",
        text="[job-faulted] LUNG, submitter lung-ai: a job was given up",
        notices=(notice,),
    )


class WebhookReceiver(ThreadingHTTPServer):
    """A web server that answers POST requests with `status`, and keeps them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _PostHandler)
        self.status = 204
        self.location = ""
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.has_request = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _PostHandler(BaseHTTPRequestHandler):
    server: WebhookReceiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.requests.append((self.path, {name.lower(): text for name, text in self.headers.items()}, body))
        self.send_response(self.server.status)
        if self.server.location:
            self.send_header("location", self.server.location)
        self.send_header("content-length", "0")
        self.end_headers()
        self.server.has_request.set()

    def log_message(self, *_: Any) -> None:
        """Write no log."""


@pytest.fixture
def start_webhook() -> Iterator[Callable[[], WebhookReceiver]]:
    """Return a function that starts a web server."""
    started: list[tuple[WebhookReceiver, threading.Thread]] = []

    def start() -> WebhookReceiver:
        server = WebhookReceiver()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        started.append((server, thread))
        return server

    yield start
    for server, thread in started:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def webhook(start_webhook: Callable[[], WebhookReceiver]) -> WebhookReceiver:
    return start_webhook()


@pytest.fixture
def free_port() -> Iterator[int]:
    """Return a port on which nothing listens, and which no other program gets meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path
