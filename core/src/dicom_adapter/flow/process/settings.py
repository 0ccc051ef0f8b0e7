"""What a lane works with."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from attrs import frozen

from dicom_adapter.api.processor import JobProcessorBase
from dicom_adapter.plugins.measured import MeasuredFactory


@frozen(kw_only=True)
class LaneSettings:
    """What a lane works with."""

    ae_title: str
    processor: MeasuredFactory[JobProcessorBase[Any]]  # of its settings and a context
    settings: Any
    submitter: str  # of jobs that name none
    submitters: Collection[str]  # that jobs may name
    data_folder: Path

    def made_folder(self) -> Path:
        """The data folder, which is there from now on."""
        self.data_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self.data_folder
