"""Faults on demand: which call fails, how, how often. They can be changed while the emulator serves."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from fnmatch import fnmatchcase
from threading import Lock

from attrs import define, field, frozen

from dicom_adapter_clara_client.wire.codes import ClaraCode


class CallFaultKind(str, Enum):
    """How a call fails. Before the work means that the platform's state does not change."""

    STATUS = "status"  # before the work, with `status` of the protocol
    CODE = "code"  # before the work, with the header code `code`; on REST a problem that carries it
    RESET = "reset"  # before the work the connection is lost
    DROP = "drop"  # the work is done, then the connection is lost: the client receives no answer
    DELAY = "delay"  # nothing but `seconds` of waiting
    TRUNCATE = "truncate"  # a cut: an upload after its first piece, before the work; else the answer, after it
    GARBAGE = "garbage"  # the work is done, the answer is not what any client can read


@frozen(kw_only=True)
class CallFault:
    """A fault: the calls that it applies to, and how they fail."""

    call: str = "*"  # such as "Jobs.Create", with * and ? as in file names; named alike on all faces
    kind: CallFaultKind = field(converter=CallFaultKind)
    times: int | None = 1  # how many calls fail; None: all, until the fault is removed
    after: int = 0  # how many calls pass before
    seconds: float = 0.0  # of waiting before anything else, with every kind
    status: str | int = (
        "UNAVAILABLE"  # of STATUS: a gRPC status by name, or an HTTP status; a face translates the other
    )
    code: int = ClaraCode.INTERNAL  # of CODE
    messages: tuple[str, ...] = ("as demanded",)  # of STATUS and CODE
    pipeline_id: str | None = None  # only calls about this pipeline, its jobs and their payloads
    face: str | None = None  # "grpc" or "rest"; None: both

    def concerns(self, face: str, call: str, pipeline_id: str | None) -> bool:
        """Return whether this fault applies to a call."""
        return (
            fnmatchcase(call, self.call)
            and self.face in (None, face)
            and (self.pipeline_id is None or self.pipeline_id.lower() == pipeline_id)
        )


@define
class _Counted:
    fault: CallFault
    passes: int = field()  # calls that are still to pass
    fails: int | None = field()  # calls that are still to fail

    def strikes(self) -> bool:
        """Count one call and return whether it fails."""
        if self.passes > 0:
            self.passes -= 1
            return False
        if self.fails is None:
            return True
        self.fails -= 1
        return True


class Faults:
    """The faults in force, in order: of those that concern a call, the first one that strikes does."""

    def __init__(self, faults: Iterable[CallFault] = ()) -> None:
        self._lock = Lock()
        self._counted: list[_Counted] = []
        self.add(*faults)

    def add(self, *faults: CallFault) -> None:
        """Append faults to those in force."""
        with self._lock:
            self._counted += [_Counted(fault, fault.after, fault.times) for fault in faults]

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._counted.clear()

    def left(self) -> tuple[CallFault, ...]:
        """Return the faults that can still strike."""
        with self._lock:
            return tuple(counted.fault for counted in self._counted if counted.fails != 0)

    def take(self, face: str, call: str, pipeline_id: str | None = None) -> CallFault | None:
        """Count a call and return the fault that strikes it. `pipeline_id` is in lower case."""
        with self._lock:
            for counted in self._counted:
                if counted.fails == 0 or not counted.fault.concerns(face, call, pipeline_id):
                    continue
                if counted.strikes():
                    return counted.fault
            return None
