"""Step 4 (`process`) of the flow: the interface of a lane for code of plugins outside of the processor."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from dicom_adapter.api.values import InstanceStorageInfo, Job
from dicom_adapter.flow.process.context import find_job
from dicom_adapter.flow.process.lane import Lane
from dicom_adapter.flow.process.settings import LaneSettings
from dicom_adapter.plugins.measured import MeasuredCaller, unwrap
from dicom_adapter.runtime.resources import Resources

T = TypeVar("T")


class Handle:
    """Interface of a lane for plugins (see `api.lane.LaneHandle`). Thread-safe."""

    def __init__(
        self,
        settings: LaneSettings,
        lane: Lane,
        resources: Resources,
        caller: MeasuredCaller,
        wake: Callable[[], None],
    ) -> None:
        self.ae_title = settings.ae_title
        self.settings = settings.settings
        self.now = resources.clock.now
        self._lane_settings = settings
        self._lane = lane
        self._find_problem = resources.problem
        self._ledger = resources.ledger
        self._storage = resources.storage
        self._caller = caller
        self._wake = wake

    @property
    def data_folder(self) -> Path:
        return self._lane_settings.ensure_data_folder(self._find_problem)

    def ask(self, request: Callable[[Any], T]) -> Future[T]:
        def call(processor: Any) -> T:
            # The request belongs to the plugin of the processor, and is measured as a whole.
            return self._caller("request", request, unwrap(processor))

        future = self._lane.ask(call)
        self._wake()
        return future

    def find_job(self, job_id: str) -> Job | None:
        return find_job(self._ledger, self.ae_title, job_id)

    def open_stored(self, instance: InstanceStorageInfo) -> BinaryIO:
        return self._storage.read(instance.storage_key)
