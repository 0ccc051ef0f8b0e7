"""Settings of the `clara-rest` submitter, and errors of invalid settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from attrs import fields

from dicom_adapter import Secret
from dicom_adapter_clara_client.rest_settings import ClaraRestSettings


def check(name: str, value: Any) -> None:
    """Run the validator of one setting, as the core does."""
    field = getattr(fields(ClaraRestSettings), name)
    field.validator(None, field, value)


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://clara.example",
        "https://clara.example:8443",
        "http://127.0.0.1:8080/",
        "http://[::1]:8080",
        "https://gateway.example/clara/api",
    ],
)
def test_an_endpoint_may_have_a_port_and_a_path(endpoint: str) -> None:
    """Both are optional."""
    assert endpoint == ClaraRestSettings(endpoint=endpoint).endpoint


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("", "must begin with http"),
        ("clara.example:8443", "must begin with http"),
        ("ftp://clara.example", "must begin with http"),
        ("https://", "and a host name"),
        ("https://clara.example:0", "must not have port 0"),
        ("https://clara.example:99999", "not a URL"),
        ("https://[::1", "not a URL"),
        ("https://clära.example", "a host name in ASCII"),
        ("https://user:password@clara.example", "must not contain a user or password: set token"),
        ("https://clara.example/?a=b", "no query"),
        ("https://clara.example/#a", "no query"),
        ("https://clara.example/a b", "no query"),
        ("https://clara.example/a\x00b", "no query"),
        ("https://clara.example/v1/", "must not end with /v1"),
    ],
)
def test_an_invalid_endpoint_is_refused(endpoint: str, reason: str) -> None:
    """The error has an example and the reason."""
    with pytest.raises(ValueError, match=f"must be a URL such as https://clara.example:8443; .*{reason}"):
        check("endpoint", endpoint)


@pytest.mark.parametrize("token", ["", "two words", "a\r\nHost: x", "ä", "a=b"])
def test_a_token_with_other_characters_is_refused(token: str) -> None:
    """RFC 6750 defines the characters; the error does not quote the token."""
    with pytest.raises(ValueError, match="must be a bearer token") as raised:
        check("token", Secret(token))
    assert not token or token not in str(raised.value)


def test_the_token_is_not_in_the_repr() -> None:
    """Settings may be logged."""
    assert "abc123" not in repr(ClaraRestSettings(endpoint="https://x.example", token=Secret("abc123")))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", 0),
        ("timeout", 3601),
        ("upload_timeout", 0),
        ("upload_timeout", 86_401),
        ("keep_alive", -1),
        ("keep_alive_connections", -1),
    ],
)
def test_times_and_numbers_have_limits(name: str, value: float) -> None:
    """No wait may be unlimited."""
    with pytest.raises(ValueError, match="must be from"):
        check(name, value)


def test_a_key_needs_its_certificate() -> None:
    """A key is used only with a certificate."""
    with pytest.raises(ValueError, match="client-key needs client-certificate"):
        ClaraRestSettings(endpoint="https://x.example", client_key=Path("key.pem"))


@pytest.mark.parametrize("name", ["ca_file", "client_certificate"])
def test_certificates_need_tls(name: str) -> None:
    """With http:// the certificates would be ignored silently."""
    settings: dict[str, Any] = {"endpoint": "http://x.example", name: Path("file.pem")}
    with pytest.raises(ValueError, match="need an endpoint that begins with https://"):
        ClaraRestSettings(**settings)
