"""Part of step 4: what others ask of a processor, each as a turn of its own on the processor's lane.

A request has a time, that at which it was made, as an instance and a timer have: what was received before is delivered
before. It belongs to the lane and not to a processor, which may be built anew any time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime
from typing import Any, TypeVar

import structlog
from attrs import define, field

from dicom_adapter.api.errors import DicomAdapterError, Retriable, describe_failure
from dicom_adapter.api.processor import JobProcessorBase
from dicom_adapter.runtime.clock import Clock

log = structlog.get_logger("dicom_adapter.process")

T = TypeVar("T")


class RequestFailed(Exception):
    """What was asked for raised."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__()
        self.reason = reason


@define(eq=False)
class ProcessorRequest:
    """One question to a processor, or a notice, which nobody waits for and which must not fail."""

    ae_title: str
    when: datetime
    function: Callable[[Any], Any]
    is_notice: bool
    future: Future[Any] = field(factory=Future)

    def call(self, processor: JobProcessorBase[Any]) -> Any:
        """The answer of the processor. Raises RequestFailed with whatever it raised."""
        try:
            return self.function(processor)
        except BaseException as failure:
            raise RequestFailed(failure) from failure

    def take(self) -> bool:
        """From now on it cannot be cancelled. False: it was."""
        return self.future.running() or self.future.set_running_or_notify_cancel()

    def resolve(self, answer: Any) -> None:
        """Tell whoever asked; it was taken."""
        self.future.set_result(answer)

    def fail(self, failure: BaseException) -> None:
        """Tell whoever asked, and the log what nobody meant to happen."""
        if not self.is_notice and not isinstance(failure, DicomAdapterError):
            log.error("request_failed", ae_title=self.ae_title, error=describe_failure(failure))
        if self.take():
            self.future.set_exception(failure)


class Requests:
    """What one lane is asked, in order. Anybody adds, the lane takes."""

    def __init__(self, ae_title: str, clock: Clock) -> None:
        self._ae_title = ae_title
        self._clock = clock
        self._waiting: deque[ProcessorRequest] = deque()
        self._is_closed = False
        self._lock = threading.Lock()

    def add(self, function: Callable[[Any], T], *, is_notice: bool = False) -> Future[T]:
        """Ask now."""
        request = ProcessorRequest(self._ae_title, self._clock.now(), function, is_notice)
        with self._lock:
            if not self._is_closed:
                self._waiting.append(request)
                return request.future
        request.fail(_stopping())
        return request.future

    def first(self) -> ProcessorRequest | None:
        """The next one that somebody still waits for; it stays."""
        with self._lock:
            while self._waiting and self._waiting[0].future.cancelled():
                self._waiting.popleft()
            return self._waiting[0] if self._waiting else None

    def pop(self) -> ProcessorRequest | None:
        """Take the request that `first` showed, unless it was cancelled or refused since."""
        with self._lock:
            request = self._waiting.popleft() if self._waiting else None
        return request if request is not None and request.take() else None

    def put_back(self, request: ProcessorRequest) -> None:
        """Have it asked again, before the others."""
        with self._lock:
            if not self._is_closed:
                self._waiting.appendleft(request)
                return
        request.fail(_stopping())

    def refuse_all(self, reason: DicomAdapterError) -> None:
        """Answer whatever waits with the reason why it is not asked."""
        with self._lock:
            refused, self._waiting = list(self._waiting), deque()
        for request in refused:
            request.fail(reason)

    def close(self) -> None:
        """Ask nothing any more."""
        with self._lock:
            self._is_closed = True
        self.refuse_all(_stopping())


def _stopping() -> Retriable:
    return Retriable(
        "the service stops, or serves this AE title no longer; nothing has happened, ask again when it does"
    )
