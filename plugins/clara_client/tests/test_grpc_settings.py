"""Settings of the `clara-grpc` submitter, read from TOML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cattrs import BaseValidationError

from dicom_adapter import ByteSize, Secret
from dicom_adapter.config.convert import make_converter
from dicom_adapter.config.problems import flatten
from dicom_adapter_clara_client.grpc_settings import ClaraGrpcSettings, ClaraTls


def structured(tmp_path: Path, **table: Any) -> ClaraGrpcSettings:
    table = {"endpoint": "clara.example:50051", **table}
    converter = make_converter(tmp_path, {"TOKEN": "Bearer t0ken"})
    settings = converter.structure(table, ClaraGrpcSettings)
    assert isinstance(settings, ClaraGrpcSettings)
    return settings


def refused(tmp_path: Path, **table: Any) -> str:
    with pytest.raises(BaseValidationError) as raised:
        structured(tmp_path, **table)
    return "\n".join(f"{'.'.join(map(str, fault.where))}: {fault.message}" for fault in flatten(raised.value))


def test_only_the_endpoint_is_required(tmp_path: Path) -> None:
    """All other settings have defaults for NVIDIA's own platform."""
    expected = ClaraGrpcSettings(
        endpoint="clara.example:50051",
        tls=False,
        metadata={},
        deadline=30.0,
        upload_deadline=600.0,
        chunk_size=ByteSize(1 << 20),
        keepalive=300.0,
    )
    assert expected == structured(tmp_path)


def test_every_setting_is_read(tmp_path: Path) -> None:
    """Secrets are read from their source; paths are relative to the configuration file's folder."""
    settings = structured(
        tmp_path,
        **{
            "tls": {"ca-file": "ca.pem", "client-certificate": "/c.pem", "client-key": "k.pem", "server-name": "clara"},
            "metadata": {"authorization": {"env": "TOKEN"}, "x-site": "north"},
            "deadline": 5,
            "upload-deadline": 50,
            "chunk-size": "64 KiB",
            "keepalive": 600,
        },
    )
    tls = ClaraTls(
        ca_file=tmp_path / "ca.pem",
        client_certificate=Path("/c.pem"),
        client_key=tmp_path / "k.pem",
        server_name="clara",
    )
    assert tls == settings.tls
    assert {"authorization": "Bearer t0ken", "x-site": "north"} == settings.metadata
    assert isinstance(settings.metadata["authorization"], Secret)
    assert (5.0, 50.0, 65536, 600.0) == (
        settings.deadline,
        settings.upload_deadline,
        settings.chunk_size,
        settings.keepalive,
    )


@pytest.mark.parametrize("tls", [True, False])
def test_tls_can_be_true_or_false(tls: bool, tmp_path: Path) -> None:
    """A table is needed only for settings other than the defaults."""
    assert tls is structured(tmp_path, tls=tls).tls
    assert ClaraTls() == structured(tmp_path, tls={}).tls


@pytest.mark.parametrize("endpoint", ["127.0.0.1:1", "[2001:db8::7]:65535", "clara_1.example-site.org:50051"])
def test_an_endpoint_is_host_and_port(endpoint: str, tmp_path: Path) -> None:
    """Names, IPv4 addresses and IPv6 addresses are accepted."""
    assert endpoint == structured(tmp_path, endpoint=endpoint).endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "clara",
        ":50051",
        "clara:",
        "clara:0",
        "clara:65536",
        "http://clara:1",
        "unix:/x",
        "a b:1",
        "::1:1",
        "clara:1\n",
    ],
)
def test_an_invalid_endpoint_is_refused(endpoint: str, tmp_path: Path) -> None:
    """gRPC would interpret an endpoint with a scheme differently."""
    assert "endpoint: must be host:port, such as clara.example:50051" in refused(tmp_path, endpoint=endpoint)


@pytest.mark.parametrize(
    "key", ["Authorization", "grpc-timeout", "x-bin", "", "a b", ":path", "te", "user-agent", "x\n"]
)
def test_keys_that_grpc_cannot_send_are_refused(key: str, tmp_path: Path) -> None:
    """Otherwise every call would fail."""
    assert "must have keys of a-z, 0-9" in refused(tmp_path, metadata={key: "x"})


@pytest.mark.parametrize("value", ["", " x", "x\n", "é"])
def test_values_that_grpc_cannot_send_are_refused_without_quoting_them(value: str, tmp_path: Path) -> None:
    """The values may be secrets."""
    assert "must have values of printable ASCII without blanks at the ends: check 'x-site'" in refused(
        tmp_path, metadata={"x-site": value}
    )


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("deadline", 0, "must be from 0.1 to 3600 seconds"),
        ("upload-deadline", 86401, "must be from 0.1 to 86400 seconds"),
        ("chunk-size", "4 MiB", "must be from 1024 to 4193792 bytes"),
        ("keepalive", 1, "must be from 10 to 86400 seconds"),
        ("tls", "yes", "must be true or false"),
        ("tls", {"client-key": "k.pem"}, "client-key needs client-certificate"),
        ("tls", {"ca": "x"}, "ca"),
        ("metadata", {"x": 1}, "must be a text"),
    ],
)
def test_an_invalid_setting_is_refused(key: str, value: Any, expected: str, tmp_path: Path) -> None:
    """The error names the violated rule."""
    assert expected in refused(tmp_path, **{key: value})
