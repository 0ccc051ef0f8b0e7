"""Mails, with a real mail server (aiosmtpd)."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message
from aiosmtpd.smtp import AuthResult, LoginPassword
from attrs import evolve
from structlog.testing import capture_logs

from dicom_adapter import Notification, NotifierContext, Permanent, Retriable, Secret
from dicom_adapter_notify.email_notifier import EmailNotifier, EmailSettings, MailSecurity

# With TLS from the beginning, the server does not notice that the connection is encrypted.
pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning")
ADDRESSES = {"sender": "adapter@hospital.example", "to": ("a@hospital.example", "b@hospital.example")}


class MailKeeper(Message):
    """Keeps mails, and refuses recipients."""

    def __init__(self) -> None:
        super().__init__()
        self.mails: list[Any] = []
        self.refused: dict[str, str] = {}  # answers, by recipient
        self.answer_to_data = ""

    def prepare_message(self, _session: Any, envelope: Any) -> Any:
        mail = message_from_bytes(envelope.original_content, policy=policy.default)
        mail["X-RcptTo"] = ", ".join(envelope.rcpt_tos)
        return mail

    def handle_message(self, message: Any) -> None:
        self.mails.append(message)

    async def handle_RCPT(  # noqa: N802 - the name that aiosmtpd calls
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any
    ) -> str:
        if address in self.refused:
            return self.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - as above
        return self.answer_to_data or await super().handle_DATA(server, session, envelope)


def _authenticate(_server: Any, _session: Any, _envelope: Any, _mechanism: str, found: Any) -> AuthResult:
    is_right = isinstance(found, LoginPassword) and (found.login, found.password) == (b"adapter", b"pa55")
    return AuthResult(success=is_right, handled=False)


class FreePortController(Controller):
    """A controller that listens on a free port."""

    def _trigger_server(self) -> None:
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


@pytest.fixture
def keeper() -> MailKeeper:
    return MailKeeper()


@pytest.fixture
def serve(keeper: MailKeeper, authority: trustme.CA) -> Iterator[Callable[[MailSecurity], dict[str, Any]]]:
    """Return a function that starts a mail server, and returns the settings of its address."""
    started: list[Controller] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)

    def start(security: MailSecurity) -> dict[str, Any]:
        options: dict[str, Any] = {"ssl_context": context} if security is MailSecurity.TLS else {}
        if security is MailSecurity.STARTTLS:
            options = {"tls_context": context, "require_starttls": True}
        if security is not MailSecurity.NONE:
            options |= {"authenticator": _authenticate, "auth_required": True, "auth_require_tls": False}
        controller = FreePortController(keeper, hostname="localhost", port=0, **options)
        controller.start()
        started.append(controller)
        return {"host": "localhost", "port": controller.port, "security": security, **ADDRESSES}

    yield start
    for controller in started:
        controller.stop()


def notifier(**settings: Any) -> EmailNotifier:
    return EmailNotifier(EmailSettings(**settings), NotifierContext(name="oncall"))


@pytest.mark.parametrize("security", [MailSecurity.STARTTLS, MailSecurity.TLS])
def test_a_mail_is_sent_with_tls_and_a_password(
    serve: Any, keeper: MailKeeper, notification: Notification, ca_file: Path, security: MailSecurity
) -> None:
    login = {"user": "adapter", "password": Secret("pa55"), "ca_file": ca_file}
    notifier(**serve(security), **login).send(notification)
    (mail,) = keeper.mails
    assert "dicom-adapter on gw1: job-faulted at LUNG" == mail["Subject"]
    assert "a@hospital.example, b@hospital.example" == mail["To"] == mail["X-RcptTo"]
    assert ("adapter@hospital.example", "auto-generated") == (mail["From"], mail["Auto-Submitted"])
    assert "<1f2e-7@hospital.example>" == mail["Message-ID"]
    assert f"{notification.text}\n" == mail.get_content().replace("\r\n", "\n")


def test_a_server_without_a_trusted_certificate_gets_no_password(
    serve: Any, keeper: MailKeeper, notification: Notification
) -> None:
    login = {"user": "adapter", "password": Secret("pa55")}
    with pytest.raises(Retriable, match="mail server localhost: TLS failed"):
        notifier(**serve(MailSecurity.STARTTLS), **login).send(notification)
    assert [] == keeper.mails


def test_a_server_without_starttls_gets_nothing(serve: Any, keeper: MailKeeper, notification: Notification) -> None:
    settings = {**serve(MailSecurity.NONE), "security": MailSecurity.STARTTLS}
    with pytest.raises(Permanent, match="does not support starttls"):
        notifier(**settings).send(notification)
    assert [] == keeper.mails


def test_a_wrong_password_is_permanent(serve: Any, notification: Notification, ca_file: Path) -> None:
    login = {"user": "adapter", "password": Secret("wrong"), "ca_file": ca_file}
    with pytest.raises(Permanent, match="refused user and password with code 535") as raised:
        notifier(**serve(MailSecurity.TLS), **login).send(notification)
    assert "wrong" not in str(raised.value)


def test_a_mail_that_some_recipients_get_is_not_repeated(
    serve: Any, keeper: MailKeeper, notification: Notification
) -> None:
    keeper.refused = {"a@hospital.example": "550 no such user"}
    with capture_logs() as logs:
        notifier(**serve(MailSecurity.NONE)).send(notification)
    assert ["b@hospital.example"] == [mail["X-RcptTo"] for mail in keeper.mails]
    assert [("mail_recipients_refused", 1)] == [(entry["event"], entry["count"]) for entry in logs]


@pytest.mark.parametrize(("code", "error"), [("450", Retriable), ("550", Permanent)])
def test_the_code_of_the_server_decides_about_repetitions(
    serve: Any, keeper: MailKeeper, notification: Notification, code: str, error: type[Exception]
) -> None:
    keeper.refused = dict.fromkeys(ADDRESSES["to"], f"{code} not now")
    with pytest.raises(error, match=f"refused all recipients with code {code}"):
        notifier(**serve(MailSecurity.NONE)).send(notification)
    keeper.refused, keeper.answer_to_data = {}, f"{code} not now"
    with pytest.raises(error, match=f"refused the mail with code {code}"):
        notifier(**serve(MailSecurity.NONE)).send(notification)


def test_a_server_that_is_down_is_retried(notification: Notification, free_port: int) -> None:
    settings = {"host": "localhost", "port": free_port, "security": MailSecurity.NONE, **ADDRESSES}
    with pytest.raises(Retriable, match=r"no answer from mail server localhost \(ConnectionRefusedError\)"):
        notifier(**settings).send(notification)


def test_a_title_cannot_add_headers(serve: Any, keeper: MailKeeper, notification: Notification) -> None:
    """The core removes control characters; the mail library refuses them, too."""
    with pytest.raises(ValueError, match="linefeed or carriage return"):
        notifier(**serve(MailSecurity.NONE)).send(evolve(notification, title="a\r\nBcc: c@evil.example"))
    assert [] == keeper.mails


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"to": ()}, "must not be empty"),
        ({"to": ("Ann <a@b.example>",)}, "must be mail addresses"),
        ({"sender": "a@b.example\r\nBcc: c@evil.example"}, "must be a mail address"),
        ({"user": "adapter"}, "must be given together"),
        ({"security": MailSecurity.NONE, "user": "a", "password": Secret("b")}, "would send the password unencrypted"),
        ({"port": 0}, "must be from 1 to 65535"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        EmailSettings(**{"host": "mail.example", **ADDRESSES, **settings})
