"""Step 1: is this association wanted?

A pure decision, for every protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

from attrs import frozen

from dicom_adapter.api.receiving import AssociationDecision, AssociationRequest, Rejection
from dicom_adapter.api.values import Capacity
from dicom_adapter.config.model import AeTitleConfig, Config
from dicom_adapter.flow.free_space import ledger_full, storage_full

# An association is not worth its while when not even a data set of this size would be taken; without it, one after the
# other is accepted at the limit, whose instances are refused once they are there.
WORTHWHILE = 2**20  # bytes


@frozen(kw_only=True)
class Load:
    """What the adapter is busy with at the moment."""

    associations: int  # open ones, this one not counted
    capacity: Capacity | None  # of the storage backend
    stopped: Mapping[str, str]  # AE titles whose lanes are stopped, with the reasons
    full: Mapping[str, str]  # AE titles whose quarantine is full, with the reasons
    associations_of_peer: int = 0  # so many of them
    ledger_free: int | None = None  # bytes; None: not known


def judge(request: AssociationRequest, config: Config, load: Load) -> AssociationDecision:
    """Accept or reject; what would never work is told first, what may work later after that."""
    ae_title = config.ae_titles.get(request.called_ae_title)
    if ae_title is None:
        return _reject(Rejection.CALLED_AE_TITLE_NOT_RECOGNIZED, "the called AE title is not configured")
    if not _is_allowed(request, ae_title):
        return _reject(Rejection.CALLING_AE_TITLE_NOT_RECOGNIZED, "the caller is not among allowed-callers")
    stopped = load.stopped.get(request.called_ae_title)
    if stopped:
        return _reject(Rejection.TEMPORARY_CONGESTION, stopped)
    if load.associations >= config.dicom.max_associations:
        return _reject(Rejection.LOCAL_LIMIT_EXCEEDED, f"max-associations = {config.dicom.max_associations} are open")
    most = config.dicom.max_associations_per_peer
    if most is not None and load.associations_of_peer >= most:
        return _reject(Rejection.LOCAL_LIMIT_EXCEEDED, f"max-associations-per-peer = {most} are open from this address")
    full = (
        load.full.get(request.called_ae_title)
        or storage_full(load.capacity, config.storage)
        or ledger_full(load.ledger_free, WORTHWHILE)
    )
    return _reject(Rejection.LOCAL_LIMIT_EXCEEDED, full) if full else AssociationDecision()


def _is_allowed(request: AssociationRequest, ae_title: AeTitleConfig) -> bool:
    if ae_title.allowed_callers is None:
        return True
    address = ip_address(request.peer_address)
    address = getattr(address, "ipv4_mapped", None) or address  # how IPv4 callers look on a socket for both
    names = {name.casefold() for name in request.certificate_names}
    return any(
        caller.ae_title in (None, request.calling_ae_title)
        and (caller.host is None or address in caller.host)
        and (caller.certificate is None or caller.certificate.casefold() in names)
        for caller in ae_title.allowed_callers
    )


def _reject(rejection: Rejection, reason: str) -> AssociationDecision:
    return AssociationDecision(rejection=rejection, reason=reason)
