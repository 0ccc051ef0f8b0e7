"""The associations with one DICOM node, which successive uploads share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from attrs import define

from dicom_adapter import Permanent, Retriable
from dicom_adapter_delivery.dicom_association import OutgoingAssociation
from dicom_adapter_delivery.dicom_wire import MAX_CONTEXTS, Pair
from dicom_adapter_delivery.tls_files import FileVersions

RECENT_S = 60.0  # a new association also proposes the accepted pairs of uploads in the last 60 seconds
REFUSAL_S = 10.0  # after this time, a refused pair is proposed again: the node's configuration may have changed
# Uploads that wait for an association fail together with the one that could not open it: each of them would otherwise
# wait for the same timeout. The error is valid for as long as the attempt took, and at most this time.
MAX_FAILURE_S = 1.0
CLOSING_S = 5.0  # time limit for the end of the thread that releases unused associations, when the pool is closed


class ContextRefused(Permanent):
    """The node does not accept the presentation context of an instance."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@define
class _Unused:
    association: OutgoingAssociation
    since: float  # monotonic time
    versions: FileVersions  # of the TLS files with which it was opened


class AssociationPool:
    """At most `most` associations; one that is not used for `idle_s` seconds is released. Thread-safe.

    When the TLS files are renewed, associations that were opened with the old files are released after their upload: an
    operator may have replaced a certificate because its key was stolen, or an authority that is not trusted any more.
    """

    def __init__(
        self,
        connect: Callable[[Sequence[Pair]], OutgoingAssociation],
        most: int,
        idle_s: float,
        versions: Callable[[], FileVersions] = tuple,
    ) -> None:
        """`versions` returns the present versions of the TLS files."""
        self._connect = connect
        self._versions = versions
        self._most = most
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)  # for the thread that releases unused associations
        self._available = threading.Condition(self._lock)  # for uploads that wait for an association
        self._unused: list[_Unused] = []  # the one that was used last is at the end
        self._in_use: dict[OutgoingAssociation, FileVersions] = {}  # with the TLS files of each one
        self._count = 0  # associations that are open, being opened, or being released
        self._recent: dict[Pair, float] = {}  # accepted pairs with the monotonic time of their last use
        # Error of the last attempt to open an association, and the monotonic time until which it is valid.
        self._failure: tuple[float, Retriable] | None = None
        self._waits_for_first = False  # the thread that releases unused associations waits until there is one
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Start the thread that releases unused associations."""
        with self._changed:
            self._is_closed = False
            self._thread = threading.Thread(target=self._release_unused, name="dicom-associations", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Release the unused associations and abort those in use."""
        with self._changed:
            self._is_closed = True
            unused, self._unused = self._unused, []
            self._count -= len(unused)
            in_use = list(self._in_use)
            self._changed.notify()
            self._available.notify_all()
        for association in in_use:
            association.abort()
        for entry in unused:
            entry.association.release()
        if self._thread is not None:
            self._thread.join(CLOSING_S)

    @contextmanager
    def association(self, pair: Pair, *, new: bool = False) -> Iterator[OutgoingAssociation]:
        """Take an association that accepts the pair for the `with` block; a new association if `new` is set.

        Raises ContextRefused, or Retriable if no association can be opened.
        """
        self._release_outdated()
        association = self._take(pair, new=new)
        try:
            if pair in association.refused:
                raise ContextRefused(association.refused[pair])
            yield association
            association.is_reused = True
        finally:
            self._put_back(association)

    def _take(self, pair: Pair, *, new: bool) -> OutgoingAssociation:
        with self._changed:
            while True:
                self._raise_if_unavailable()
                found = None if new else self._find(pair)
                if found is not None:
                    self._in_use[found.association] = found.versions
                    return found.association
                if self._count < self._most:
                    self._count += 1
                    superfluous = None
                    break
                if self._unused:
                    superfluous = self._unused.pop(0).association  # released, because the new one would exceed `most`
                    break
                self._available.wait()
            pairs = self._pairs_to_propose(pair)
        return self._open(pair, pairs, superfluous)

    def _raise_if_unavailable(self) -> None:
        if self._is_closed:
            raise Retriable("the submitter is closed")
        if self._failure is not None and time.monotonic() < self._failure[0]:
            raise Retriable(str(self._failure[1]))

    def _find(self, pair: Pair) -> _Unused | None:
        """Return an unused association that accepts the pair, or has refused it a short time ago.

        Discards associations that the peer has ended.
        """
        for entry in reversed(list(self._unused)):
            association = entry.association
            is_recent = time.monotonic() < association.began + REFUSAL_S
            if not (association.accepts(pair) or (pair in association.refused and is_recent)):
                continue
            self._unused.remove(entry)
            if association.is_alive():
                return entry
            association.close_connection()
            self._count -= 1
        return None

    def _pairs_to_propose(self, pair: Pair) -> list[Pair]:
        now = time.monotonic()
        self._recent = {other: used for other, used in self._recent.items() if now < used + RECENT_S}
        others = sorted(self._recent.keys() - {pair}, key=lambda other: -self._recent[other])
        return [pair, *others[: MAX_CONTEXTS - 1]]

    def _open(self, pair: Pair, pairs: Sequence[Pair], superfluous: OutgoingAssociation | None) -> OutgoingAssociation:
        began, versions = time.monotonic(), self._versions()  # before the files are read
        try:
            if superfluous is not None:
                superfluous.release()
                began = time.monotonic()
            association = self._connect(pairs)
        except BaseException as failure:
            with self._changed:
                self._count -= 1
                if isinstance(failure, Retriable):
                    now = time.monotonic()
                    self._failure = (now + min(MAX_FAILURE_S, now - began), failure)
                self._available.notify_all()
            raise
        with self._changed:
            self._failure = None
            if self._is_closed:
                self._count -= 1
                association.abort()
                raise Retriable("the submitter is closed")
            self._in_use[association] = versions
            if association.accepts(pair):
                self._recent[pair] = time.monotonic()
        return association

    def _put_back(self, association: OutgoingAssociation) -> None:
        present = self._versions()
        with self._changed:
            versions = self._in_use.pop(association)
            now = time.monotonic()
            is_reusable = association.is_usable and not self._is_closed
            # Compared here, too: an upload that waits compared the versions earlier, and would take this association.
            is_outdated = is_reusable and versions != present
            if not is_outdated:
                if is_reusable:
                    self._unused.append(_Unused(association, now, versions))
                else:
                    self._count -= 1
                    association.close_connection()
                self._available.notify()  # one is enough: an upload that cannot use this association replaces it
                if self._waits_for_first:
                    self._changed.notify()
        if is_outdated:
            self._release([association])

    def _release_outdated(self) -> None:
        """Release the unused associations that were opened with other TLS files than the present ones."""
        versions = self._versions()
        with self._changed:
            outdated = [entry.association for entry in self._unused if entry.versions != versions]
            self._unused = [entry for entry in self._unused if entry.versions == versions]
        if outdated:
            self._release(outdated)

    def _release(self, outdated: Sequence[OutgoingAssociation]) -> None:
        try:
            for association in outdated:
                association.release()
        finally:
            with self._changed:
                self._count -= len(outdated)
                self._available.notify_all()

    def note_use(self, pair: Pair) -> None:
        """Record the use of a pair: the next new association proposes it, too."""
        with self._changed:
            self._recent[pair] = time.monotonic()

    def _release_unused(self) -> None:
        with self._changed:
            while not self._is_closed:
                now = time.monotonic()
                due = [entry for entry in self._unused if now >= entry.since + self._idle_s]
                if not due:
                    next_due = min((entry.since + self._idle_s for entry in self._unused), default=None)
                    self._waits_for_first = next_due is None
                    self._changed.wait(None if next_due is None else next_due - now)
                    self._waits_for_first = False
                    continue
                self._unused = [entry for entry in self._unused if entry not in due]
                self._changed.release()
                try:
                    for entry in due:
                        entry.association.release()
                finally:
                    self._changed.acquire()
                    self._count -= len(due)
                    self._available.notify_all()
