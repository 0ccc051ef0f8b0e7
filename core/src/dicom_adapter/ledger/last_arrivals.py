"""The last arrival at each AE title, without an index of the times of all instances."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select

from dicom_adapter.ledger.connection import Transaction
from dicom_adapter.ledger.schema import IS_PENDING, instances, senders


def last_arrivals(transaction: Transaction) -> dict[str, datetime]:
    """Return the time of the last arrival at each AE title, by its name.

    It is the end of the last association with the AE title, or the arrival of its newest pending instance.
    """
    query = select(senders.c.ae_title, func.max(senders.c.last_at)).where(senders.c.instances > 0)
    found: dict[str, datetime] = {row[0]: row[1] for row in transaction.execute(query.group_by(senders.c.ae_title))}
    newest = select(func.max(instances.c.instance_id)).where(IS_PENDING).group_by(instances.c.ae_title)
    pending = select(instances.c.ae_title, instances.c.received_at).where(instances.c.instance_id.in_(newest))
    for ae_title, received_at in transaction.execute(pending):
        found[ae_title] = max(received_at, found.get(ae_title, received_at))
    return found
