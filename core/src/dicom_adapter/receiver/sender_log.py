"""Count accepted and rejected associations in memory, and write the counts to the ledger in the background.

The network thread neither waits for the ledger nor fails because of it. While the ledger is unavailable, the counts
are kept.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import datetime

import structlog
from attrs import evolve

from dicom_adapter.api.errors import describe_failure
from dicom_adapter.api.receiving import RejectedPeer
from dicom_adapter.ledger import Ledger, senders
from dicom_adapter.ledger.senders import Rejected, Sender
from dicom_adapter.net.codes import CStoreStatus
from dicom_adapter.net.storage_scp import ClosedAssociation

log = structlog.get_logger("dicom_adapter.receiver")

WRITE_SECONDS = 5.0  # counts of this period are written together
BATCH = 20  # rows that share one transaction, so that instances can be committed in between
MOST = 200  # rows of each kind that wait for the ledger; further associations are counted without names

_Key = tuple[str, ...]


class SenderLog:
    """Counts the associations of one receiver. Thread-safe."""

    def __init__(self, ledger: Ledger, *, write_seconds: float = WRITE_SECONDS) -> None:
        """Start the thread that writes the counts."""
        self._ledger = ledger
        self._write_seconds = write_seconds
        self._lock = threading.Lock()  # guards the next two attributes
        self._ended: dict[_Key, Sender] = {}
        self._rejected: dict[_Key, Rejected] = {}
        self._has_counts = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="senders", daemon=True)
        self._thread.start()

    def ended(self, closed: ClosedAssociation, at: datetime) -> None:
        """Count an accepted association that has ended."""
        acknowledged = closed.statuses.get(CStoreStatus.SUCCESS.name, 0)
        one = Sender(
            calling_ae_title=closed.request.calling_ae_title,
            ae_title=closed.request.called_ae_title,
            peer_address=closed.request.peer_address,
            first_at=at,
            last_at=at,
            associations=1,
            instances=acknowledged,
            refused=sum(closed.statuses.values()) - acknowledged,
        )
        with self._lock:
            self._add_ended(one)
        self._has_counts.set()

    def rejected(self, peer: RejectedPeer, at: datetime) -> None:
        """Count a rejection."""
        one = Rejected(
            peer_address=peer.peer_address,
            calling_ae_title=peer.calling_ae_title,
            ae_title=peer.called_ae_title,
            cause=peer.cause.value,
            reason=peer.reason,
            count=1,
            first_at=at,
            last_at=at,
        )
        with self._lock:
            self._add_rejected(one)
        self._has_counts.set()

    def close(self, seconds: float = 5) -> None:
        """Write the counts and stop. Wait up to `seconds` for the thread to end."""
        self._closing.set()
        self._has_counts.set()
        self._thread.join(seconds)

    # --- counts -------------------------------------------------------------------------------------------------------

    def _add_ended(self, one: Sender) -> None:
        key = one.calling_ae_title, one.ae_title, one.peer_address
        if key not in self._ended and len(self._ended) >= MOST:
            one = evolve(one, calling_ae_title="", peer_address="")
            key = "", one.ae_title, ""
        before = self._ended.get(key)
        if before is not None:
            one = evolve(
                before,
                last_at=max(before.last_at, one.last_at),
                associations=before.associations + one.associations,
                instances=before.instances + one.instances,
                refused=before.refused + one.refused,
            )
        self._ended[key] = one

    def _add_rejected(self, one: Rejected) -> None:
        key = _key(one)
        if key not in self._rejected and len(self._rejected) >= MOST:
            one = senders.without_names(one)
            key = _key(one)
        before = self._rejected.get(key)
        if before is not None:
            last = max(before, one, key=lambda each: each.last_at)
            first_at = min(before.first_at, one.first_at)
            one = evolve(last, count=before.count + one.count, first_at=first_at)
        self._rejected[key] = one

    # --- writing ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing.is_set():
            self._has_counts.wait()
            self._closing.wait(self._write_seconds)
            self._has_counts.clear()
            self._write()
        self._write()

    def _write(self) -> None:
        with self._lock:
            ended, self._ended = self._ended, {}
            rejected, self._rejected = self._rejected, {}
        rows: list[Sender | Rejected] = [*rejected.values(), *ended.values()]
        while rows:
            batch = rows[:BATCH]
            try:
                with self._ledger.write(synced=False) as transaction:
                    senders.add_rejections(transaction, [one for one in batch if isinstance(one, Rejected)])
                    senders.add_associations(transaction, [one for one in batch if isinstance(one, Sender)])
            except Exception as failure:  # noqa: BLE001 - the counts are written later
                log.warning("senders_not_recorded", count=len(rows), error=describe_failure(failure))
                self._keep(rows)
                return
            del rows[:BATCH]

    def _keep(self, rows: Iterable[Sender | Rejected]) -> None:
        """Keep the counts, which could not be written, until the next attempt."""
        with self._lock:
            for one in rows:
                if isinstance(one, Sender):
                    self._add_ended(one)
                else:
                    self._add_rejected(one)
        self._has_counts.set()


def _key(one: Rejected) -> _Key:
    return one.peer_address, one.calling_ae_title, one.ae_title, one.cause
