"""Part of step 4: the settings of a lane."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from attrs import frozen

from dicom_adapter.api.processor import JobProcessorBase
from dicom_adapter.plugins.measured import MeasuredFactory


@frozen(kw_only=True)
class LaneSettings:
    """The settings of a lane: its processor, its submitters, its data folder."""

    ae_title: str
    processor: MeasuredFactory[JobProcessorBase[Any]]  # called with its settings and a context
    settings: Any
    submitter: str  # of jobs that name none
    submitters: Collection[str]  # that jobs may name
    data_folder: Path

    def ensure_data_folder(self) -> Path:
        """Return the data folder; create it if it is missing."""
        self.data_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self.data_folder
