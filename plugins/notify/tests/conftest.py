"""A real HTTP server that keeps requests, a real mail server that keeps mails, and their certificates."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path

import pytest
import trustme

from dicom_adapter import Notice, NoticeKind, Notification
from support.webhook_receiver import WebhookReceiver, webhook_receiver

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


@pytest.fixture
def start_webhook() -> Iterator[Callable[[], WebhookReceiver]]:
    """Return a function that starts a web server."""
    with ExitStack() as started:
        yield lambda: started.enter_context(webhook_receiver())


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
