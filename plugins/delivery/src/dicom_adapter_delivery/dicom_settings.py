"""Settings of the `dicom` submitter."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from attrs import Attribute, frozen

from dicom_adapter import ByteSize, between, not_empty, setting

HOUR_S = 3600
DAY_S = 24 * HOUR_S
AE_TITLE = re.compile(r"(?! )[ -\[\]-~]{1,16}(?<! )")  # VR AE (PS3.5 section 6.2) without blanks at the ends
SMALLEST_PDU, LARGEST_PDU = 4096, 1 << 20  # bytes
MOST_ASSOCIATIONS = 32


# The docstring of a validator is shown as the rule in the reference of the settings.
def _ae_title(_instance: Any, _attribute: Attribute[str], value: str) -> None:
    """1 to 16 ASCII characters without backslash"""
    if not AE_TITLE.fullmatch(value):
        raise ValueError("must be an AE title: 1 to 16 ASCII characters, no backslash, no blanks at the ends")


@frozen(kw_only=True)
class DicomPeerTls:
    """The table `tls`."""

    ca_file: Path | None = setting(
        default=None, help="PEM file of the trusted authorities; default: the authorities of the system."
    )
    client_certificate: Path | None = setting(default=None, help="PEM file of the client certificate.")
    client_key: Path | None = setting(
        default=None,
        help="PEM file of the client's private key, without a password; default: the key is in `client-certificate`.",
    )
    server_name: str | None = setting(default=None, help="Name in the node's certificate; default: `host`.")
    check_name: bool = setting(
        default=True,
        help=(
            "If true, the node's certificate must contain the name. `false` accepts each certificate of the trusted "
            "authorities, for nodes whose certificates contain no host name; it requires `ca-file`."
        ),
    )

    def __attrs_post_init__(self) -> None:
        """Check the combination of the fields."""
        if self.client_key and not self.client_certificate:
            raise ValueError("client-key needs client-certificate")
        if not self.check_name and not self.ca_file:
            raise ValueError("check-name = false needs ca-file: otherwise, each public certificate would be accepted")
        if not self.check_name and self.server_name:
            raise ValueError("server-name has no effect with check-name = false: remove one of them")


@frozen(kw_only=True)
class DicomSettings:
    """The [submitters.<name>] table of `type = "dicom"`."""

    host: str = setting(validator=not_empty, help="Host name or IP address of the DICOM node.")
    port: int = setting(validator=between(1, 65535), help="TCP port of the DICOM node, such as 104 or 11112.")
    ae_title: str = setting(validator=_ae_title, help="AE title of the DICOM node (called AE title).")
    calling_ae_title: str = setting(
        default="DICOM-ADAPTER",
        validator=_ae_title,
        help="AE title of the adapter (calling AE title). Many nodes accept only those that are configured there.",
    )
    associations: int = setting(
        default=1,
        validator=between(1, MOST_ASSOCIATIONS),
        help=(
            "Maximum number of associations at the same time. More than one helps when the node is slow or far away, "
            "if it accepts several; `parallel` limits the number, too."
        ),
    )
    connect_timeout: float = setting(
        default=10.0,
        validator=between(0.1, HOUR_S, "seconds"),
        help="Timeout of the connection, and of the answer to the association request, in seconds.",
    )
    response_timeout: float = setting(
        default=60.0,
        validator=between(0.1, HOUR_S, "seconds"),
        help="Timeout of a response in seconds, and the longest pause without progress while a file is sent.",
    )
    upload_timeout: float = setting(
        default=600.0,
        validator=between(0.1, DAY_S, "seconds"),
        help="Timeout of the transfer of one file in seconds.",
    )
    idle_timeout: float = setting(
        default=3.0,
        validator=between(0.1, HOUR_S, "seconds"),
        help="Seconds after which an unused association is released.",
    )
    max_pdu: ByteSize = setting(
        default=ByteSize(LARGEST_PDU),
        validator=between(SMALLEST_PDU, LARGEST_PDU, "bytes"),
        help="Longest P-DATA-TF that is sent. The node's own limit, which is often 16 KiB, is always respected.",
    )
    storage_commitment: bool = setting(
        default=False,
        help=(
            "Request storage commitment: a job succeeds when the node has taken responsibility for all of its "
            "instances. Jobs are `running` until the node reports this, and `failed` if it reports a failure."
        ),
    )
    commitment_port: int | None = setting(
        default=None,
        validator=between(1, 65535),
        help=(
            "TCP port on which the adapter accepts reports of storage commitment; most nodes send them over an "
            "association of their own. If omitted, reports are only accepted on the association of the request. "
            "Requires `storage-commitment`."
        ),
    )
    commitment_bind: str = setting(
        default="0.0.0.0",  # noqa: S104 - the node is another machine
        validator=not_empty,
        help="IP address to listen on at `commitment-port`.",
    )
    commitment_wait: float = setting(
        default=5.0,
        validator=between(0, HOUR_S, "seconds"),
        help="Seconds during which a report is awaited on the association of the request.",
    )
    commitment_repeat: float = setting(
        default=3600.0,
        validator=between(1, DAY_S, "seconds"),
        help=(
            "Seconds after which a request that no report has answered is repeated. During this time after its start, "
            "a job does not fail because of an instance that the node may still commit (failure reason 0x0110, 0x0112 "
            "or 0x0213)."
        ),
    )
    tls: bool | DicomPeerTls = setting(
        default=False,
        help=(
            "DICOM over TLS. `true` trusts the authorities of the system; a table (below) may name other authorities "
            "and a client certificate."
        ),
    )

    def __attrs_post_init__(self) -> None:
        """Check the combination of the fields."""
        if self.commitment_port is not None and not self.storage_commitment:
            raise ValueError("commitment-port needs storage-commitment = true")
