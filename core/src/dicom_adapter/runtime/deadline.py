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
    """Return or raise the result of `call`. Raises TookTooLong after `seconds`; the call is then abandoned."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as failure:  # noqa: BLE001 - raised again where the result is asked for
            result.set_exception(failure)

    threading.Thread(target=run, name="call", daemon=True).start()
    if not wait([result], seconds).done:
        raise TookTooLong(f"it did not return within {seconds:g} seconds")
    return result.result()
