"""A queue of events about access, which are written to the ledger in the background."""

from __future__ import annotations

from dicom_adapter.ledger import Ledger
from dicom_adapter.ledger.event_writer import EventWriter
from dicom_adapter.ledger.events import Event


class EventQueue:
    """Queue of events, which a thread writes while the server runs. `put` is thread-safe, and returns at once."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._writer: EventWriter | None = None

    def start(self) -> None:
        """Start the thread that writes."""
        self._writer = EventWriter(self._ledger)

    def stop(self) -> None:
        """Write the queued events, and end the thread."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def put(self, event: Event) -> None:
        """Queue an event. It is dropped if the server does not run."""
        writer = self._writer
        if writer is not None:
            writer.put(event)
