"""States of the upper layer, and the indications that it reports to its service-user (PS3.8 sections 9.2 and 7)."""

from __future__ import annotations

from enum import Enum
from typing import TypeAlias

from attrs import frozen

from dicom_adapter.net.associate import AssociateRequest


class AssociationState(Enum):
    """States of an acceptor that does not release associations itself (PS3.8 tables 9-1 to 9-5)."""

    IDLE = "Sta1"
    AWAITING_REQUEST = "Sta2"
    AWAITING_DECISION = "Sta3"
    ESTABLISHED = "Sta6"
    AWAITING_RELEASE = "Sta8"
    AWAITING_CLOSE = "Sta13"


@frozen
class AssociateIndication:
    """A-ASSOCIATE indication. The service-user must call `accept` or `reject` next."""

    request: AssociateRequest


@frozen
class ProviderRejection:
    """The service-provider has rejected a request. There is no indication for this in PS3.8: it is only logged."""

    request: AssociateRequest


class Fragment:
    """P-DATA indication: a piece of a presentation data value. `data` is a view of the received bytes, not a copy."""

    __slots__ = ("context_id", "data", "is_command", "is_last")

    def __init__(self, context_id: int, is_command: bool, is_last: bool, data: memoryview) -> None:
        self.context_id = context_id
        self.is_command = is_command
        self.is_last = is_last  # this piece is the end of the command set or of the data set of its message
        self.data = data


@frozen
class ReleaseIndication:
    """A-RELEASE indication. The service-user must call `release` after it has sent all outstanding responses."""


@frozen
class AssociationEnd:
    """A-ABORT or A-P-ABORT indication, or the end of the connection. The last indication of an association."""

    how: str  # "aborted" by the peer, "lost" connection, "violation" of the protocol by the peer
    reason: str = ""


Indication: TypeAlias = "AssociateIndication | ProviderRejection | Fragment | ReleaseIndication | AssociationEnd"
