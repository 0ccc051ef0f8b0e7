"""Settings of the `clara-grpc` submitter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import Attribute, frozen

from dicom_adapter import ByteSize, Secret, between, setting
from dicom_adapter_clara_client.platform_results import (
    DELETE_PAYLOADS_HELP,
    FOLLOW_HELP,
    RESULT_FILES_HELP,
    check_patterns,
)

HOUR_S = 3600
DAY_S = 24 * HOUR_S
MIB = 1 << 20
LARGEST_CHUNK_BYTES = 4 * MIB - 512  # gRPC's default maximum message size, minus 512 bytes for the other fields
ENDPOINT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})")
METADATA_KEY = re.compile(r"(?!grpc-|content-type$|te$|user-agent$|host$)[0-9a-z_.-]+(?<!-bin)")
METADATA_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")  # printable ASCII; gRPC drops blanks at the ends


# The docstring of a validator is shown as the rule in the reference of the settings.
def _endpoint(_instance: Any, _attribute: Attribute[str], value: str) -> None:
    """host:port, without a scheme"""
    match = ENDPOINT.fullmatch(value)
    if match is None or not 1 <= int(match["port"]) <= 65535:
        raise ValueError("must be host:port, such as clara.example:50051 or [2001:db8::7]:50051, without a scheme")


def _metadata(_instance: Any, _attribute: Attribute[Any], value: Mapping[str, str]) -> None:
    for key, text in value.items():
        if not METADATA_KEY.fullmatch(key):
            raise ValueError(
                f"must have keys of a-z, 0-9 and . _ - that are not reserved by gRPC and do not end in -bin: "
                f"check {key!r}"
            )
        if not METADATA_VALUE.fullmatch(text):
            raise ValueError(f"must have values of printable ASCII without blanks at the ends: check {key!r}")


@frozen(kw_only=True)
class ClaraTls:
    """The table `tls`."""

    ca_file: Path | None = setting(
        default=None, help="PEM file of the trusted authorities; default: the authorities of the gRPC library."
    )
    client_certificate: Path | None = setting(default=None, help="PEM file of the client certificate.")
    client_key: Path | None = setting(
        default=None,
        help="PEM file of the client's private key, without a password; default: the key is in `client-certificate`.",
    )
    server_name: str | None = setting(
        default=None, help="Name in the platform's certificate; default: the endpoint's host."
    )

    def __attrs_post_init__(self) -> None:
        """Check the combination of the fields."""
        if self.client_key and not self.client_certificate:
            raise ValueError("client-key needs client-certificate")


@frozen(kw_only=True)
class ClaraGrpcSettings:
    """The [submitters.<name>] table of `type = "clara-grpc"`."""

    endpoint: str = setting(
        validator=_endpoint,
        help='Host and port of the platform, such as `"clara.example:50051"` or `"[2001:db8::7]:50051"`.',
    )
    tls: bool | ClaraTls = setting(
        default=False,
        help=(
            "TLS, if the platform supports it; NVIDIA's does not. `true` trusts the authorities of the gRPC library; "
            "a table (below) may name other authorities."
        ),
    )
    metadata: Mapping[str, Secret | str] = setting(
        factory=dict,
        validator=_metadata,
        help=(
            "gRPC metadata of every call, such as `authorization`. Names consist of `a-z`, `0-9`, `.`, `_` and `-`, do "
            "not end in `-bin` and are not reserved by gRPC; values are printable ASCII without leading or trailing "
            "blanks."
        ),
    )
    deadline: float = setting(
        default=30.0, validator=between(0.1, HOUR_S, "seconds"), help="Timeout of a call in seconds."
    )
    upload_deadline: float = setting(
        default=600.0, validator=between(0.1, DAY_S, "seconds"), help="Timeout of the upload of one file in seconds."
    )
    download_deadline: float = setting(
        default=600.0,
        validator=between(0.1, DAY_S, "seconds"),
        help="Timeout of the download of one result in seconds.",
    )
    chunk_size: ByteSize = setting(
        default=ByteSize(MIB),
        validator=between(1024, LARGEST_CHUNK_BYTES, "bytes"),
        help='Number of bytes of a file in one message, or a text such as `"64 KiB"`.',
    )
    keepalive: float = setting(
        default=300.0,
        validator=between(10, DAY_S, "seconds"),
        help=(
            "Seconds without data during a call after which a keepalive ping is sent to the platform. By default, "
            "a gRPC server closes connections with more frequent pings than one in 300 seconds."
        ),
    )
    follow: bool = setting(default=True, help=FOLLOW_HELP)
    result_files: tuple[str, ...] = setting(default=("*",), validator=check_patterns, help=RESULT_FILES_HELP)
    delete_payloads: bool = setting(default=False, help=DELETE_PAYLOADS_HELP)
