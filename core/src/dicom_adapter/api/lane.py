"""`LaneHandle`: the way to an AE title's processor from outside of its lane, such as from an HTTP request."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from dicom_adapter.api.values import InstanceStorageInfo, Job

T = TypeVar("T")


class LaneHandle(Protocol):
    """One AE title, as the host gives it to the plugin that brings its processor. Used from any thread."""

    @property
    def ae_title(self) -> str:
        """The called AE title."""

    @property
    def settings(self) -> Any:
        """The processor's settings, structured."""

    @property
    def data_folder(self) -> Path:
        """The processor's own folder, as in `JobProcessorBase.data_folder`."""

    def now(self) -> datetime:
        """The host's time, in UTC."""

    def ask(self, request: Callable[[Any], T]) -> Future[T]:
        """Call `request(processor)` as a turn on the lane, after everything that was received before was delivered.

        The future is done when the turn is committed. What `request` raises is its caller's: nothing that it asked for
        happens, and the processor lives on, so raise before changing any attribute. `Retriable`: nothing has happened,
        because ledger or storage failed or the service stops. `Refused`: the lane is stopped, or the turn cannot be.
        A request may be made twice when the first time was not committed. `Future.cancel` succeeds until the turn
        begins: then it never does.
        """

    def find_job(self, job_id: str) -> Job | None:
        """A job of this AE title as it stands now; as `JobProcessorBase.find_job`."""

    def open_stored(self, instance: InstanceStorageInfo) -> BinaryIO:
        """The stored Part 10 file, positioned at its start. Raises StoredObjectMissing when it was reclaimed."""
