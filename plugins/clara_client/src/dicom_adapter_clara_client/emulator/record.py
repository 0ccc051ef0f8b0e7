"""Records of the calls to the emulator and their outcomes, without names of files and metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from pathlib import Path
from threading import Condition

from attrs import field, frozen

FILE_MODE = 0o600


class CallOutcome(str, Enum):
    """Outcome of a call, as the client saw it."""

    DONE = "done"
    REFUSED = "refused"  # with a negative header code
    FAILED = "failed"  # with an error status of the protocol, or cancelled by the client
    LOST = "lost"  # the client received no response, or an unreadable one


@frozen(kw_only=True)
class CallRecord:
    """One call."""

    time: datetime  # UTC; of the outcome
    protocol: str  # "grpc" or "rest"
    call: str  # such as "Jobs.Create"
    # jobId, payloadId and pipelineId, as far as request and response contain them.
    ids: Mapping[str, str] = field(factory=dict)
    received_bytes: int = 0
    sent_bytes: int = 0
    outcome: CallOutcome
    code: int = 0  # the header code
    status: str = ""  # status of the protocol, unless it is success
    fault: str = ""  # kind of the fault that was applied
    worked: bool = True  # whether the platform performed the call, even if the response was lost

    def line(self) -> bytes:
        """Return the record as JSON, without empty values."""
        fields = {
            "time": self.time.isoformat(),
            "protocol": self.protocol,
            "call": self.call,
            "ids": dict(self.ids),
            "receivedBytes": self.received_bytes,
            "sentBytes": self.sent_bytes,
            "outcome": self.outcome.value,
            "code": self.code,
            "status": self.status,
            "fault": self.fault,
            "worked": self.worked,
        }
        return json.dumps({name: value for name, value in fields.items() if value not in ("", {})}).encode() + b"\n"


class CallLog:
    """All calls in order of their outcomes, in memory and, with `path`, as JSON lines appended to a file."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._records: list[CallRecord] = []
        self._changed = Condition()

    def add(self, record: CallRecord) -> None:
        """Record a call. Called before the response is sent, so that a client with a response finds the call here."""
        with self._changed:
            if self._path is not None:
                _append(self._path, record.line())
            self._records.append(record)
            self._changed.notify_all()

    def calls(self, call: str | None = None) -> tuple[CallRecord, ...]:
        """Return the calls so far: all, or those of one name."""
        with self._changed:
            return tuple(record for record in self._records if call in (None, record.call))

    def wait_for(self, call: str, count: int = 1, timeout_seconds: float = 10.0) -> tuple[CallRecord, ...]:
        """Wait until there are `count` calls of one name. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.calls(call)) >= count, timeout_seconds):
                raise TimeoutError(f"{len(self.calls(call))} calls of {call} within {timeout_seconds} s, not {count}")
            return self.calls(call)


def _append(path: Path, line: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, FILE_MODE)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)
