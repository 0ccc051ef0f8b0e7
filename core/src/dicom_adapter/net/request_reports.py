"""Report what the upper layer finds in association requests, before a storage SCP decides about them."""

from __future__ import annotations

from typing import Any

import structlog

from dicom_adapter.api.receiving import RejectedPeer, RejectionCause
from dicom_adapter.net.associate import PROVIDER_REJECTIONS, AssociateRequest
from dicom_adapter.net.storage_scp import StorageScp

log = structlog.get_logger("dicom_adapter.net")


def report_irregularities(request: AssociateRequest, peer: str) -> None:
    """Log the tolerated violations of the standard, if there are any."""
    if request.irregularities:
        log.info("association_request_irregular", **_names(request, peer), tolerated=list(request.irregularities))


def report_provider_rejection(request: AssociateRequest, peer: str, scp: StorageScp[Any]) -> None:
    """Log and record a request that the service-provider has rejected."""
    assert request.provider_rejection is not None
    rejection, reason = PROVIDER_REJECTIONS[request.provider_rejection]
    log.warning("association_rejected", **_names(request, peer), rejection=rejection, reason=reason)
    scp.peer_rejected(
        RejectedPeer(
            peer_address=peer,
            calling_ae_title=request.calling_ae_title,
            called_ae_title=request.called_ae_title,
            cause=RejectionCause.PROTOCOL,
            reason=reason,
        )
    )


def _names(request: AssociateRequest, peer: str) -> dict[str, str]:
    return {"ae_title": request.called_ae_title, "calling_ae_title": request.calling_ae_title, "peer": peer}
