"""A requestor that reports reliably whether and how its association was rejected."""

from __future__ import annotations

from typing import Any

from pydicom.uid import CTImageStorage
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RJ

Rejection = tuple[int, int, int]  # result, source and reason of A-ASSOCIATE-RJ (PS3.8 table 9-21)


def associate(port: int, called: str, calling: str = "SENDER") -> Association:
    """Establish an association for CT images."""
    association, rejected = _request(port, called, calling)
    assert association.is_established, f"rejected: {rejected}"
    return association


def try_to_associate(port: int, called: str, calling: str = "SENDER") -> Association | None:
    """Establish an association for CT images. Return None if it is rejected."""
    association, _rejected = _request(port, called, calling)
    return association if association.is_established else None


def rejection(port: int, called: str, calling: str = "SENDER") -> Rejection | None:
    """Request an association, and return its rejection. If it is accepted, release it and return None."""
    association, rejected = _request(port, called, calling)
    if association.is_established:
        association.release()
        return None
    assert rejected is not None, "the association was neither accepted nor rejected"
    return rejected


def wait_for_rejection(port: int, called: str) -> Rejection:
    """Request associations until one is rejected: a receiver notices a change of the state within half a second."""
    while (rejected := rejection(port, called)) is None:
        pass
    return rejected


def wait_for_acceptance(port: int, called: str) -> None:
    """Request associations until one is accepted, because the cause of the rejection has gone."""
    while rejection(port, called) is not None:
        pass


def _request(port: int, called: str, calling: str) -> tuple[Association, Rejection | None]:
    rejections: list[Rejection] = []

    def received(event: Any) -> None:
        # pynetdicom misses a rejection that arrives before it has checked that it is connected.
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            rejections.append((event.pdu.result, event.pdu.source, event.pdu.reason_diagnostic))

    entity = AE(ae_title=calling)
    entity.add_requested_context(CTImageStorage)
    association = entity.associate("127.0.0.1", port, ae_title=called, evt_handlers=[(evt.EVT_PDU_RECV, received)])
    return association, rejections[0] if rejections else None
