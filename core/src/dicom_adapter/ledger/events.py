"""Events of instances, jobs, associations and AE titles, without patient data: the source of `explain`.

`recorded_events` reads them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import cast

from attrs import field, frozen

from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.ledger.driver import AnyTransaction, execute_many
from dicom_adapter.ledger.microseconds import to_microseconds

_INSERT = (
    "INSERT INTO events (at, event, ae_title, association_id, instance_id, job_id, detail) VALUES (?, ?, ?, ?, ?, ?, ?)"
)

JOB_INCOMPLETE = "job_incomplete"  # event of an AE title: a job was submitted although instances may be missing


@frozen(kw_only=True)
class Event:
    """One event. `event` is a stable name, which the log uses, too."""

    at: datetime  # UTC
    event: str
    ae_title: str
    association_id: str | None = None
    instance_id: int | None = None
    job_id: str | None = None
    detail: Mapping[str, object] = field(factory=dict)  # earlier versions may have recorded fewer members

    def text(self, member: str) -> str:
        """Return a member of the detail as text; "" if it was not recorded."""
        return str(self.detail.get(member, ""))

    def number(self, member: str) -> int:
        """Return a count of the detail; 0 if it was not recorded."""
        return int(str(self.detail.get(member, 0)))

    def names(self, member: str) -> Sequence[str]:
        """Return a list of names of the detail; an empty list if it was not recorded."""
        return cast("Sequence[str]", self.detail.get(member, []))

    def counts(self, member: str) -> Mapping[str, int]:
        """Return the counts of the detail by name; an empty mapping if they were not recorded."""
        return cast("Mapping[str, int]", self.detail.get(member, {}))


def quarantined(instance: InstanceStorageInfo, reason: str, at: datetime) -> Event:
    """Return the event of an instance that was quarantined for this reason (no patient data)."""
    return Event(
        at=at,
        event="instance_quarantined",
        ae_title=instance.ae_title,
        association_id=instance.association_id,
        instance_id=instance.instance_id,
        detail={"reason": reason},
    )


def dropped(duplicate: InstanceStorageInfo, kept: int, reason: str, at: datetime) -> Event:
    """Return the event of a duplicate without a row. It refers to the instance `kept` instead."""
    return Event(
        at=at,
        event="instance_ignored",
        ae_title=duplicate.ae_title,
        association_id=duplicate.association_id,
        instance_id=kept,
        detail={"reason": reason},
    )


def record(transaction: AnyTransaction, new_events: Iterable[Event]) -> None:
    """Insert events in this order, in the same transaction as the changes that they describe."""
    execute_many(transaction, _INSERT, map(_row, new_events))


def _row(event: Event) -> tuple[object, ...]:
    subjects = (event.ae_title, event.association_id, event.instance_id, event.job_id)
    return (to_microseconds(event.at), event.event, *subjects, json.dumps(dict(event.detail)))
