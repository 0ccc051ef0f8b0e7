"""Senders as JSON values."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from dicom_adapter.ledger.senders import Rejected
from dicom_adapter.operations.documents.moments import iso
from dicom_adapter.operations.senders import SenderReport


def sender_as_json(one: SenderReport, now: datetime) -> dict[str, Any]:
    """Return a sender as JSON values."""
    return {
        "callingAeTitle": one.calling_ae_title,
        "peers": list(one.peers),
        "firstSeenAt": iso(one.first_at),
        "lastSeenAt": iso(one.last_at),
        "silentSeconds": max(0, round((now - one.last_at).total_seconds())),
        "associations": one.associations,
        "instances": one.instances,
        "refused": one.refused,
        "aeTitles": sorted({sender.ae_title for sender in one.accepted}),
        "rejections": [rejection_as_json(rejected) for rejected in one.rejected],
    }


def rejection_as_json(rejected: Rejected) -> dict[str, Any]:
    """Return the rejections of one sender for one kind of reason as JSON values."""
    return {
        "callingAeTitle": rejected.calling_ae_title,
        "peer": rejected.peer_address,
        "aeTitle": rejected.ae_title,
        "cause": rejected.cause,
        "reason": rejected.reason,
        "count": rejected.count,
        "firstAt": iso(rejected.first_at),
        "lastAt": iso(rejected.last_at),
    }
