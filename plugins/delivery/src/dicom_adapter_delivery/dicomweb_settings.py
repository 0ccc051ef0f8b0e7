"""Settings of the `dicomweb` submitter."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attrs import Attribute, frozen

from dicom_adapter import Secret, between, setting

HOUR_S = 3600
DAY_S = 24 * HOUR_S
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 section 2.1; other characters could inject headers


# The docstring of a validator is shown as the rule in the reference of the settings.
def _url(_instance: Any, _attribute: Attribute[str], value: str) -> None:
    """`http` or `https`, without user, query or fragment"""
    problem = _problem_of_url(value)
    if problem:
        raise ValueError(f"must be a URL such as https://pacs.example/dicom-web; {problem}")


def _problem_of_url(value: str) -> str:
    """Return the reason why the text is not a valid URL of a server; "" if it is valid."""
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError as error:
        return f"it is not a URL ({error})"
    if url.scheme not in ("http", "https") or not url.hostname or port == 0 or not value.isascii():
        return "it must begin with http:// or https:// and a host name in ASCII, and must not have port 0"
    if "@" in url.netloc:
        return "it must not contain a user or password: set user and password"
    if set(value) & set("?# \t\r\n\\") or not value.isprintable():
        return "it must have no query, no fragment and no blanks"
    if url.path.rstrip("/").endswith("/studies"):
        return "it must not end with /studies, which the submitter adds"
    return ""


def _token(_instance: Any, _attribute: Attribute[Any], value: str | None) -> None:
    """a bearer token (RFC 6750)"""
    if value is not None and not TOKEN.fullmatch(value):
        raise ValueError("must be a bearer token: letters, digits and . _ ~ + / - with = only at the end (RFC 6750)")


def _user(_instance: Any, _attribute: Attribute[Any], value: str | None) -> None:
    """printable, without a colon (RFC 7617)"""
    if value is not None and (":" in value or not value.isprintable() or not value):
        raise ValueError("must be a user name: printable characters without a colon (RFC 7617)")


@frozen(kw_only=True)
class DicomwebTls:
    """The table `tls`."""

    ca_file: Path | None = setting(
        default=None, help="PEM file of the trusted authorities; default: the authorities of the system."
    )
    client_certificate: Path | None = setting(default=None, help="PEM file of the client certificate.")
    client_key: Path | None = setting(
        default=None,
        help="PEM file of the client's private key, without a password; default: the key is in `client-certificate`.",
    )

    def __attrs_post_init__(self) -> None:
        """Check the combination of the fields."""
        if self.client_key and not self.client_certificate:
            raise ValueError("client-key needs client-certificate")


@frozen(kw_only=True)
class DicomwebSettings:
    """The [submitters.<name>] table of `type = "dicomweb"`."""

    url: str = setting(
        validator=_url,
        help="URL of the DICOMweb service without the final `/studies`, such as `https://pacs.example/dicom-web`.",
    )
    token: Secret | None = setting(default=None, validator=_token, help="Bearer token for the server.")
    token_file: Path | None = setting(
        default=None,
        help="File that contains a bearer token, for tokens that another program renews: it is read for each request.",
    )
    user: str | None = setting(default=None, validator=_user, help="User name for HTTP basic authentication.")
    password: Secret | None = setting(default=None, help="Password for HTTP basic authentication.")
    tls: DicomwebTls = setting(
        factory=DicomwebTls, help="Trusted authorities and client certificate (below). Requires `https`."
    )
    timeout: float = setting(
        default=60.0,
        validator=between(0.1, HOUR_S, "seconds"),
        help="Timeout of the response in seconds, and the longest pause without progress during an upload.",
    )
    upload_timeout: float = setting(
        default=600.0, validator=between(0.1, DAY_S, "seconds"), help="Timeout of the upload of one file in seconds."
    )
    keep_alive: float = setting(
        default=5.0, validator=between(0, HOUR_S, "seconds"), help="Seconds after which an idle connection is closed."
    )

    @property
    def is_secure(self) -> bool:
        """True if the server is called with https."""
        return self.url.startswith("https:")

    def __attrs_post_init__(self) -> None:
        """Check the combination of the fields."""
        if sum(value is not None for value in (self.token, self.token_file, self.user)) > 1:
            raise ValueError("only one of token, token-file and user can be set")
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password need each other")
        if not self.is_secure and self.tls != DicomwebTls():
            raise ValueError("tls needs a url that begins with https://")
