"""A plugin whose processor computes without pause, which must not slow the receiver."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any

from dicom_adapter import InstanceStorageInfo, JobProcessorBase, NoSettings, hookimpl

TURN_S = 1.0  # duration of one call; a call without an end would be reported as a hang


class BusyProcessor(JobProcessorBase[NoSettings]):
    """Processor whose timers compute without a pause."""

    name = "busy"

    def open(self) -> None:
        self.call_at(datetime.now(timezone.utc), self._compute)

    def handle_instance(self, instance: InstanceStorageInfo) -> None:
        """Do nothing, because no instance is sent to this processor."""

    def _compute(self) -> None:
        self.call_later(0, self._compute)
        end = time.monotonic() + TURN_S
        while time.monotonic() < end:
            sum(range(10_000))


@hookimpl
def dicom_adapter_processors() -> list[type[JobProcessorBase[Any]]]:
    """Provide `processor = "busy"`."""
    return [BusyProcessor]
