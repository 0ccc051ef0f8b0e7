"""The configuration of what listens: the tables [dicom], [dicom.tls] and [http]."""

from __future__ import annotations

import re
from enum import Enum
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from attrs import Attribute, evolve, frozen
from attrs.validators import optional

from dicom_adapter.api.settings import ByteSize, Secret, at_least, between, setting
from dicom_adapter.config.names import Address, Network

DAY_S = 86_400
SHORTEST_TOKEN = 16  # characters: shorter ones can be guessed
TOKEN = re.compile(f"[!-~]{{{SHORTEST_TOKEN},}}")
SMALLEST_PDU, LARGEST_PDU = 4096, 1_048_576  # bytes; PS3.8 has no bounds, but memory and round trips do


def _pdu_length(_instance: Any, _attribute: Attribute[Any], value: int) -> None:
    """0, or 4096 to 1048576 bytes"""

    if value != 0 and not SMALLEST_PDU <= value <= LARGEST_PDU:
        raise ValueError(f"must be 0 (no limit) or from {SMALLEST_PDU} to {LARGEST_PDU} bytes")


class TlsProfile(str, Enum):
    """A secure transport connection profile of PS3.15 annex B."""

    BCP195 = "bcp195"  # what BCP 195 recommends, and what it tolerates for older peers
    NON_DOWNGRADING = "bcp195-non-downgrading"  # what it recommends, and nothing else


class ClientCertificates(str, Enum):
    """Whether callers have to say who they are."""

    REQUIRED = "required"
    OPTIONAL = "optional"  # one that is shown has to be good


@frozen(kw_only=True)
class TlsConfig:
    """[dicom.tls]: DICOM over TLS on the listening port."""

    certificate: Path = setting(
        help="PEM file of the adapter's certificate, followed by those that lead to its authority."
    )
    key: Path | None = setting(
        default=None,
        help=(
            "PEM file of its private key, without a password; left out, it is in `certificate`. Nobody but the "
            "service's user should be able to read it."
        ),
    )
    client_ca: Path | None = setting(
        default=None,
        help=(
            "PEM file of the authorities whose client certificates are good. Left out, no caller is asked for a "
            "certificate."
        ),
    )
    client_certificates: ClientCertificates | None = setting(
        default=None,
        help=(
            "Whether callers must show a certificate: left out, they must when `client-ca` is given. With "
            '`"optional"` one that is shown has to be good all the same. Needs `client-ca`.'
        ),
    )
    profile: TlsProfile = setting(default=TlsProfile.BCP195, help="TLS profile of PS3.15 annex B.")

    def __attrs_post_init__(self) -> None:
        if self.client_certificates is not None and self.client_ca is None:
            raise ValueError("client-certificates needs client-ca, the authorities whose certificates are good")


@frozen(kw_only=True)
class DicomConfig:
    """[dicom]: the listening port and the limits of associations."""

    port: int = setting(
        default=11112, validator=between(0, 65535), help="TCP port; 0 takes any free one. `run --port` goes before it."
    )
    bind: Address = setting(default="0.0.0.0", help='IP address to listen on; `"127.0.0.1"` for this machine only.')  # noqa: S104 - modalities are elsewhere
    receivers: int = setting(
        default=1,
        validator=between(1, 64),
        help="Processes that receive, side by side on the same port. Not above `max-associations`, which they share.",
    )
    max_associations: int = setting(
        default=25,
        validator=between(1, 1000),
        help="Associations open at the same time. One more is rejected as transient.",
    )
    max_associations_per_peer: int | None = setting(
        default=None,
        validator=optional(between(1, 1000)),
        help=(
            "Associations open at the same time from one IP address. One more is rejected as transient. Left out, "
            "one peer may take all of them."
        ),
    )
    proxies: tuple[Network, ...] = setting(
        default=(),
        help="Balancers: their connections begin with a header of the PROXY protocol, and nobody else's do.",
    )
    association_timeout: float = setting(
        default=30.0,
        validator=between(0.1, DAY_S, "seconds"),
        help="Seconds that a new connection may take to request its association (the ARTIM timer).",
    )
    idle_timeout: float = setting(
        default=60.0,
        validator=between(0.1, DAY_S, "seconds"),
        help="Seconds after which an association on which nothing happens is aborted.",
    )
    drain_timeout: float = setting(
        default=30.0,
        validator=between(0, DAY_S, "seconds"),
        help="Seconds that a stop waits for open associations; what is open then is aborted.",
    )
    max_pdu: int = setting(
        default=131_072,
        validator=_pdu_length,
        help="Longest PDU to receive, as told to the peer; 0 is no limit.",
    )
    max_data_set: ByteSize = setting(
        default=ByteSize(16 * 10**9),
        validator=at_least(1, "bytes"),
        help=(
            'Largest data set to take, in bytes or as a text such as `"16 GB"`. A larger one is answered with '
            "0xC000, and what had come of it is deleted."
        ),
    )
    tls: TlsConfig | None = setting(default=None, help="DICOM over TLS; left out, connections are not encrypted.")

    def __attrs_post_init__(self) -> None:
        if self.receivers > self.max_associations:
            most = self.max_associations
            raise ValueError(
                f"receivers = {self.receivers} must not be above max-associations = {most}, which they share"
            )

    def share_of(self, receiver: int) -> DicomConfig:
        """The part that one of the receivers, counted from 1, has in what they share."""
        share, rest = divmod(self.max_associations, self.receivers)
        return evolve(self, receivers=1, max_associations=share + (receiver <= rest))


def _token(_instance: Any, _attribute: Attribute[Any], value: Secret | None) -> None:
    """at least 16 characters of visible ASCII"""

    if value is not None and not TOKEN.fullmatch(value):
        raise ValueError(f"must have at least {SHORTEST_TOKEN} characters, all of them visible ASCII")


@frozen(kw_only=True)
class HttpConfig:
    """[http]: the HTTP server of health and of what plugins bring; without this table there is none."""

    port: int = setting(
        default=8042,
        validator=between(0, 65535),
        help=(
            "TCP port; 0 takes any free one, which the log tells (`http_listening`). A port that cannot be had is "
            "an error at the start."
        ),
    )
    bind: Address = setting(default="127.0.0.1", help="IP address to listen on. Any but a loopback one needs a token.")
    token: Secret | None = setting(
        default=None,
        validator=_token,
        help=(
            "Bearer token that every request has to show: `Authorization: Bearer <token>`. Left out, requests "
            "have to come to `localhost` or a loopback address by name, so that no web page gets in."
        ),
    )

    def __attrs_post_init__(self) -> None:
        if self.token is None and not ip_address(self.bind).is_loopback:
            raise ValueError(
                f"bind = {self.bind} can be reached from other machines, which needs a token: set token, or bind to "
                "127.0.0.1"
            )
