"""Webhooks, with a real web server."""

from __future__ import annotations

import base64
import hmac
import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from dicom_adapter import Notification, NotifierContext, Permanent, Retriable, Secret
from dicom_adapter_notify import signature
from dicom_adapter_notify.webhook_notifier import WebhookNotifier, WebhookSettings

KEY = b"a key of thirty-two random bytes"


def notifier(**settings: Any) -> WebhookNotifier:
    return WebhookNotifier(WebhookSettings(**settings), NotifierContext(name="oncall"))


def test_a_message_is_posted_as_json(webhook: Any, notification: Notification) -> None:
    notifier(url=f"{webhook.url}/hooks/1").send(notification)
    ((path, headers, body),) = webhook.requests
    assert "/hooks/1" == path
    assert "application/json" == headers["content-type"]
    assert "webhook-signature" not in headers
    assert {
        "type": "dicom-adapter.notification",
        "id": "1f2e-7",
        "timestamp": "2026-01-05T08:00:00+00:00",
        "source": "gw1",
        "notification": "oncall",
        "title": notification.title,
        "text": f"{notification.title}\n{notification.text}",
        "notices": [
            {
                "kind": "job-faulted",
                "aeTitle": "LUNG",
                "subject": "submitter lung-ai",
                "text": "a job was given up",
                "count": 2,
                "firstAt": "2026-01-05T08:00:00+00:00",
                "lastAt": "2026-01-05T08:00:00+00:00",
                "isOver": False,
                "jobs": ["ab" * 16],
            }
        ],
    } == json.loads(body)


@pytest.mark.parametrize("secret", [KEY.decode(), "whsec_" + base64.b64encode(KEY).decode()])
def test_the_signature_covers_id_time_and_body(webhook: Any, notification: Notification, secret: str) -> None:
    """The receiver's side is written here from the specification, independent of the sender's."""
    notifier(secret_url=Secret(webhook.url), secret=Secret(secret), token=Secret("t0ken")).send(notification)
    ((_, headers, body),) = webhook.requests
    signed = b".".join([headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body])
    expected = base64.b64encode(hmac.new(KEY, signed, "sha256").digest()).decode()
    assert f"v1,{expected}" == headers["webhook-signature"]
    assert ("1f2e-7", "1767600000") == (headers["webhook-id"], headers["webhook-timestamp"])
    assert "Bearer t0ken" == headers["authorization"]


def test_the_signature_is_that_of_the_specification() -> None:
    """The example of the reference implementation of Standard Webhooks."""
    key = signature.key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    found = signature.headers(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" == found["webhook-signature"]


@given(st.binary(), st.binary(min_size=1), st.text("0123456789abcdef-", min_size=1))
def test_another_body_has_another_signature(body: bytes, more: bytes, message_id: str) -> None:
    one, other = (signature.headers(KEY, message_id, 1, each) for each in (body, body + more))
    assert one["webhook-signature"] != other["webhook-signature"]


@pytest.mark.parametrize(("status", "error"), [(500, Retriable), (429, Retriable), (404, Permanent), (401, Permanent)])
def test_a_refusal_is_an_error_that_names_only_the_server(
    webhook: Any, notification: Notification, status: int, error: type[Exception]
) -> None:
    """The path of a webhook of a chat system is a secret."""
    webhook.status = status
    with pytest.raises(error, match=f"^127.0.0.1:[0-9]+ answered with status {status}") as raised:
        notifier(url=f"{webhook.url}/T0PSECRET").send(notification)
    assert "T0PSECRET" not in str(raised.value)


def test_a_redirect_is_not_followed(start_webhook: Callable[[], Any], webhook: Any, notification: Notification) -> None:
    """It could lead token and message to another server."""
    other = start_webhook()
    webhook.status, webhook.location = 307, other.url
    with pytest.raises(Permanent, match="answered with status 307"):
        notifier(url=webhook.url, token=Secret("t0ken")).send(notification)
    assert [] == other.requests


def test_a_server_that_is_down_is_retried(notification: Notification, free_port: int) -> None:
    with pytest.raises(Retriable, match=f"no answer from 127.0.0.1:{free_port} .ConnectError."):
        notifier(url=f"http://127.0.0.1:{free_port}/").send(notification)


def test_a_server_needs_a_certificate_of_the_authority(
    webhook: Any, notification: Notification, authority: trustme.CA, ca_file: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    webhook.socket = context.wrap_socket(webhook.socket, server_side=True)
    url = webhook.url.replace("http:", "https:")
    with pytest.raises(Retriable, match="ConnectError"):
        notifier(url=url).send(notification)
    notifier(url=url, ca_file=ca_file).send(notification)
    assert 1 == len(webhook.requests)


def test_a_missing_ca_file_is_named(webhook: Any, notification: Notification, tmp_path: Path) -> None:
    with pytest.raises(Retriable, match=r"ca-file .*gone.pem cannot be used: No such file"):
        notifier(url=webhook.url, ca_file=tmp_path / "gone.pem").send(notification)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "either url or secret-url"),
        ({"url": "https://a.example/", "secret_url": Secret("https://a.example/")}, "either url or secret-url"),
        ({"url": "a.example"}, "must begin with http"),
        ({"url": "https://user:pw@a.example/"}, "no user"),
        ({"url": "https://a.example/\r\nX: 1"}, "no user, no fragment and no blanks"),
        ({"url": "https://a.example/", "token": Secret("a\nb")}, "printable ASCII"),
        ({"url": "https://a.example/", "secret": Secret("whsec_%%%")}, "must be Base64 after whsec_"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        WebhookSettings(**settings)
