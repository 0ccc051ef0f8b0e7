"""Deadlines of an association: bytes must arrive, and what the peer begins to send must be complete in time.

Without the latter two, a peer that sends a byte now and then would keep its place for ever.
"""

from __future__ import annotations

from dicom_adapter.config.listening import DicomConfig
from dicom_adapter.net.acceptor import Acceptor


class Deadlines:
    """Times of one association, from a monotonic clock in seconds. Not thread-safe."""

    def __init__(self, acceptor: Acceptor, *, is_pdu_limited: bool, now: float) -> None:
        """`is_pdu_limited`: the length of a PDU is limited. If not, a PDU may take as long as an operation."""
        self._acceptor = acceptor
        self._is_pdu_limited = is_pdu_limited
        self._pdus_begun = 0
        self._operation: object | None = None
        self.restart(now)

    def restart(self, now: float) -> None:
        """Grant the full times again, because the adapter itself did not read for a while."""
        self._last_received = self._pdu_since = self._operation_since = now

    def answered(self, now: float) -> None:
        """Record that the peer may have waited for a response until now."""
        self._last_received = now

    def received(self, now: float) -> None:
        """Record that bytes have arrived. Called after the acceptor has processed them."""
        self._last_received = now
        if self._acceptor.pdus_begun != self._pdus_begun:
            self._pdus_begun, self._pdu_since = self._acceptor.pdus_begun, now
        if self._acceptor.operation is not self._operation:
            self._operation, self._operation_since = self._acceptor.operation, now

    def earliest(self, dicom: DicomConfig) -> tuple[float, str]:
        """Return the earliest deadline, and the reason to abort the association after it."""
        found = [(self._last_received + dicom.idle_timeout, f"no data for idle-timeout = {dicom.idle_timeout:g} s")]
        if self._acceptor.is_in_pdu and self._is_pdu_limited:
            reason = f"a PDU was not complete within pdu-timeout = {dicom.pdu_timeout:g} s"
            found.append((self._pdu_since + dicom.pdu_timeout, reason))
        if self._acceptor.operation is not None:
            reason = f"a message was not complete within operation-timeout = {dicom.operation_timeout:g} s"
            found.append((self._operation_since + dicom.operation_timeout, reason))
        elif self._acceptor.is_in_pdu and not self._is_pdu_limited:
            reason = f"a PDU was not complete within operation-timeout = {dicom.operation_timeout:g} s"
            found.append((self._pdu_since + dicom.operation_timeout, reason))
        return min(found)


def longest_pause(dicom: DicomConfig) -> float:
    """Return the seconds after which deadlines must be checked again: what begins until then is not yet due."""
    return min(dicom.idle_timeout, dicom.pdu_timeout, dicom.operation_timeout)
