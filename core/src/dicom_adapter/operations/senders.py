"""Senders as operators see them: by calling AE title, with their accepted and rejected associations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from attrs import evolve, frozen

from dicom_adapter.api.counts import counted
from dicom_adapter.api.receiving import RejectionCause
from dicom_adapter.ledger import Transaction
from dicom_adapter.ledger import senders as ledger_senders
from dicom_adapter.ledger.filters import Filters
from dicom_adapter.ledger.senders import DAY, Rejected, Sender

# A sender is a problem if it was rejected for this time without interruption. It remains a problem for the same time
# after its last rejection.
LONG = timedelta(hours=1)
LONG_AT_LIMIT = timedelta(minutes=1)  # for limits, which busy senders reach for a moment
# Causes for which the peer has requested no association
CONNECTION_CAUSES = (RejectionCause.TLS, RejectionCause.NOT_DICOM, RejectionCause.PROXY)
# Words before the reason of a rejection
KINDS = {RejectionCause.TLS.value: "TLS failed", RejectionCause.NOT_DICOM.value: "it sent no DICOM"}
NEXT_STEPS = {  # by cause; {} is the called AE title
    RejectionCause.CALLED_AE_TITLE.value: "correct the called AE title at the sender (`dicom-adapter ae-titles list` "
    "shows the AE titles), or add {} to the configuration and run `dicom-adapter reload --apply`",
    RejectionCause.CALLING_AE_TITLE.value: "if the sender may send, add it to allowed-callers of {} in the "
    "configuration and run `dicom-adapter reload --apply`",
    RejectionCause.STOPPED.value: "`dicom-adapter status` shows why",
    RejectionCause.UNDECIDED.value: "the log of the receiver shows the error (`association_decision_failed`)",
    RejectionCause.LIMIT.value: "`dicom-adapter status` shows the limit, if it is still reached",
    RejectionCause.SPACE.value: "`dicom-adapter status` shows the free space",
    RejectionCause.TLS.value: "`dicom-adapter check` shows the certificates of the adapter",
}
# Causes whose next step contains the called AE title
NEEDS_AE_TITLE = (RejectionCause.CALLED_AE_TITLE.value, RejectionCause.CALLING_AE_TITLE.value)
FEW_ASSOCIATIONS = 10  # number of associations below which the usual time between two of them is unknown
SILENT_FACTOR = 10  # a sender is silent after this multiple of its usual time between two associations
LATE = timedelta(seconds=15)  # added to these times: receivers write their counts only every few seconds


@frozen(kw_only=True)
class SenderReport:
    """Everything that the ledger has about one sender."""

    calling_ae_title: str  # "" if no association was requested, or if the name was not kept
    peers: Sequence[str]  # addresses
    first_at: datetime  # UTC
    last_at: datetime  # UTC
    accepted: Sequence[Sender]  # for each AE title and address
    rejected: Sequence[Rejected]  # for each AE title, address and kind of reason, the newest first

    @property
    def associations(self) -> int:
        """The number of accepted associations that have ended."""
        return sum(one.associations for one in self.accepted)

    @property
    def instances(self) -> int:
        """The number of acknowledged instances."""
        return sum(one.instances for one in self.accepted)

    @property
    def refused(self) -> int:
        """The number of refused instances."""
        return sum(one.refused for one in self.accepted)


def find_senders(transaction: Transaction, filters: Filters, rejected_since: datetime) -> list[SenderReport]:
    """Return the senders that match the filters, with their rejections from `rejected_since` (UTC) on."""
    accepted = ledger_senders.load(transaction, filters.calling_ae_title)
    found = ledger_senders.rejected(transaction, rejected_since, filters.until)
    return report(
        [one for one in accepted if _is_wanted(one, filters)], [one for one in found if _is_wanted(one, filters)]
    )


def _is_wanted(one: Sender | Rejected, filters: Filters) -> bool:
    return (
        filters.calling_ae_title in (None, one.calling_ae_title)
        and filters.ae_title in (None, one.ae_title)
        and (filters.since is None or one.last_at >= filters.since)
        and (filters.until is None or one.first_at < filters.until)
    )


def report(accepted: Iterable[Sender], rejected: Iterable[Rejected]) -> list[SenderReport]:
    """Return a report about each calling AE title; without one, about each address. Names come first, in order."""
    names: dict[tuple[str, str], tuple[list[Sender], list[Rejected]]] = {}
    for sender in accepted:
        names.setdefault((sender.calling_ae_title, ""), ([], []))[0].append(sender)
    for one in merged(rejected):
        key = one.calling_ae_title, "" if one.calling_ae_title else one.peer_address
        names.setdefault(key, ([], []))[1].append(one)
    ordered = sorted(names, key=lambda key: (not key[0], key))
    return [_report(name, *names[name, address]) for name, address in ordered]


def _report(name: str, accepted: Sequence[Sender], rejected: Sequence[Rejected]) -> SenderReport:
    seen: list[Sender | Rejected] = [*accepted, *rejected]
    return SenderReport(
        calling_ae_title=name,
        peers=sorted({one.peer_address for one in seen if one.peer_address}),
        first_at=min(one.first_at for one in seen),
        last_at=max(one.last_at for one in seen),
        accepted=accepted,
        rejected=rejected,
    )


def merged(rejected: Iterable[Rejected]) -> list[Rejected]:
    """Add up the hours of each sender and kind of rejection. The newest come first."""
    found: dict[tuple[str, ...], Rejected] = {}
    for one in rejected:
        key = one.peer_address, one.calling_ae_title, one.ae_title, one.cause
        before = found.get(key)
        if before is not None:
            newest = max(before, one, key=lambda each: each.last_at)
            one = evolve(newest, count=before.count + one.count, first_at=min(before.first_at, one.first_at))
        found[key] = one
    return sorted(found.values(), key=lambda one: one.last_at, reverse=True)


def rejected_for_long(rejected: Iterable[Rejected], now: datetime) -> list[Rejected]:
    """Return the senders that an operator has to know about: they were rejected for long, and recently.

    Other programs than DICOM senders, such as port scanners, are not among them.
    """
    return [one for one in merged(rejected) if one.since is not None and _is_for_long(one, one.since, now)]


def _is_for_long(one: Rejected, since: datetime, now: datetime) -> bool:
    if one.cause == RejectionCause.NOT_DICOM.value or not one.peer_address:
        return False
    long = LONG_AT_LIMIT if one.cause == RejectionCause.LIMIT.value else LONG
    return one.last_at - since >= long and now - one.last_at <= long + LATE


def silence_of(sender: SenderReport, now: datetime) -> timedelta | None:
    """Return for how long a sender has been silent, if that is unusual; otherwise None.

    It is unusual if the time since its last accepted association is more than a day, and more than ten times the usual
    time between two associations. A sender with few associations has no usual time.
    """
    if sender.associations < FEW_ASSOCIATIONS:
        return None
    first = min(one.first_at for one in sender.accepted)
    last = max(one.last_at for one in sender.accepted)
    usual = (last - first) / (sender.associations - 1)
    silent_for = now - last
    return silent_for if silent_for > max(DAY, SILENT_FACTOR * usual) else None


def name_of(calling_ae_title: str, peers: Sequence[str]) -> str:
    """Return for example `CT1 (10.0.0.7)`, or only an address."""
    addresses = ", ".join(peers)
    if not calling_ae_title:
        return addresses or "other senders, whose names were not kept"
    return f"{calling_ae_title} ({addresses})" if addresses else calling_ae_title


def next_step(one: Rejected) -> str:
    """Return what an operator can do about a rejection; "" if nothing, or if the sender was accepted since then."""
    if one.since is None or (not one.ae_title and one.cause in NEEDS_AE_TITLE):
        return ""
    return NEXT_STEPS.get(one.cause, "").format(one.ae_title)


def describe(one: Rejected) -> str:
    """Return for example `2 associations to LUNGG: the called AE title is not configured`."""
    is_connection = one.cause in CONNECTION_CAUSES or not one.calling_ae_title
    what = "connection" if is_connection else "association"
    to = f" to {one.ae_title}" if one.ae_title else ""
    reason = f"{KINDS[one.cause]}: {one.reason}" if one.cause in KINDS else one.reason
    return f"{counted(one.count, what)}{to}: {reason}"
