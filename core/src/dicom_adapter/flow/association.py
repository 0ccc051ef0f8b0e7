"""Step 1 (`association`) of the flow: accept or reject an association.

`judge` is a pure function that does not depend on the protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

from attrs import frozen

from dicom_adapter.api.receiving import AssociationDecision, AssociationRequest, ContextRules, Rejection, RejectionCause
from dicom_adapter.config.model import AeTitleConfig, Config
from dicom_adapter.flow.acceptance import Space, association_refusal


@frozen(kw_only=True)
class Load:
    """Current load and free space of the adapter."""

    associations: int  # number of open associations, without the requested association
    space: Space
    stopped: Mapping[str, str]  # AE titles whose lanes are stopped, with the reasons
    full: Mapping[str, str]  # AE titles whose quarantine is full, with the reasons
    associations_of_peer: int = 0  # number of open associations of the same peer


def judge(request: AssociationRequest, config: Config, load: Load) -> AssociationDecision:
    """Accept or reject the association. Permanent reasons are checked before transient reasons."""
    ae_title = config.ae_titles.get(request.called_ae_title)
    if ae_title is None:
        reason = "the called AE title is not configured"
        return _reject(Rejection.CALLED_AE_TITLE_NOT_RECOGNIZED, RejectionCause.CALLED_AE_TITLE, reason)
    if not _is_allowed(request, ae_title):
        reason = "the caller is not among allowed-callers"
        return _reject(Rejection.CALLING_AE_TITLE_NOT_RECOGNIZED, RejectionCause.CALLING_AE_TITLE, reason)
    stopped = load.stopped.get(request.called_ae_title)
    if stopped:
        return _reject(Rejection.TEMPORARY_CONGESTION, RejectionCause.STOPPED, stopped)
    if load.associations >= config.dicom.max_associations:
        reason = f"max-associations = {config.dicom.max_associations} are open"
        return _reject(Rejection.LOCAL_LIMIT_EXCEEDED, RejectionCause.LIMIT, reason)
    limit = config.dicom.max_associations_per_peer
    if limit is not None and load.associations_of_peer >= limit:
        reason = f"max-associations-per-peer = {limit} are open from this address"
        return _reject(Rejection.LOCAL_LIMIT_EXCEEDED, RejectionCause.LIMIT, reason)
    refusal = association_refusal(request.called_ae_title, load.full, load.space, config.storage)
    if refusal is not None:
        return _reject(Rejection.LOCAL_LIMIT_EXCEEDED, RejectionCause.SPACE, refusal.reason)
    return AssociationDecision(contexts=_context_rules(ae_title))


def _context_rules(ae_title: AeTitleConfig) -> ContextRules:
    listed = ae_title.transfer_syntaxes
    return ContextRules(
        transfer_syntaxes=None if listed is None else frozenset(listed),
        accepts_unknown_transfer_syntaxes=ae_title.unknown_transfer_syntaxes,
        ignored_sop_classes=frozenset(ae_title.ignored_sop_classes),
    )


def _is_allowed(request: AssociationRequest, ae_title: AeTitleConfig) -> bool:
    if ae_title.allowed_callers is None:
        return True
    address = ip_address(request.peer_address)
    address = getattr(address, "ipv4_mapped", None) or address  # IPv4 address as a dual-stack socket reports it
    names = {name.casefold() for name in request.certificate_names}
    return any(
        caller.ae_title in (None, request.calling_ae_title)
        and (caller.host is None or address in caller.host)
        and (caller.certificate is None or caller.certificate.casefold() in names)
        for caller in ae_title.allowed_callers
    )


def _reject(rejection: Rejection, cause: RejectionCause, reason: str) -> AssociationDecision:
    return AssociationDecision(rejection=rejection, cause=cause, reason=reason)
