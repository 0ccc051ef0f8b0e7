"""Step 4 (`process`) of the flow: quarantine instances that processors cannot handle; requeue or discard them.

state        operation   next state   allowed when
pending      hold        quarantined  no newer arrival of the same SOP instance replaces it
quarantined  requeue     pending      no other arrival of the same SOP instance is pending at the same AE title
quarantined  discard     released     always
pending      discard     released     the AE title is not served: otherwise the instance would stay pending forever

Operators requeue and discard instances. A discarded instance is reclaimed as soon as no job needs it. A requeued
instance keeps its `received_at`, and its lane is restarted, so that the instance is delivered in the order of arrival.
Each call is one transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

from attrs import Factory, define

from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.ledger import Ledger, Transaction, events, instance_rows, instances, lanes
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.instance_rows import InstanceRow
from dicom_adapter.ledger.schema import InstanceState, LaneState
from dicom_adapter.runtime.clock import Clock

IS_RESULT = "it is a result of a job: use `dicom-adapter results {}`"


@define
class Intervention:
    """The result of an operation on several instances."""

    done: list[int] = Factory(list)  # ids of the changed instances
    refused: dict[int, str] = Factory(dict)  # ids of the other instances, with the reasons


def hold(ledger: Ledger, instance: InstanceStorageInfo, reason: str, now: datetime) -> bool:
    """Quarantine an instance that its processor cannot handle. Return whether the instance was still pending."""
    with ledger.write() as transaction:
        if not instances.quarantine(transaction, instance.instance_id, reason, now):
            return False
        events.record(transaction, [events.quarantined(instance, reason, now)])
    return True


def requeue(ledger: Ledger, clock: Clock, instance_ids: Collection[int], by: str) -> Intervention:
    """Deliver quarantined instances to their processors again. The events record `by`, the name of the operator."""
    now = clock.now()
    with ledger.write() as transaction:
        rows = instance_rows.find(transaction, instance_ids)
        pending = instances.pending_arrivals(transaction, {row.instance.sop_instance_uid for row in rows})
        result = _judge_requeue(rows, pending)
        instances.requeue(transaction, result.done, now)
        done = _record(transaction, "instance_requeued", rows, result, now, by)
        for ae_title in sorted({row.instance.ae_title for row in done}):
            lanes.request_restart(transaction, ae_title)
    return _with_unknown(result, instance_ids)


def discard(
    ledger: Ledger, clock: Clock, instance_ids: Collection[int], by: str, served: Collection[str]
) -> Intervention:
    """Discard instances. `by` is the name of the operator; `served` are the configured AE titles."""
    now = clock.now()
    with ledger.write() as transaction:
        running = [name for name, lane in lanes.load(transaction).items() if lane.state is LaneState.RUNNING]
        rows = instance_rows.find(transaction, instance_ids)
        result = Intervention()
        for row in rows:
            refusal = _discard_refusal(row, served, running)
            if refusal:
                result.refused[row.instance.instance_id] = refusal
            else:
                result.done.append(row.instance.instance_id)
        instances.discard(transaction, result.done, now)
        _record(transaction, "instance_discarded", rows, result, now, by)
    return _with_unknown(result, instance_ids)


def _judge_requeue(rows: Iterable[InstanceRow], pending: Mapping[tuple[str, str], int]) -> Intervention:
    """Decide which instances to requeue. If a SOP instance arrived several times, only the newest is requeued."""
    result = Intervention()
    newest = dict(pending)
    for row in sorted(rows, key=lambda row: row.instance.instance_id, reverse=True):
        number, name = row.instance.instance_id, (row.instance.ae_title, row.instance.sop_instance_uid)
        if row.source_job is not None:
            result.refused[number] = IS_RESULT.format("requeue")
        elif row.state is not InstanceState.QUARANTINED:
            result.refused[number] = f"it is {row.state.value}: only quarantined instances can be requeued"
        elif name in newest:
            which = "a newer" if newest[name] > number else "an earlier"
            result.refused[number] = (
                f"{which} arrival of the same SOP instance is pending: instance {newest[name]}; "
                f"requeue again when instance {newest[name]} is no longer pending"
            )
        else:
            newest[name] = number
            result.done.append(number)
    return result


def _discard_refusal(row: InstanceRow, served: Collection[str], running: Collection[str]) -> str:
    ae_title = row.instance.ae_title
    if row.source_job is not None:
        return IS_RESULT.format("discard")
    if row.state is InstanceState.QUARANTINED:
        return ""
    if row.state is not InstanceState.PENDING:
        return f"it is {row.state.value}: only quarantined instances can be discarded"
    if ae_title in served:
        return f"it is pending at AE title '{ae_title}', which is served: only quarantined instances can be discarded"
    if ae_title in running:
        return f"it is pending at AE title '{ae_title}', which the running service serves: restart the service first"
    return ""


def _record(
    transaction: Transaction, event: str, found: Iterable[InstanceRow], result: Intervention, now: datetime, by: str
) -> list[InstanceRow]:
    """Record the operation and its operator in the events, and return the changed instances."""
    numbers = set(result.done)
    done = [row for row in found if row.instance.instance_id in numbers]
    changes = [
        Event(
            at=now,
            event=event,
            ae_title=row.instance.ae_title,
            association_id=row.instance.association_id,
            instance_id=row.instance.instance_id,
            detail={"by": by},
        )
        for row in done
    ]
    events.record(transaction, changes)
    return done


def _with_unknown(result: Intervention, requested: Collection[int]) -> Intervention:
    for number in set(requested) - result.refused.keys() - set(result.done):
        result.refused[number] = "there is no such instance"
    return result
