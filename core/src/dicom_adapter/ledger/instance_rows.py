"""Instances with their states, as shown to operators."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from attrs import frozen
from sqlalchemy import Row, select

from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.ledger.connection import Transaction
from dicom_adapter.ledger.filters import NO_FILTERS, Filters
from dicom_adapter.ledger.instance_values import COLUMNS, chunks, to_instances
from dicom_adapter.ledger.schema import (
    IS_IN,
    IS_RESULT,
    InstanceState,
    instances,
)


@frozen(kw_only=True)
class InstanceRow:
    """An instance with its state in the ledger."""

    instance: InstanceStorageInfo
    state: InstanceState
    changed_at: datetime  # UTC; time of the last change of `state`
    reason: str  # reason of the quarantine, without patient data
    outcome: str  # a value of InstanceOutcome once it is known, else ""
    replaced_by: int | None  # the id of the instance that replaced this one
    source_job: int | None  # of a result: the number of the job that has produced it; None: it was received


_ROW = [
    *COLUMNS,
    *(instances.c[name] for name in ("state", "changed_at", "reason", "outcome", "replaced_by", "source_job")),
]


def newest(
    transaction: Transaction,
    limit: int | None,
    *,
    state: InstanceState | None = None,
    filters: Filters = NO_FILTERS,
    reason: str = "",
    before: int | None = None,
) -> list[InstanceRow]:
    """Return received instances in this state (all if None) that match the filters, newest first.

    `reason`: only instances whose reason for the quarantine contains this text; case is ignored.
    `before`: only instances with a smaller id.
    """
    query = select(*_ROW).where(filters.of_instances(), ~IS_RESULT).limit(limit)
    if state is not None:
        query = query.where(IS_IN[state])
    if reason:
        query = query.where(instances.c.reason.icontains(reason, autoescape=True))
    # Most instances are reclaimed. For any other state, SQLite has to use the index of the state and sort its rows,
    # instead of scanning the table from the end: "+ 0" has this effect.
    is_rare = state not in (None, InstanceState.RECLAIMED)
    order = instances.c.instance_id + 0 if is_rare else instances.c.instance_id
    if before is not None:
        query = query.where(order < before)
    return _rows(transaction.execute(query.order_by(order.desc())).all())


def find(transaction: Transaction, instance_ids: Iterable[int]) -> list[InstanceRow]:
    """Return the instances and results with these ids. Ids without a row are omitted."""
    return [
        row
        for chunk in chunks(instance_ids)
        for row in _rows(transaction.execute(select(*_ROW).where(instances.c.instance_id.in_(chunk))).all())
    ]


def _rows(rows: Sequence[Row[Any]]) -> list[InstanceRow]:
    return [
        InstanceRow(
            instance=instance,
            state=InstanceState(row.state),
            changed_at=row.changed_at,
            reason=row.reason,
            outcome=row.outcome,
            replaced_by=row.replaced_by,
            source_job=row.source_job,
        )
        for row, instance in zip(rows, to_instances(rows), strict=True)
    ]
