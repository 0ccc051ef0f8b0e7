"""The notifier `webhook`: a POST request with JSON, signed with a shared secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attrs import Attribute, frozen

from dicom_adapter import (
    Notice,
    Notification,
    Notifier,
    NotifierContext,
    Permanent,
    Retriable,
    Secret,
    between,
    setting,
)
from dicom_adapter_notify import signature, tls

RETRIED = frozenset({408, 425, 429})  # RFC 9110 and RFC 6585: the same request may succeed later


def _problem_of_url(value: str) -> str:
    """Return the reason why the text is not the URL of a webhook; "" if it is."""
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError:
        return "it is not a URL"
    if url.scheme not in ("http", "https") or not url.hostname or port == 0:
        return "it must begin with http:// or https:// and a host name"
    if "@" in url.netloc or url.fragment or not value.isascii() or not value.isprintable() or " " in value:
        return "it must have no user, no fragment and no blanks, and only ASCII characters"
    return ""


# The docstring of a validator is shown as the rule in the reference of the settings.
def _url(_instance: Any, _attribute: Attribute[Any], value: str | None) -> None:
    """`http` or `https`, without user and fragment"""
    problem = "" if value is None else _problem_of_url(value)
    if problem:
        raise ValueError(f"must be a URL such as https://chat.example/hooks/1; {problem}")


def _secret(_instance: Any, _attribute: Attribute[Any], value: str | None) -> None:
    """Base64 after `whsec_`, or any text"""
    if value is not None:
        signature.key_of(value)


def _token(_instance: Any, _attribute: Attribute[Any], value: str | None) -> None:
    """printable ASCII without blanks"""
    if value is not None and not (value.isascii() and value.isprintable() and " " not in value):
        raise ValueError("must have only printable ASCII characters, and no blanks")


@frozen(kw_only=True)
class WebhookSettings:
    """The settings of the notifier `webhook`."""

    url: str | None = setting(
        default=None, validator=_url, help="URL to which messages are posted. Either `url` or `secret-url` is required."
    )
    secret_url: Secret | None = setting(
        default=None, validator=_url, help="As `url`, for a URL that must be secret, such as the URLs of chat systems."
    )
    secret: Secret | None = setting(
        default=None,
        validator=_secret,
        help="Key of the signature (HMAC-SHA256) in the header `webhook-signature`; if omitted, nothing is signed.",
    )
    token: Secret | None = setting(
        default=None, validator=_token, help="Bearer token for the header `Authorization` (RFC 6750)."
    )
    ca_file: Path | None = setting(
        default=None,
        help="PEM file with the authorities that the server's certificate must have; if omitted, those of the system.",
    )
    proxy: str | None = setting(default=None, validator=_url, help="URL of an HTTP proxy.")
    timeout: float = setting(
        default=10.0, validator=between(1, 30, "seconds"), help="Seconds to wait for the server at each step."
    )

    def __attrs_post_init__(self) -> None:
        if (self.url is None) is (self.secret_url is None):
            raise ValueError("either url or secret-url must be given")

    @property
    def target(self) -> str:
        """The URL."""
        return str(self.url or self.secret_url)


class WebhookNotifier(Notifier[WebhookSettings]):
    """Posts messages to a URL. Redirects are not followed: they could lead a secret to another server."""

    name = "webhook"

    def __init__(self, settings: WebhookSettings, context: NotifierContext) -> None:
        super().__init__(settings, context)
        self._host = urlsplit(settings.target).netloc  # for messages: the rest of the URL may be secret

    def send(self, notification: Notification) -> None:
        import httpx

        settings = self.settings
        body = json.dumps(to_json(notification, self.context.name)).encode()
        try:
            with (
                httpx.Client(
                    verify=tls.client_context(settings.ca_file),
                    timeout=settings.timeout,
                    proxy=settings.proxy,
                    trust_env=False,
                ) as client,
                client.stream(
                    "POST", settings.target, content=body, headers=self._headers(notification, body)
                ) as response,
            ):
                status = response.status_code
        except (httpx.HTTPError, httpx.InvalidURL) as failure:
            raise Retriable(f"no answer from {self._host} ({type(failure).__name__})") from None
        if not 200 <= status < 300:
            self._raise_error(status)

    def _headers(self, notification: Notification, body: bytes) -> dict[str, str]:
        settings = self.settings
        headers = {"content-type": "application/json", "user-agent": "dicom-adapter"}
        if settings.secret is not None:
            timestamp = int(notification.created_at.timestamp())
            key = signature.key_of(settings.secret)
            headers |= signature.headers(key, notification.notification_id, timestamp, body)
        if settings.token is not None:
            headers["authorization"] = f"Bearer {settings.token}"
        return headers

    def _raise_error(self, status: int) -> None:
        if status >= 500 or status in RETRIED:
            raise Retriable(f"{self._host} answered with status {status}")
        raise Permanent(f"{self._host} answered with status {status}: check the URL, the token and the secret")


def to_json(notification: Notification, name: str) -> dict[str, Any]:
    """Return the body of the request. Many chat systems show `text` and ignore all other keys."""
    return {
        "type": "dicom-adapter.notification",
        "id": notification.notification_id,
        "timestamp": notification.created_at.isoformat(),
        "source": notification.source,
        "notification": name,
        "title": notification.title,
        "text": f"{notification.title}\n{notification.text}",
        "notices": [_notice(notice) for notice in notification.notices],
    }


def _notice(notice: Notice) -> dict[str, Any]:
    return {
        "kind": notice.kind.value,
        "aeTitle": notice.ae_title,
        "subject": notice.subject,
        "text": notice.text,
        "count": notice.count,
        "firstAt": notice.first_at.isoformat(),
        "lastAt": notice.last_at.isoformat(),
        "isOver": notice.is_over,
        "jobs": list(notice.job_ids),
    }
