"""Jobs and uploads for the submitter suite, and the steps of a job as the adapter calls them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from io import BytesIO, RawIOBase
from typing import Any, BinaryIO, cast

from attrs import evolve, field, frozen

from dicom_adapter.api.submitter import AttachmentUpload, Submitter, Upload
from dicom_adapter.api.values import InstanceStorageInfo, Job, JobPriority

PATIENT_ID = "NOBODY-4711"  # patient data that no error message may contain


@frozen(kw_only=True)
class PlatformRecord:
    """The state of one job on a platform."""

    platform_job_id: str
    metadata: Mapping[str, str] = field(repr=False)  # may contain additional entries of the submitter
    files: Sequence[bytes] = field(repr=False)  # uploaded files in the order of the job
    started: bool  # the job was started, even if it was cancelled later
    cancelled: bool
    attachments: Mapping[str, bytes] = field(factory=dict, repr=False)  # uploaded attachments by the name of the file


def make_attachment(position: int, name: str, data: bytes) -> AttachmentUpload:
    """Return an upload of an attachment with this content. Its `name`, chosen by the pipeline, has patient data."""
    return AttachmentUpload(
        name=f"{PATIENT_ID}/{name}",
        file_name=name,
        position=position,
        size_bytes=len(data),
        open=lambda: BytesIO(data),
    )


def make_job(number: int, pipeline_id: str, **changes: Any) -> Job:
    """Return a job with an id that depends on `number` only. `changes` replace its other values."""
    now = datetime.now(timezone.utc)
    values: dict[str, Any] = {
        "job_id": f"{number:032x}",
        "name": f"LUNG-suite-{now:%Y%m%d%H%M%S}",
        "ae_title": "LUNG",
        "pipeline_id": pipeline_id,
        "priority": JobPriority.NORMAL,
        "submitter": "suite",
        "instance_count": 2,
        "metadata": {"Source": "LUNG (suite)", "Instances": "2"},
        "created_at": now,
        "changed_at": now,
    }
    return Job(**{**values, **changes})


def make_upload(position: int, data: bytes = b"", **changes: Any) -> Upload:
    """Return an upload of `data`. `changes` replace its values, for example `open`."""
    values: dict[str, Any] = {"size_bytes": len(data), "open": lambda: BytesIO(data), **changes}
    instance = InstanceStorageInfo(
        instance_id=position + 1,
        ae_title="LUNG",
        calling_ae_title="CT1",
        peer_address="192.0.2.1",
        association_id="a1",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        sop_instance_uid=values.pop("sop_instance_uid", f"1.2.3.{position}"),
        study_instance_uid="1.2.4",
        series_instance_uid="1.2.5",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        patient_id=PATIENT_ID,
        issuer_of_patient_id=PATIENT_ID,
        received_at=datetime.now(timezone.utc),
        storage_key=f"key-{position}",
        size_bytes=values["size_bytes"],
        checksum=0,
    )
    return Upload(instance=instance, position=position, **values)


class Zeros(RawIOBase):
    """A file of zeros that needs no memory."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # the type that io passes
        count = min(len(buffer), self._left)
        buffer[:count] = bytes(count)
        self._left -= count
        return count


class FailingFile(RawIOBase):
    """A file that returns some bytes and then fails."""

    def __init__(self, data: bytes, failure: Exception) -> None:
        super().__init__()
        self._file = BytesIO(data)
        self._failure = failure

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # the type that io passes
        count = self._file.readinto(buffer)
        if not count:
            raise self._failure
        return count


def open_failing(data: bytes, failure: Exception) -> Callable[[], BinaryIO]:
    """Return a function that opens a file. The file returns `data` and then raises `failure`."""
    return lambda: cast(BinaryIO, FailingFile(data, failure))


class JobSteps:
    """The steps of one job, as the adapter calls them. `repeated` sets `Job.repeated`."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._positions: set[int] = set()  # positions of the uploads that succeeded
        self._attached: set[int] = set()  # positions of the attachments that were uploaded

    def create(self, submitter: Submitter[Any], *, repeated: bool = False) -> Job:
        """Create the job on the platform. Return the job with the platform's ids."""
        created = submitter.create_job(self._with_repeated(repeated))
        self.job = evolve(self.job, platform_job_id=created.job_id, platform_payload_id=created.payload_id)
        return self.job

    def describe(self, submitter: Submitter[Any], *, repeated: bool = False) -> None:
        submitter.add_metadata(self._with_repeated(repeated), self.job.metadata)

    def upload(self, submitter: Submitter[Any], *uploads: Upload, repeated: bool = False) -> None:
        for upload in uploads:
            submitter.upload(self._with_repeated(repeated), upload)
            self._positions.add(upload.position)

    def attach(self, submitter: Submitter[Any], *attachments: AttachmentUpload, repeated: bool = False) -> None:
        for attachment in attachments:
            submitter.attach(self._with_repeated(repeated), attachment)
            self._attached.add(attachment.position)

    def start(self, submitter: Submitter[Any], *, repeated: bool = False) -> None:
        """Start the job. The adapter starts a job when all of its instances and attachments are uploaded."""
        self.job = evolve(self.job, instance_count=len(self._positions), attachment_count=len(self._attached))
        submitter.start(self._with_repeated(repeated))

    def all(self, submitter: Submitter[Any], uploads: Iterable[Upload]) -> None:
        """Run all steps."""
        self.create(submitter)
        self.describe(submitter)
        self.upload(submitter, *uploads)
        self.start(submitter)

    def _with_repeated(self, repeated: bool) -> Job:
        return evolve(self.job, repeated=repeated)
