"""Calls that may never come to an end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from dicom_adapter.api.errors import DicomAdapterError

T = TypeVar("T")


class TookTooLong(DicomAdapterError):
    """A call has not returned in time."""


def call_within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` returns or raises. Raises TookTooLong when it does neither in time; it is left to itself then."""
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
