"""The configuration of the listening ports: the tables [dicom], [dicom.tls] and [http]."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from attrs import Attribute, evolve, frozen
from attrs.validators import optional

from dicom_adapter.api.settings import ByteSize, Secret, at_least, between, setting
from dicom_adapter.config.names import Address, Network, TokenName

DAY_S = 86_400
SHORTEST_TOKEN = 16  # characters: shorter tokens can be guessed
# Names of principals without a table [http.tokens.<name>]: the key `token`, and local programs without a token
RESERVED_NAMES = frozenset({"token", "local"})
TOKEN = re.compile(f"[!-~]{{{SHORTEST_TOKEN},}}")
SMALLEST_PDU, LARGEST_PDU = 4096, 1_048_576  # bytes; PS3.8 sets no bounds: these limit memory and round trips


# The first line of a validator's docstring is shown as the rule in the reference of the settings.
def _validate_pdu_length(_instance: Any, _attribute: Attribute[Any], value: int) -> None:
    """0, or 4096 to 1048576 bytes

    Validate the length of a PDU.
    """
    if value != 0 and not SMALLEST_PDU <= value <= LARGEST_PDU:
        raise ValueError(f"must be 0 (no limit) or from {SMALLEST_PDU} to {LARGEST_PDU} bytes")


class TlsProfile(str, Enum):
    """A secure transport connection profile of PS3.15 annex B."""

    BCP195 = "bcp195"  # the cipher suites that BCP 195 recommends, and the suites that it permits for older peers
    NON_DOWNGRADING = "bcp195-non-downgrading"  # only the cipher suites that BCP 195 recommends


class ClientCertificates(str, Enum):
    """The policy for client certificates."""

    REQUIRED = "required"  # a client must present a valid certificate
    OPTIONAL = "optional"  # a client may present no certificate; if it presents one, the certificate must be valid


@frozen(kw_only=True)
class TlsConfig:
    """[dicom.tls]: DICOM over TLS on the listening port."""

    certificate: Path = setting(
        help="PEM file with the adapter's certificate, followed by the intermediate certificates of its chain."
    )
    key: Path | None = setting(
        default=None,
        help=(
            "PEM file with the private key, without a password; if omitted, the key is in `certificate`. Only the "
            "service's user should be able to read it."
        ),
    )
    client_ca: Path | None = setting(
        default=None,
        help=(
            "PEM file with the authorities that are trusted for client certificates. If omitted, no client "
            "certificates are requested."
        ),
    )
    client_certificates: ClientCertificates | None = setting(
        default=None,
        help=(
            "Policy for client certificates; if omitted, they are required when `client-ca` is set. With "
            '`"optional"`, a client may present no certificate; if it presents one, the certificate must be valid. '
            "This key requires `client-ca`."
        ),
    )
    profile: TlsProfile = setting(default=TlsProfile.BCP195, help="TLS profile of PS3.15 annex B.")

    def __attrs_post_init__(self) -> None:
        if self.client_certificates is not None and self.client_ca is None:
            raise ValueError("client-certificates needs client-ca, the file with the trusted authorities")


@frozen(kw_only=True)
class DicomConfig:
    """[dicom]: the listening port and the limits of associations."""

    port: int = setting(
        default=11112,
        validator=between(0, 65535),
        help="TCP port; 0 selects any free port. `run --port` overrides this key.",
    )
    bind: Address = setting(default="0.0.0.0", help='IP address to listen on; `"127.0.0.1"` for this machine only.')  # noqa: S104 - modalities are other machines
    receivers: int = setting(
        default=1,
        validator=between(1, 64),
        help=(
            "Number of receivers, on the same port. They share `max-associations`, which must be at least the number "
            "of receivers."
        ),
    )
    max_associations: int = setting(
        default=25,
        validator=between(1, 1000),
        help="Maximum number of open associations. Further associations are rejected as transient.",
    )
    max_associations_per_peer: int | None = setting(
        default=None,
        validator=optional(between(1, 1000)),
        help=(
            "Maximum number of open associations from one IP address. Further associations are rejected as transient. "
            "If omitted, only `max-associations` limits the associations of one address."
        ),
    )
    proxies: tuple[Network, ...] = setting(
        default=(),
        help=(
            "Addresses or networks of load balancers. Connections from these addresses must begin with a PROXY "
            "protocol header; connections from other addresses must not."
        ),
    )
    association_timeout: float = setting(
        default=30.0,
        validator=between(0.1, DAY_S, "seconds"),
        help="Seconds within which a new connection must request its association (the ARTIM timer).",
    )
    idle_timeout: float = setting(
        default=60.0,
        validator=between(0.1, DAY_S, "seconds"),
        help="Seconds of inactivity after which an association is aborted.",
    )
    pdu_timeout: float = setting(
        default=60.0,
        validator=between(0.1, DAY_S, "seconds"),
        help=(
            "Seconds within which a PDU must be complete after its first byte; otherwise the association is aborted. "
            "With `max-pdu = 0`, `operation-timeout` applies instead."
        ),
    )
    operation_timeout: float = setting(
        default=3600.0,
        validator=between(0.1, DAY_S, "seconds"),
        help=(
            "Seconds within which a message, such as a C-STORE with its data set, must be complete after its "
            "beginning; otherwise the association is aborted."
        ),
    )
    drain_timeout: float = setting(
        default=30.0,
        validator=between(0, DAY_S, "seconds"),
        help="Seconds to wait for the end of open associations at a stop; after that time they are aborted.",
    )
    max_pdu: int = setting(
        default=131_072,
        validator=_validate_pdu_length,
        help="Maximum length of a received PDU in bytes, as announced to the peer; 0 means no limit.",
    )
    max_data_set: ByteSize = setting(
        default=ByteSize(16 * 10**9),
        validator=at_least(1, "bytes"),
        help=(
            'Maximum size of a data set, in bytes or as text, for example `"16 GB"`. A larger data set is refused '
            "with status 0xC000, and the bytes already received are deleted."
        ),
    )
    tls: TlsConfig | None = setting(default=None, help="DICOM over TLS; if omitted, connections are not encrypted.")

    def __attrs_post_init__(self) -> None:
        if self.receivers > self.max_associations:
            raise ValueError(
                f"receivers = {self.receivers} must not be above max-associations = {self.max_associations}, "
                "which the receivers share"
            )

    def share_of(self, receiver: int) -> DicomConfig:
        """Return the configuration of one receiver, counted from 1, with its share of the associations."""
        share, rest = divmod(self.max_associations, self.receivers)
        return evolve(self, receivers=1, max_associations=share + (receiver <= rest))


def _validate_token(_instance: Any, _attribute: Attribute[Any], value: Secret | None) -> None:
    """at least 16 characters of visible ASCII

    Validate a bearer token.
    """
    if value is not None and not TOKEN.fullmatch(value):
        raise ValueError(f"must have at least {SHORTEST_TOKEN} characters, all of them visible ASCII")


def _validate_secret(_instance: Any, _attribute: Attribute[Any], value: Secret) -> None:
    """at least 16 characters of visible ASCII

    Validate the secret of a token.
    """
    _validate_token(None, _attribute, value)


class TokenRole(str, Enum):
    """The role of the clients that have a token."""

    VIEWER = "viewer"  # may read everything except patient data
    OPERATOR = "operator"  # may read and change everything


@frozen(kw_only=True)
class TokenConfig:
    """[http.tokens.<name>]: a token of the HTTP server. Changes are recorded with its name."""

    role: TokenRole = setting(
        help=(
            "`viewer`: may read everything except patient data; `operator`: may read and change everything, and use "
            "the routes of plugins."
        )
    )
    secret: Secret = setting(validator=_validate_secret, help="The token: a secret from a file or the environment.")


@frozen(kw_only=True)
class HttpConfig:
    """[http]: the HTTP server for health and plugins; it runs only if this table is present."""

    port: int = setting(
        default=8042,
        validator=between(0, 65535),
        help=(
            "TCP port; 0 selects any free port; its number is logged (`http_listening`). If the port is not "
            "available, the start fails."
        ),
    )
    bind: Address = setting(
        default="127.0.0.1",
        help="IP address to listen on. An address that is not a loopback address requires a token.",
    )
    token: Secret | None = setting(
        default=None,
        validator=_validate_token,
        help=(
            "Token of an operator: `Authorization: Bearer <token>`; its name in events is `token`. If there is neither "
            "this key nor a table `[http.tokens.<name>]`, requests need no token, and their header `Host` must name "
            "`localhost` or a loopback address."
        ),
    )
    tokens: Mapping[TokenName, TokenConfig] = setting(
        factory=dict,
        help=(
            "Tokens with roles, by name. A name has 1 to 64 letters, digits, `.`, `_` and `-`, and begins with a "
            "letter or digit."
        ),
    )
    max_connections: int = setting(
        default=200,
        validator=between(1, 10_000),
        help="Maximum number of open connections. Further connections are closed at once.",
    )
    max_connections_per_peer: int | None = setting(
        default=None,
        validator=optional(between(1, 10_000)),
        help="Maximum number of open connections from one IP address; if omitted, half of `max-connections`.",
    )

    def __attrs_post_init__(self) -> None:
        if not self.has_token and not ip_address(self.bind).is_loopback:
            raise ValueError(
                f"bind = {self.bind} can be reached from other machines, so a token is required: set token, or bind "
                "to 127.0.0.1"
            )
        reserved = sorted(RESERVED_NAMES & self.tokens.keys())
        if reserved:
            raise ValueError(f"tokens.{reserved[0]} must have another name: '{reserved[0]}' has a meaning in events")
        names: dict[str, str] = {} if self.token is None else {self.token: "token"}
        for name, table in self.tokens.items():
            if table.secret in names:
                raise ValueError(f"tokens.{name} must not have the same secret as {names[table.secret]}")
            names[table.secret] = f"tokens.{name}"

    @property
    def has_token(self) -> bool:
        """True if requests need a token."""
        return self.token is not None or bool(self.tokens)
