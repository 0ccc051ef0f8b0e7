"""`LaneHandle`: access to the processor of an AE title from outside of its lane, such as from an HTTP request.

Each AE title has one *lane*, which calls the processor. One call is a *turn*: a transaction, which is committed when
the call returns and discarded when it raises.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from dicom_adapter.api.values import InstanceStorageInfo, Job

T = TypeVar("T")


class LaneHandle(Protocol):
    """Handle of one AE title, passed to the plugin that provides its processor. Thread-safe."""

    @property
    def ae_title(self) -> str:
        """The called AE title, without padding."""

    @property
    def settings(self) -> Any:
        """The processor's settings, an instance of its settings class."""

    @property
    def data_folder(self) -> Path:
        """The processor's folder, see `JobProcessorBase.data_folder`."""

    def now(self) -> datetime:
        """Return the host's time in UTC."""

    def ask(self, request: Callable[[Any], T]) -> Future[T]:
        """Call `request(processor)` as a turn on the lane, after the delivery of all instances received until now.

        The future completes when the turn is committed. An exception of `request` is set on the future; the turn is
        discarded but the processor is kept, so `request` must raise before it changes any attribute. Other errors:
        `Retriable` if nothing was committed because the ledger or the storage failed, or the service stops; `Refused`
        if the lane is stopped or the turn requested something impossible. `request` is called again if its first turn
        could not be committed. `Future.cancel` succeeds until the turn begins, and never after that.
        """

    def find_job(self, job_id: str) -> Job | None:
        """Return a job of this AE title in its current state, see `JobProcessorBase.find_job`."""

    def open_stored(self, instance: InstanceStorageInfo) -> BinaryIO:
        """Open the stored Part 10 file at its start. Raises StoredObjectMissing if the instance was reclaimed."""
