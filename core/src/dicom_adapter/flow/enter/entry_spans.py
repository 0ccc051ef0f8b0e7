"""Entry of rows: the span from the arrival of instances to their rows in the ledger.

A transaction has a span `enter` for each association whose first rows it enters, and for each association whose rows
are late. A span for each transaction would be up to one for each instance: the follower often enters single rows.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from datetime import datetime, timedelta

from dicom_adapter.api.receiving import StoreResult
from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.ledger import Transaction, trace_contexts
from dicom_adapter.runtime.traces import Span, Traces

LATE = timedelta(seconds=1)


def start(
    traces: Traces, transaction: Transaction, results: Sequence[StoreResult], opened: Container[str], now: datetime
) -> list[Span]:
    """Start the spans of a transaction. End them when it is committed. `opened`: ids of new associations.

    An association without a trace has no span.
    """
    if not traces.is_on:
        return []
    entered: dict[str, list[InstanceStorageInfo]] = {}  # by association id
    for result in results:
        if result.instance is not None:
            entered.setdefault(result.instance.association_id, []).append(result.instance)
    started = []
    for association_id, members in entered.items():
        first_at = min(instance.received_at for instance in members)
        if association_id not in opened and now - first_at < LATE:
            continue
        context = trace_contexts.find(transaction, association_id)
        if context:
            span = traces.start("enter", parent=context, at=first_at)
            span.set(ae_title=members[0].ae_title, association_id=association_id, instances=len(members))
            started.append(span)
    return started
