"""Step 4 (`process`) of the flow: the settings of a lane."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from attrs import frozen

from dicom_adapter.api.errors import Retriable
from dicom_adapter.api.processor import JobProcessorBase
from dicom_adapter.plugins.measured import MeasuredFactory


@frozen(kw_only=True)
class LaneSettings:
    """The settings of a lane: processor, submitters and data folder."""

    ae_title: str
    processor: MeasuredFactory[JobProcessorBase[Any]]  # constructs the processor from `settings` and a context
    settings: Any  # settings of the processor
    submitter: str  # name of the default submitter for jobs
    submitters: Collection[str]  # names of the submitters that jobs may use
    data_folder: Path  # folder for the processor's data

    def ensure_data_folder(self, find_problem: Callable[[], str]) -> Path:
        """Create the data folder if it is missing. Return its path.

        Raises Retriable, and creates nothing, while `find_problem` reports that the storage or the ledger is missing:
        the disk may not be mounted.
        """
        problem = find_problem()
        if problem:
            raise Retriable(problem)
        self.data_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self.data_folder
