"""Settings of the `clara-rest` submitter."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attrs import Attribute, frozen

from dicom_adapter import Secret, between, setting
from dicom_adapter_clara_client.platform_results import (
    DELETE_PAYLOADS_HELP,
    FOLLOW_HELP,
    RESULT_FILES_HELP,
    check_patterns,
)

HOUR_S = 3600
DAY_S = 24 * HOUR_S
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 section 2.1; other characters could inject headers
SCHEMES = ("http", "https")


# The docstring of a validator is shown as the rule in the reference of the settings.
def _endpoint(_instance: Any, _attribute: Attribute[str], value: str) -> None:
    """`http` or `https`, without user, query or fragment"""
    problem = _problem_of_url(value)
    if problem:
        raise ValueError(f"must be a URL such as https://clara.example:8443; {problem}")


def _problem_of_url(value: str) -> str:
    """Return the reason why the text is not a valid endpoint; "" if it is valid."""
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError as error:
        return f"it is not a URL ({error})"
    if url.scheme not in SCHEMES or not url.hostname or port == 0 or not value.isascii():
        return "it must begin with http:// or https:// and a host name in ASCII, and must not have port 0"
    if "@" in url.netloc:
        return "it must not contain a user or password: set token"
    if set(value) & set("?# \t\r\n\\") or not value.isprintable():
        return "it must have no query, no fragment and no blanks"
    if url.path.rstrip("/").endswith("/v1"):
        return "it must not end with /v1, which the submitter adds"
    return ""


def _token(_instance: Any, _attribute: Attribute[Any], value: str | None) -> None:
    """a bearer token (RFC 6750)"""
    if value is not None and not TOKEN.fullmatch(value):
        raise ValueError("must be a bearer token: letters, digits and . _ ~ + / - with = only at the end (RFC 6750)")


@frozen(kw_only=True)
class ClaraRestSettings:
    """The [submitters.<name>] table of `type = "clara-rest"`."""

    endpoint: str = setting(
        validator=_endpoint,
        help="URL of the platform's REST API without the final `/v1`, such as `https://clara.example:8443`.",
    )
    token: Secret | None = setting(default=None, validator=_token, help="Bearer token for the platform.")
    ca_file: Path | None = setting(
        default=None,
        help="PEM file of the trusted authorities; default: the authorities of the system. Requires `https`.",
    )
    client_certificate: Path | None = setting(
        default=None, help="PEM file of the client certificate. Requires `https`."
    )
    client_key: Path | None = setting(
        default=None,
        help="PEM file of the client's private key, without a password; default: the key is in `client-certificate`.",
    )
    timeout: float = setting(
        default=30.0,
        validator=between(0.1, HOUR_S, "seconds"),
        help="Timeout of a call in seconds, and the longest pause without data during an upload.",
    )
    upload_timeout: float = setting(
        default=600.0, validator=between(0.1, DAY_S, "seconds"), help="Timeout of the upload of one file in seconds."
    )
    download_timeout: float = setting(
        default=600.0,
        validator=between(0.1, DAY_S, "seconds"),
        help="Timeout of the download of one result in seconds.",
    )
    keep_alive: float = setting(
        default=5.0, validator=between(0, HOUR_S, "seconds"), help="Seconds after which an idle connection is closed."
    )
    keep_alive_connections: int = setting(
        default=8, validator=between(0, 1000), help="Maximum number of idle connections."
    )
    follow: bool = setting(default=True, help=FOLLOW_HELP)
    result_files: tuple[str, ...] = setting(default=("*",), validator=check_patterns, help=RESULT_FILES_HELP)
    delete_payloads: bool = setting(default=False, help=DELETE_PAYLOADS_HELP)

    def __attrs_post_init__(self) -> None:
        """Check the combination of the fields."""
        if self.client_key and not self.client_certificate:
            raise ValueError("client-key needs client-certificate")
        if not self.endpoint.startswith("https:") and (self.ca_file or self.client_certificate):
            raise ValueError("ca-file and client-certificate need an endpoint that begins with https://")
