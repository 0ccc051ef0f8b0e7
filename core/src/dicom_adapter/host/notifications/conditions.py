"""Conditions that no event of the ledger reports: a lack of space, and senders that are rejected or silent."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from dicom_adapter.api.notifier import Notice, NoticeKind
from dicom_adapter.config.model import Config
from dicom_adapter.config.notifications import NotificationConfig
from dicom_adapter.flow.acceptance import association_refusal, measure_space
from dicom_adapter.host.notifications.event_notices import plain
from dicom_adapter.ledger import Transaction, senders
from dicom_adapter.operations.senders import describe, name_of, rejected_for_long
from dicom_adapter.runtime.resources import Resources

# The kinds that these conditions have, with their subjects.
SPACE = "free space"
SENDERS = (NoticeKind.SENDER_REJECTED, NoticeKind.SENDER_SILENT)


def is_condition(kind: NoticeKind, subject: str) -> bool:
    """Return whether notices of this kind and subject are made here, and not from events."""
    return kind in SENDERS or (kind is NoticeKind.STORAGE and subject == SPACE)


def find_conditions(config: Config, table: NotificationConfig, resources: Resources, now: datetime) -> list[Notice]:
    """Return a notice for each condition that is met now."""
    found = list(_lack_of_space(config, resources, now))
    with resources.ledger.read() as transaction:
        found += _rejected(transaction, config, now)
        found += _silent(transaction, table, now)
    return found


def _lack_of_space(config: Config, resources: Resources, now: datetime) -> Iterator[Notice]:
    space = measure_space(resources.storage, resources.ledger, resources.problem)
    refusal = association_refusal("", {}, space, config.storage)
    if refusal is not None:
        yield _notice(NoticeKind.STORAGE, SPACE, f"associations are rejected: {refusal.reason}", now)


def _rejected(transaction: Transaction, config: Config, now: datetime) -> Iterator[Notice]:
    for one in rejected_for_long(senders.rejected(transaction, now - senders.DAY), now):
        ae_title = one.ae_title if one.ae_title in config.ae_titles else ""
        subject = f"sender {name_of(one.calling_ae_title, [one.peer_address])}"
        text = f"{describe(one)}; `dicom-adapter senders` shows more"
        yield _notice(NoticeKind.SENDER_REJECTED, subject, text, now, ae_title)


def _silent(transaction: Transaction, table: NotificationConfig, now: datetime) -> Iterator[Notice]:
    for name, hours in table.silent_hours.items():
        seen = [one.last_at for one in senders.load(transaction, name)]
        last = max(seen, default=None)
        if last is None:
            yield _notice(NoticeKind.SENDER_SILENT, f"sender {name}", "no association so far", now)
        elif now - last >= table.silence_of(name):
            text = f"no association for {hours:g} hours; the last ended at {last:%Y-%m-%d %H:%M} UTC"
            yield _notice(NoticeKind.SENDER_SILENT, f"sender {name}", text, now)


def _notice(kind: NoticeKind, subject: str, text: str, now: datetime, ae_title: str = "") -> Notice:
    return Notice(
        kind=kind,
        ae_title=ae_title,
        subject=plain(subject),
        text=plain(text),
        count=1,
        first_at=now,
        last_at=now,
    )
