"""Entry of rows: record the associations of stored instances until their ends are recorded."""

from __future__ import annotations

from collections.abc import Container, Sequence

from dicom_adapter.api.receiving import StoreResult
from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.ledger import Transaction, association_reports
from dicom_adapter.ledger.association_reports import OpenAssociation
from dicom_adapter.ledger.microseconds import to_microseconds


def record_open(
    transaction: Transaction, receivers: Sequence[str], results: Sequence[StoreResult], known: Container[str]
) -> list[str]:
    """Record the associations of the stored instances, in the transaction of their rows; return the new ids.

    If the receiver crashes, the next start records the ends of these associations. `receivers` are the names of the
    receivers of the instances. `known` are the ids of associations that are recorded already.
    """
    first: dict[str, OpenAssociation] = {}
    for receiver, result in zip(receivers, results, strict=True):
        instance = result.instance
        if instance is not None and instance.association_id not in known and instance.association_id not in first:
            first[instance.association_id] = _opened(instance, receiver)
    if first:
        association_reports.open_all(transaction, first.values())
    return list(first)


def _opened(first: InstanceStorageInfo, receiver: str) -> OpenAssociation:
    return OpenAssociation(
        association_id=first.association_id,
        receiver=receiver,
        ae_title=first.ae_title,
        calling_ae_title=first.calling_ae_title,
        peer_address=first.peer_address,
        began_at=to_microseconds(first.received_at),
        first_instance_id=first.instance_id,
    )
