"""Values that pass between the network and the first two steps of the flow, association and store.

Protocol code (at present only DIMSE, in `net`) converts received messages to requests, calls the steps and translates
the results to status codes of the protocol. The steps depend on no protocol, and protocol code imports no step.

Internal to the core: `dicom_adapter` does not export these values, and plugins do not use them.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Protocol

from attrs import frozen

from dicom_adapter.api.values import InstanceStorageInfo

# --- association ------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class AssociationRequest:
    """Requestor and called AE title of an association, before it is accepted."""

    called_ae_title: str  # without padding
    calling_ae_title: str  # without padding
    peer_address: str  # IP address of the requestor
    certificate_names: frozenset[str] = frozenset()  # common and DNS names of the requestor's certificate


class Rejection(Enum):
    """Reason that the requestor receives when its association is rejected (PS3.8 9.3.4)."""

    CALLED_AE_TITLE_NOT_RECOGNIZED = "called AE title not recognized"
    CALLING_AE_TITLE_NOT_RECOGNIZED = "calling AE title not recognized"
    TEMPORARY_CONGESTION = "temporary congestion"
    LOCAL_LIMIT_EXCEEDED = "local limit exceeded"


class RejectionCause(str, Enum):
    """Cause that operators see when an association, or a connection before its association, is rejected."""

    CALLED_AE_TITLE = "called-ae-title"  # the called AE title is not configured
    CALLING_AE_TITLE = "calling-ae-title"  # the requestor is not allowed
    PROTOCOL = "protocol"  # version or application context not supported
    STOPPED = "stopped"  # the AE title is stopped, or the service is stopping
    UNDECIDED = "undecided"  # the decision failed, for example because the ledger was locked
    LIMIT = "limit"  # the limit of associations or connections is reached
    SPACE = "space"  # nothing can be stored
    TLS = "tls"  # the TLS handshake failed
    NOT_DICOM = "not-dicom"  # the peer sent something else than an association request
    PROXY = "proxy"  # a proxy sent no valid PROXY header


@frozen(kw_only=True)
class ContextRules:
    """The presentation contexts that an AE title accepts, among all contexts that the adapter supports."""

    transfer_syntaxes: frozenset[str] | None = None  # UIDs; None: all that DICOM defines
    # True: if a presentation context proposes no transfer syntax of the field above, a transfer syntax that DICOM does
    # not define is accepted.
    accepts_unknown_transfer_syntaxes: bool = False
    ignored_sop_classes: frozenset[str] = frozenset()  # UIDs; their instances are acknowledged but not stored


@frozen(kw_only=True)
class AssociationDecision:
    """Decision on an association request: accepted if `rejection` is None."""

    rejection: Rejection | None = None
    cause: RejectionCause | None = None  # None if accepted
    reason: str = ""  # reason for the log and the operator; "" if accepted
    contexts: ContextRules = ContextRules()  # rules for the presentation contexts; used only if accepted


@frozen(kw_only=True)
class RejectedPeer:
    """A peer whose association, or whose connection before its association, was rejected."""

    peer_address: str
    calling_ae_title: str = ""  # "" if no association was requested
    called_ae_title: str = ""  # "" if no association was requested
    cause: RejectionCause
    reason: str  # without patient data

    @classmethod
    def by(cls, decision: AssociationDecision, request: AssociationRequest) -> RejectedPeer:
        """Return the peer whose association request is rejected by this decision."""
        return cls(
            peer_address=request.peer_address,
            calling_ae_title=request.calling_ae_title,
            called_ae_title=request.called_ae_title,
            cause=decision.cause or RejectionCause.STOPPED,  # every rejection of the adapter has a cause
            reason=decision.reason,
        )


# --- store ------------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class StoreRequest:
    """Request to store one instance, before its data set arrives."""

    ae_title: str  # called AE title, without padding
    calling_ae_title: str  # without padding
    peer_address: str  # IP address of the requestor
    association_id: str
    sop_class_uid: str  # from the request (DIMSE: Affected SOP Class UID)
    sop_instance_uid: str  # from the request (DIMSE: Affected SOP Instance UID)
    transfer_syntax_uid: str


class StoreOutcome(Enum):
    """Result of a request to store an instance."""

    STORED = "stored"  # durable; the row is in the ledger, or the follower will enter it
    ALREADY_STORED = "already stored"  # the same data set is pending or quarantined; acknowledged
    SUPERSEDED = "superseded"  # restored after a crash, but a later arrival with the same UID is pending; acknowledged
    IGNORED = "ignored"  # the SOP class is configured to be ignored; acknowledged
    SOP_CLASS_NOT_SUPPORTED = "SOP class not supported"
    OUT_OF_SPACE = "out of space"  # the sender may try again later
    DOES_NOT_MATCH = "does not match"  # the data set contradicts the request
    CANNOT_UNDERSTAND = "cannot understand"  # the data set cannot be parsed, or is too long
    FAILED = "failed"  # the storage backend or the ledger failed

    @property
    def is_acknowledged(self) -> bool:
        """True if the sender may delete its copy."""
        return self in _ACKNOWLEDGED


_ACKNOWLEDGED = frozenset(
    {StoreOutcome.STORED, StoreOutcome.ALREADY_STORED, StoreOutcome.SUPERSEDED, StoreOutcome.IGNORED}
)


@frozen(kw_only=True)
class StoreResult:
    """Result of a request to store an instance, with its reason."""

    outcome: StoreOutcome
    reason: str = ""  # without patient data; for STORED: why the instance was quarantined at once, or ""
    instance: InstanceStorageInfo | None = None  # the stored instance; None if no instance was stored
    duplicate_of: int | None = None  # id of the instance with the same UID, if nothing was stored because of it


class IncomingDataSet(Protocol):
    """Receives the data set of one instance while it arrives. Not thread-safe; raises nothing."""

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Write the next pieces of the data set. The caller may reuse their memory afterwards."""

    def discard(self) -> None:
        """Delete everything that was written: the rest of the data set will not arrive."""
