"""`Submitter`: submits jobs to an inference platform.

The core drives each job: it calls one method for each step, records the outcome in the ledger, and repeats a step whose
outcome is unknown. **Every method must therefore be idempotent**: a second `create_job` for the same `job.run_id`
returns the job that the first call created.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, ClassVar, Generic, TypeVar

from attrs import field, frozen

from dicom_adapter.api.certificates import Certificate
from dicom_adapter.api.declare import set_settings_type
from dicom_adapter.api.values import InstanceStorageInfo, Job, PlatformJob, PlatformStatus

SettingsT = TypeVar("SettingsT")


@frozen(kw_only=True)
class SubmitterContext:
    """Information from the core for each submitter, besides the submitter's settings."""

    name: str  # name of the [submitters.<name>] table
    # Folder for data of this submitter only. A submitter that needs the folder creates it, with its parents, in `open`
    # or once before its first job. Later, the disk may not be mounted, and the folder would be created in its place.
    data_folder: Path


@frozen(kw_only=True)
class Upload:
    """One instance of a job to upload."""

    instance: InstanceStorageInfo
    position: int  # 0-based position in the job
    size_bytes: int  # size of the Part 10 file
    open: Callable[[], BinaryIO]  # opens a new reader of the Part 10 file; raises StoredObjectMissing


@frozen(kw_only=True)
class AttachmentUpload:
    """One attachment to upload: a file that another job has produced, and that is not DICOM."""

    # Relative path, as the pipeline chose it: it may contain patient data. Never use it as a path.
    name: str = field(repr=False)
    # A name for a file, made from `name`: at most 100 letters, digits, ".", "_" and "-"; it begins with a letter or
    # digit. Unique in the job, also if case is ignored; never `manifest.json`, and without the ending `.dcm`.
    file_name: str = field(repr=False)
    position: int  # 0-based position among the attachments of the job
    size_bytes: int
    open: Callable[[], BinaryIO]  # opens a new reader of the file; raises StoredObjectMissing


@frozen(kw_only=True)
class Output:
    """One file that a job has produced."""

    name: str  # relative path, as the pipeline chose it: unique in the job; never used as a path by the core
    open: Callable[[], BinaryIO]  # opens a new reader of the file


class Submitter(ABC, Generic[SettingsT]):
    """Base class of all submitters.

    Life cycle: constructor (without side effects), `open`, then the other methods from several threads at once,
    `close`.

    The core follows a started job until its end if `follows_jobs` is set: it calls `status`, and after a success
    `results` and `clean_up`. The status of a finished job must then contain `succeeded`, True or False. An operator may
    retry a failed job: that is another run, and all steps are repeated with another `job.run_id`. Use `run_id` as the
    idempotency key.

    Errors: raise `Retriable` for a transient failure (the step is repeated with back-off) and `Permanent` for a failure
    that a repetition cannot fix (the job becomes faulted). Any other exception is a bug and faults the job.
    """

    name: ClassVar[str]  # value of `type` in a [submitters.<name>] table that selects this class
    settings_type: ClassVar[type]  # settings class, from the class argument: `class Mine(Submitter[MySettings])`
    follows_jobs: bool = False
    """True if `status` reports whether a finished job has succeeded. Set it in the class, or in the constructor."""
    most_running: int | None = None
    """Number of jobs that may run at the same time, unless the configuration has `running`; None: no limit."""
    platform_has_jobs: bool = True
    """False if the platform handles single instances and has no jobs. Then `create_job`, `add_metadata` and `cancel` do
    not call the platform, so their success does not show that the platform is available."""
    takes_attachments: bool = False
    """True if jobs that deliver results may have attachments, see `attach`. Set it in the class, or in the
    constructor."""
    node_ae_title: str | None = None
    """AE title of the DICOM node to which the instances of jobs are sent; set it in the constructor. None: they are not
    sent to a DICOM node. With `to-sender = true`, this submitter delivers the results of instances that the adapter has
    received from this AE title."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        set_settings_type(cls, Submitter)

    def __init__(self, settings: SettingsT, context: SubmitterContext) -> None:
        self.settings = settings
        self.context = context

    def open(self) -> None:
        """Prepare for use. The method must not wait for the platform, which may be down for hours."""

    def pipeline_ids(self) -> Collection[str] | None:
        """Return the ids of all pipelines that jobs may name; None if the ids are known only to the platform.

        Called by `check` and at the start of the service, before `open`: the method must not call the platform. An
        AE title with another pipeline is reported as an error, because the jobs of that pipeline would be faulted.
        """
        return None

    @abstractmethod
    def create_job(self, job: Job) -> PlatformJob:
        """Create the job on the platform without starting it. If the job with `job.run_id` exists there, return it.

        If `job.run` is not 1, the earlier runs have failed. The method may delete what the platform keeps of them.
        """

    @abstractmethod
    def add_metadata(self, job: Job, metadata: Mapping[str, str]) -> None:
        """Attach all entries of `metadata` to the job. A repetition must not add a key twice."""

    @abstractmethod
    def upload(self, job: Job, upload: Upload) -> None:
        """Upload one instance. A repetition must not add the instance twice.

        The core calls this method on several threads at the same time.
        """

    def attach(self, job: Job, attachment: AttachmentUpload) -> None:
        """Upload one attachment of a job that delivers results. A repetition must not add it twice.

        Called like `upload`, after the instances were uploaded, and only if `takes_attachments` is set. A job may have
        attachments without any instance. An error must not contain the names of the attachment: they may contain
        patient data.
        """
        raise NotImplementedError("a submitter with takes_attachments must implement attach")

    @abstractmethod
    def start(self, job: Job) -> None:
        """Start the job. A repetition must not start it twice."""

    @abstractmethod
    def status(self, job: Job) -> PlatformStatus:
        """Return the status of a started job."""

    @abstractmethod
    def cancel(self, job: Job) -> None:
        """Cancel the job on the platform in any state. A job that has already ended is not an error."""

    def results(self, job: Job) -> Iterable[Output]:  # noqa: ARG002 - for subclasses
        """Return the files that a succeeded job has produced. The core calls this method again after a crash."""
        return ()

    def clean_up(self, job: Job) -> None:
        """Delete what the platform keeps for a job that has ended, except its log.

        The core calls this method after the results are stored; for a failed run, after an operator has retried the
        job; and for each cancelled job, even if the platform has refused `cancel`. After `Retriable`, a bug or a crash,
        it calls the method again, without a limit; after `Permanent`, it reports that the files are left. `job.run`
        and the platform's ids in `job` are those of the run to clean up, even if the job has a later run. What is
        already deleted is not an error.
        """

    def log(self, job: Job) -> BinaryIO | None:  # noqa: ARG002 - for subclasses
        """Open the log of the job's last run: text in UTF-8. Return None if there is no log.

        Called by `jobs show --log`, in another process, without `open`.
        """
        return None

    def certificates(self) -> Iterable[Certificate]:
        """Return the certificates on which the connection depends: those in the submitter's files, and the platform's.

        Called once per hour, for the health of the adapter, and by `check`, without `open`. It may connect to the
        platform, for at most ten seconds. Use `certificates_in_file` and `certificate_of_server`.
        """
        return ()

    def check_connection(self) -> str:
        """Ask the platform whether it accepts the adapter's requests; return its answer in words, for operators.

        Called only by `check --connect`, without `open`, with a limit of thirty seconds. The request must change
        nothing on the platform. Raise the same errors as the other methods: `check` shows the message. Return "" if
        nothing was tried, as this default implementation does.
        """
        return ""

    def close(self) -> None:
        """Release everything that `open` acquired. Running calls may be aborted."""
