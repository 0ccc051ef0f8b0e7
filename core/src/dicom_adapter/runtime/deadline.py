"""Time limits for calls that may never return."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from dicom_adapter.api.errors import DicomAdapterError

T = TypeVar("T")


class TookTooLong(DicomAdapterError):
    """A call did not return in time."""


def call_within(seconds: float, call: Callable[[], T]) -> T:
    """Return the result of `call`, or raise its exception. After `seconds`, abandon the call and raise TookTooLong."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as failure:  # noqa: BLE001 - raised again by `result` below
            result.set_exception(failure)

    threading.Thread(target=run, name="call", daemon=True).start()
    if not wait([result], seconds).done:
        raise TookTooLong(f"it did not return within {seconds:g} seconds")
    return result.result()
