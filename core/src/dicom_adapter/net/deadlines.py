"""Deadlines of an association: for the next byte, for the end of a PDU, and for the end of a message.

With a deadline for the next byte only, a peer that sends single bytes could keep its association open for ever.
"""

from __future__ import annotations

from dicom_adapter.config.listening import DicomConfig
from dicom_adapter.net.acceptor import Acceptor

# What happened, by the configuration field whose time limit has passed
INCOMPLETE = {
    "idle_timeout": "no data arrived",
    "pdu_timeout": "a PDU was not complete",
    "operation_timeout": "a message was not complete",
}


class Deadlines:
    """Times of one association, from a monotonic clock in seconds. Not thread-safe."""

    def __init__(self, acceptor: Acceptor, *, is_pdu_limited: bool, now: float) -> None:
        """`is_pdu_limited`: the length of a PDU is limited. If not, a PDU may take as long as an operation."""
        self._acceptor, self._layer = acceptor, acceptor.layer
        self._is_pdu_limited = is_pdu_limited
        self._pdus_begun = 0
        self._operation: object | None = None
        self.restart(now)

    def restart(self, now: float) -> None:
        """Restart all time limits, because the adapter itself did not read for a while."""
        self._last_received = self._pdu_since = self._operation_since = now

    def answered(self, now: float) -> None:
        """Record that a response was sent: until now, the peer may have waited for it."""
        self._last_received = now

    def received(self, now: float) -> None:
        """Record that bytes have arrived. Called after the acceptor has processed them."""
        self._last_received = now
        if self._layer.pdus_begun != self._pdus_begun:
            self._pdus_begun, self._pdu_since = self._layer.pdus_begun, now
        if self._acceptor.operation is not self._operation:
            self._operation, self._operation_since = self._acceptor.operation, now

    def earliest(self, dicom: DicomConfig) -> tuple[float, str]:
        """Return the earliest deadline, and the configuration field with its time limit."""
        deadlines = [(self._last_received + dicom.idle_timeout, "idle_timeout")]
        if self._acceptor.operation is not None:
            deadlines.append((self._operation_since + dicom.operation_timeout, "operation_timeout"))
        elif self._layer.is_in_pdu and not self._is_pdu_limited:
            deadlines.append((self._pdu_since + dicom.operation_timeout, "operation_timeout"))
        if self._layer.is_in_pdu and self._is_pdu_limited:
            deadlines.append((self._pdu_since + dicom.pdu_timeout, "pdu_timeout"))
        return min(deadlines)


def describe_timeout(dicom: DicomConfig, field: str) -> str:
    """Return the reason to abort an association whose time limit in this configuration field has passed."""
    return f"{INCOMPLETE[field]} within {field.replace('_', '-')} = {getattr(dicom, field):g} seconds"


def seconds_between_checks(dicom: DicomConfig) -> float:
    """Return the seconds after which deadlines must be checked again: no new deadline can pass earlier."""
    return min(dicom.idle_timeout, dicom.pdu_timeout, dicom.operation_timeout)
