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
    """The settings of a lane: processor, submitters and data folder."""

    ae_title: str
    processor: MeasuredFactory[JobProcessorBase[Any]]  # called with its settings and a context
    settings: Any
    submitter: str  # the default for jobs
    submitters: Collection[str]  # the allowed ones for jobs
    data_folder: Path

    def ensure_data_folder(self) -> Path:
        """Create the data folder if it is missing, and return it."""
        self.data_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self.data_folder
