"""The health of the service in the ledger."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from attrs import evolve

from dicom_adapter.ledger import Ledger, health
from dicom_adapter.ledger.health import PartHealth, PartState

NOW = datetime(2026, 1, 5, 8, 0, 0, 123_456, tzinfo=timezone.utc)
LANE = PartHealth(part="AE title LUNG", state=PartState.HANGS, reason="it has not returned", since=NOW, seen_at=NOW)
HOST = PartHealth(part="host", state=PartState.OK, since=NOW, seen_at=NOW)


def test_health_round_trips(ledger: Ledger) -> None:
    """A part that is saved again replaces its earlier row."""
    better = evolve(LANE, state=PartState.OK, reason="", seen_at=NOW + timedelta(seconds=5))
    with ledger.write() as transaction:
        health.save(transaction, [LANE, HOST])
        health.save(transaction, [better])
    with ledger.read() as transaction:
        assert {"host": HOST, "AE title LUNG": better} == health.load(transaction)


def test_rows_of_old_parts_are_deleted_and_rows_of_processes_kept(ledger: Ledger) -> None:
    """A new host deletes the rows of the earlier host's parts, but not the rows of processes."""
    processes = {name: evolve(HOST, part=name) for name in health.processes(1)}
    with ledger.write() as transaction:
        health.save(transaction, [LANE, *processes.values()])
        health.delete_old_parts(transaction, receivers=1)
    with ledger.read() as transaction:
        assert processes == health.load(transaction)
