"""Words for the end of associations and connections."""

from __future__ import annotations

from dicom_adapter_delivery.dicom_wire import ABORT, RELEASE_RQ


def end_by_peer(kind: int, body: bytes) -> str:
    """Return how a PDU of the peer ends an association."""
    if kind == ABORT and len(body) == 4:
        by = {0: "service user", 2: "service provider"}.get(body[2], f"source {body[2]}")
        return f"it aborted the association ({by}, reason {body[3]})"
    return "it released the association" if kind == RELEASE_RQ else f"it sent an unexpected PDU of type {kind}"


def describe_loss(failure: Exception) -> str:
    """Return the reason for a failed system call on a socket."""
    if isinstance(failure, TimeoutError):
        return "no answer in time"
    return (getattr(failure, "strerror", None) or type(failure).__name__).lower()
