"""`Submitter`: the way of a job to an inference platform.

The core owns the life of a job: it calls one method for each step, writes down the outcome, and repeats a step whose
outcome it does not know. **Every method must therefore be safe to repeat**: a second `create_job` for the same
`job.job_id` returns the job that the first one made.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, ClassVar, Generic, TypeVar

from attrs import frozen

from dicom_adapter.api.declare import settings_argument
from dicom_adapter.api.values import InstanceStorageInfo, Job, PlatformJob, PlatformStatus

SettingsT = TypeVar("SettingsT")


@frozen(kw_only=True)
class SubmitterContext:
    """What the core tells every submitter besides its own settings."""

    name: str  # of the [submitters.<name>] table
    data_folder: Path  # the submitter's own, made on first use by the submitter


@frozen(kw_only=True)
class Upload:
    """One instance of a job, to be uploaded."""

    instance: InstanceStorageInfo
    position: int  # 0-based place in the job
    size_bytes: int  # of the Part 10 file
    open: Callable[[], BinaryIO]  # a fresh reader of the Part 10 file; raises StoredObjectMissing


class Submitter(ABC, Generic[SettingsT]):
    """The base of all submitters.

    Life cycle: constructed (no side effects), `open`, then the other calls from several threads at once, `close`.

    Errors: raise `Retriable` for what may pass, `Permanent` for what cannot; anything else is taken for a bug and
    faults the job.
    """

    name: ClassVar[str]  # what `type = "…"` in [submitters.<name>] calls it
    settings_type: ClassVar[type]  # set from the class argument: `class Mine(Submitter[MySettings])`

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        settings_argument(cls, Submitter)

    def __init__(self, settings: SettingsT, context: SubmitterContext) -> None:
        self.settings = settings
        self.context = context

    def open(self) -> None:
        """Prepare for use. Do not wait for the platform here: it may be down for hours."""

    @abstractmethod
    def create_job(self, job: Job) -> PlatformJob:
        """Make the job known to the platform, not yet running. Repeated for the same `job.job_id`: the same answer."""

    @abstractmethod
    def add_metadata(self, job: Job, metadata: Mapping[str, str]) -> None:
        """Attach `metadata`, the whole of it. Repeated: each key is there once."""

    @abstractmethod
    def upload(self, job: Job, upload: Upload) -> None:
        """Send one instance. Several run at once for one job. Repeated: the instance is there once."""

    @abstractmethod
    def start(self, job: Job) -> None:
        """Let the job run. Repeated: it runs once."""

    @abstractmethod
    def status(self, job: Job) -> PlatformStatus:
        """What became of a started job."""

    @abstractmethod
    def cancel(self, job: Job) -> None:
        """Stop the job on the platform, whatever its state. What is already stopped is not an error."""

    def close(self) -> None:
        """Let go of everything that `open` took. Calls that are under way may be cut off."""
