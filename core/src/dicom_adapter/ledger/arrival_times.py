"""The times of the oldest pending instance and of the last association of each AE title.

The duration does not depend on the number of instances: each query reads one entry of an index, or the small table of
senders.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import bindparam, func, select

from dicom_adapter.ledger.connection import Transaction
from dicom_adapter.ledger.schema import IS_PENDING, instances, senders

_FIRST = select(func.min(instances.c.instance_id)).where(instances.c.ae_title == bindparam("name"), IS_PENDING)
_OLDEST = select(instances.c.received_at).where(instances.c.instance_id == _FIRST.scalar_subquery())
_LAST = select(senders.c.ae_title, func.max(senders.c.last_at)).where(senders.c.instances > 0)


def oldest_pending(transaction: Transaction, ae_titles: Iterable[str]) -> dict[str, datetime]:
    """Return the arrival of the oldest pending instance of each of these AE titles that has one."""
    found = {name: transaction.execute(_OLDEST, {"name": name}).scalar() for name in ae_titles}
    return {name: received_at for name, received_at in found.items() if received_at is not None}


def last_associations(transaction: Transaction) -> dict[str, datetime]:
    """Return when the last association with instances ended, by AE title."""
    return {row[0]: row[1] for row in transaction.execute(_LAST.group_by(senders.c.ae_title))}
