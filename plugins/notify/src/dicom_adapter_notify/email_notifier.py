"""The notifier `email`: a mail through an SMTP server."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from enum import Enum
from pathlib import Path
from typing import Any

import structlog
from attrs import Attribute, frozen

from dicom_adapter import Notification, Notifier, Permanent, Retriable, Secret, between, not_empty, setting
from dicom_adapter_notify import tls

log = structlog.get_logger("dicom_adapter.notify")


class MailSecurity(str, Enum):
    """The encryption of the connection to the mail server."""

    STARTTLS = "starttls"  # the connection begins unencrypted; then a command begins TLS (RFC 3207)
    TLS = "tls"  # from the beginning of the connection (RFC 8314)
    NONE = "none"  # for a server on this machine


PORTS = {MailSecurity.STARTTLS: 587, MailSecurity.TLS: 465, MailSecurity.NONE: 25}


def _is_address(value: str) -> bool:
    _, address = parseaddr(value)
    return address == value and "@" in value and value.isprintable() and value.isascii() and " " not in value


# The docstring of a validator is shown as the rule in the reference of the settings.
def _address(_instance: Any, _attribute: Attribute[Any], value: str) -> None:
    """an address without a name"""
    if not _is_address(value):
        raise ValueError("must be a mail address such as dicom-adapter@hospital.example")


def _addresses(_instance: Any, _attribute: Attribute[Any], value: tuple[str, ...]) -> None:
    """addresses without names"""
    for each in value:
        if not _is_address(each):
            raise ValueError(f"must be mail addresses such as pacs-team@hospital.example; {each!r} is none")


@frozen(kw_only=True)
class EmailSettings:
    """The settings of the notifier `email`."""

    host: str = setting(validator=not_empty, help="Name or IP address of the mail server (SMTP).")
    port: int | None = setting(
        default=None, validator=between(1, 65535), help="Port; if omitted, 587, 465 for `tls`, or 25 for `none`."
    )
    security: MailSecurity = setting(
        default=MailSecurity.STARTTLS,
        help="Encryption: `starttls`, `tls` from the beginning of the connection, or `none`.",
    )
    user: str | None = setting(default=None, help="User name at the mail server.")
    password: Secret | None = setting(default=None, help="Password of the user; needs `user` and encryption.")
    sender: str = setting(validator=_address, help="Mail address of the sender.")
    to: tuple[str, ...] = setting(validator=[not_empty, _addresses], help="Mail addresses of the recipients.")
    ca_file: Path | None = setting(
        default=None,
        help="PEM file with the authorities that the server's certificate must have; if omitted, those of the system.",
    )
    timeout: float = setting(
        default=15.0, validator=between(1, 30, "seconds"), help="Seconds to wait for the server at each step."
    )

    def __attrs_post_init__(self) -> None:
        if (self.user is None) is not (self.password is None):
            raise ValueError("user and password must be given together")
        if self.password is not None and self.security is MailSecurity.NONE:
            raise ValueError('security = "none" would send the password unencrypted: use starttls or tls')


class EmailNotifier(Notifier[EmailSettings]):
    """Sends messages as mails."""

    name = "email"

    def send(self, notification: Notification) -> None:
        settings = self.settings
        where = f"mail server {settings.host}"
        try:
            with self._connect() as server:
                refused = server.send_message(_mail(notification, settings), settings.sender, list(settings.to))
        except smtplib.SMTPAuthenticationError as failure:
            raise Permanent(f"{where} refused user and password with code {failure.smtp_code}") from None
        except smtplib.SMTPRecipientsRefused as failure:
            codes = {code for code, _text in failure.recipients.values()}
            raise _error(max(codes, default=500), f"{where} refused all recipients") from None
        except smtplib.SMTPNotSupportedError:
            raise Permanent(f"{where} does not support {settings.security.value}, or the login") from None
        except smtplib.SMTPResponseException as failure:
            raise _error(failure.smtp_code, f"{where} refused the mail") from None
        except ssl.SSLError as failure:
            raise Retriable(f"{where}: TLS failed ({failure.reason or type(failure).__name__})") from None
        except (smtplib.SMTPException, OSError) as failure:
            raise Retriable(f"no answer from {where} ({type(failure).__name__})") from None
        if refused:  # the other recipients have received the mail, so it is not sent again
            log.warning("mail_recipients_refused", notification=self.context.name, count=len(refused))

    @contextmanager
    def _connect(self) -> Iterator[smtplib.SMTP]:
        settings = self.settings
        port = settings.port or PORTS[settings.security]
        if settings.security is MailSecurity.TLS:
            context = tls.client_context(settings.ca_file)
            server: smtplib.SMTP = smtplib.SMTP_SSL(settings.host, port, timeout=settings.timeout, context=context)
        else:
            server = smtplib.SMTP(settings.host, port, timeout=settings.timeout)
        with server:
            if settings.security is MailSecurity.STARTTLS:
                server.starttls(context=tls.client_context(settings.ca_file))
            if settings.user is not None and settings.password is not None:
                server.login(settings.user, settings.password)
            yield server


def _mail(notification: Notification, settings: EmailSettings) -> EmailMessage:
    mail = EmailMessage()
    mail["From"] = settings.sender
    mail["To"] = ", ".join(settings.to)
    mail["Subject"] = notification.title
    mail["Date"] = format_datetime(notification.created_at)
    mail["Message-ID"] = f"<{notification.notification_id}@{settings.sender.partition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no automatic answers
    mail.set_content(f"{notification.text}\n")
    return mail


def _error(code: int, problem: str) -> Permanent | Retriable:
    """Return the error for a code of the server: a repetition may succeed only after 4yz (RFC 5321 4.2.1)."""
    message = f"{problem} with code {code}"
    return Permanent(message) if code >= 500 else Retriable(message)
