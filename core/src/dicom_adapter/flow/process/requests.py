"""Step 4 (`process`) of the flow: requests to a processor. Each request is a turn on the processor's lane.

A request has a time, like an instance or a timer: the time of its creation. Instances that were received earlier are
delivered first. The lane keeps the requests, because its processor may be rebuilt at any time.
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
    """The function of a request raised an error: `reason`."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__()
        self.reason = reason


@define(eq=False)
class ProcessorRequest:
    """A request to a processor, or a notice: a request for whose result no caller waits.

    An error of a notice counts as a failure of the processor.
    """

    ae_title: str
    when: datetime
    function: Callable[[Any], Any]
    is_notice: bool
    future: Future[Any] = field(factory=Future)

    @property
    def due(self) -> datetime:
        return self.when

    def call(self, processor: JobProcessorBase[Any]) -> Any:
        """Return the result of the function. Raises RequestFailed with the error that the function raised."""
        try:
            return self.function(processor)
        except BaseException as failure:
            raise RequestFailed(failure) from failure

    def claim(self) -> bool:
        """Prevent a later cancellation of the request. Return False if the request is cancelled already."""
        return self.future.running() or self.future.set_running_or_notify_cancel()

    def resolve(self, answer: Any) -> None:
        """Return the result to the caller of a claimed request."""
        self.future.set_result(answer)

    def fail(self, failure: BaseException) -> None:
        """Return the error to the caller. Log an unexpected error."""
        if not self.is_notice and not isinstance(failure, DicomAdapterError):
            log.error("request_failed", ae_title=self.ae_title, error=describe_failure(failure))
        if self.claim():
            self.future.set_exception(failure)


class Requests:
    """The queue of requests to one lane. Thread-safe."""

    def __init__(self, ae_title: str, clock: Clock) -> None:
        self._ae_title = ae_title
        self._clock = clock
        self._waiting: deque[ProcessorRequest] = deque()
        self._is_closed = False
        self._lock = threading.Lock()

    def add(self, function: Callable[[Any], T], *, is_notice: bool = False) -> Future[T]:
        """Add a request with the current time."""
        request = ProcessorRequest(self._ae_title, self._clock.now(), function, is_notice)
        with self._lock:
            if not self._is_closed:
                self._waiting.append(request)
                return request.future
        request.fail(_stopping())
        return request.future

    def first(self) -> ProcessorRequest | None:
        """Return the next request that was not cancelled, without removing it."""
        with self._lock:
            while self._waiting and self._waiting[0].future.cancelled():
                self._waiting.popleft()
            return self._waiting[0] if self._waiting else None

    def pop(self) -> ProcessorRequest | None:
        """Remove and return the request that `first` returned; None if it was cancelled or refused since then."""
        with self._lock:
            request = self._waiting.popleft() if self._waiting else None
        return request if request is not None and request.claim() else None

    def put_back(self, request: ProcessorRequest) -> None:
        """Add a request again, before all other requests."""
        with self._lock:
            if not self._is_closed:
                self._waiting.appendleft(request)
                return
        request.fail(_stopping())

    def refuse_all(self, reason: DicomAdapterError) -> None:
        """Fail all waiting requests with this reason."""
        with self._lock:
            refused, self._waiting = list(self._waiting), deque()
        for request in refused:
            request.fail(reason)

    def close(self) -> None:
        """Refuse all waiting requests and all later requests."""
        with self._lock:
            self._is_closed = True
        self.refuse_all(_stopping())


def _stopping() -> Retriable:
    return Retriable(
        "the service is stopping, or does not serve this AE title any longer; nothing was changed, retry later"
    )
