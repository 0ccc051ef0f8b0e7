"""Faults on demand: which call fails, how, and how often. Faults can be changed while the emulator is running."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from fnmatch import fnmatchcase
from threading import Lock

from attrs import define, field, frozen

from dicom_adapter_clara_client.wire.codes import ClaraCode


class CallFaultKind(str, Enum):
    """How a call fails: before the work (the platform does not execute the call) or after it."""

    STATUS = "status"  # before the work, with the protocol's status `status`
    CODE = "code"  # before the work, with the header code `code`; on REST, a problem with this code
    RESET = "reset"  # before the work, the connection is lost
    DROP = "drop"  # after the work, the connection is lost: the client receives no response
    DELAY = "delay"  # a successful call after `seconds`
    # The request of an upload ends after its first piece, before the work. The response of another call is incomplete,
    # after the work.
    TRUNCATE = "truncate"
    GARBAGE = "garbage"  # after the work, the response is unreadable


@frozen(kw_only=True)
class CallFault:
    """A fault: the calls that fail, and how they fail."""

    call: str = "*"  # such as "Jobs.Create", with the wildcards * and ?; the names are the same for both protocols
    kind: CallFaultKind = field(converter=CallFaultKind)
    times: int | None = 1  # number of calls that fail; None: all, until the fault is removed
    after: int = 0  # number of calls that succeed before the first one fails
    seconds: float = 0.0  # delay at the start of the call, for every kind
    # For STATUS: the name of a gRPC status, or an HTTP status; it is translated for the other protocol.
    status: str | int = "UNAVAILABLE"
    code: int = ClaraCode.INTERNAL  # for CODE
    messages: tuple[str, ...] = ("injected fault",)  # for STATUS and CODE
    pipeline_id: str | None = None  # only calls about this pipeline, its jobs and their payloads
    protocol: str | None = None  # "grpc" or "rest"; None: both

    def applies_to(self, protocol: str, call: str, pipeline_id: str | None) -> bool:
        """Return whether this fault applies to a call."""
        return (
            fnmatchcase(call, self.call)
            and self.protocol in (None, protocol)
            and (self.pipeline_id is None or self.pipeline_id.lower() == pipeline_id)
        )


@define
class _Counted:
    """A fault with the numbers of calls to which it still applies."""

    fault: CallFault
    passes: int = field()  # remaining calls that succeed
    fails: int | None = field()  # remaining calls that fail; None: all

    def count_call(self) -> bool:
        """Count one call and return whether it fails."""
        if self.passes > 0:
            self.passes -= 1
            return False
        if self.fails is None:
            return True
        self.fails -= 1
        return True


class Faults:
    """The active faults, in order. The first fault that is due for a call is applied to it."""

    def __init__(self, faults: Iterable[CallFault] = ()) -> None:
        self._lock = Lock()
        self._counted: list[_Counted] = []
        self.add(*faults)

    def add(self, *faults: CallFault) -> None:
        """Append faults."""
        with self._lock:
            self._counted += [_Counted(fault, fault.after, fault.times) for fault in faults]

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._counted.clear()

    def left(self) -> tuple[CallFault, ...]:
        """Return the faults that can still be applied."""
        with self._lock:
            return tuple(counted.fault for counted in self._counted if counted.fails != 0)

    def take(self, protocol: str, call: str, pipeline_id: str | None = None) -> CallFault | None:
        """Count a call, and return the fault to apply to it, if any. `pipeline_id` is in lower case."""
        with self._lock:
            for counted in self._counted:
                if counted.fails == 0 or not counted.fault.applies_to(protocol, call, pipeline_id):
                    continue
                if counted.count_call():
                    return counted.fault
            return None
