"""Write events in the background, for callers that must neither wait for the ledger nor fail because of it."""

from __future__ import annotations

import queue
import threading

import structlog

from dicom_adapter.api.errors import describe_failure
from dicom_adapter.ledger import events
from dicom_adapter.ledger.connection import Ledger
from dicom_adapter.ledger.events import Event

log = structlog.get_logger("dicom_adapter.ledger")

BATCH_SECONDS = 0.2  # events of this period share one transaction, so that other writers can use the ledger


class EventWriter:
    """Writes events in a separate thread. Events that the ledger cannot store are logged and dropped. Thread-safe."""

    def __init__(self, ledger: Ledger, *, synced: bool = True) -> None:
        """Start the thread. `synced`: sync each transaction; if not, events become durable with the next synced one."""
        self._ledger = ledger
        self._synced = synced
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._has_events = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        """Queue an event to be written soon."""
        self._events.put(event)
        self._has_events.set()

    def close(self, seconds: float = 5) -> None:
        """Write the queued events and stop. Wait up to `seconds` for the thread to end."""
        self._closing.set()
        self._has_events.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._has_events.wait()
            self._closing.wait(BATCH_SECONDS)
            self._has_events.clear()
            self._write()
        self._write()

    def _write(self) -> None:
        batch = [self._events.get() for _number in range(self._events.qsize())]  # only this thread removes events
        if not batch:
            return
        try:
            with self._ledger.write(synced=self._synced) as transaction:
                events.record(transaction, batch)
        except Exception as failure:  # noqa: BLE001 - a later batch may be stored
            log.warning("events_not_recorded", count=len(batch), error=describe_failure(failure))
