"""Jobs and uploads for tests of a submitter, and the steps of a job as the core calls them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from io import BytesIO, RawIOBase
from typing import Any, BinaryIO, cast

from attrs import evolve, field, frozen

from dicom_adapter.api.submitter import Submitter, Upload
from dicom_adapter.api.values import InstanceStorageInfo, Job, JobPriority

PATIENT = "NOBODY-4711"  # must not appear in any error


@frozen(kw_only=True)
class PlatformRecord:
    """The state of one job on a platform, as far as it is known."""

    platform_job_id: str
    metadata: Mapping[str, str] = field(repr=False)  # may contain additional entries of the submitter
    files: Sequence[bytes] = field(repr=False)  # in the job's order
    started: bool  # now or earlier
    cancelled: bool


def make_job(number: int, pipeline_id: str, **changes: Any) -> Job:
    """Return a job that no platform knows; the same number returns the same job."""
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
    """Return an upload of `data`, or of the file that `open` returns."""
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
        patient_id=PATIENT,
        issuer_of_patient_id=PATIENT,
        received_at=datetime.now(timezone.utc),
        storage_key=f"key-{position}",
        size_bytes=values["size_bytes"],
        checksum=0,
    )
    return Upload(instance=instance, position=position, **values)


class Zeros(RawIOBase):
    """A file of zeros that takes no memory."""

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


class Breaking(RawIOBase):
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


def breaking(data: bytes, failure: Exception) -> Callable[[], BinaryIO]:
    """Return a function that opens files which raise `failure` after `data`."""
    return lambda: cast(BinaryIO, Breaking(data, failure))


class Walk:
    """The steps of one job, called as the core does; `repeated` marks a step that is repeated."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def create(self, submitter: Submitter[Any], *, repeated: bool = False) -> Job:
        """Create the job; return it with the ids of the platform."""
        made = submitter.create_job(self._told(repeated))
        self.job = evolve(self.job, platform_job_id=made.job_id, platform_payload_id=made.payload_id)
        return self.job

    def describe(self, submitter: Submitter[Any], *, repeated: bool = False) -> None:
        submitter.add_metadata(self._told(repeated), self.job.metadata)

    def upload(self, submitter: Submitter[Any], *uploads: Upload, repeated: bool = False) -> None:
        for upload in uploads:
            submitter.upload(self._told(repeated), upload)

    def start(self, submitter: Submitter[Any], *, repeated: bool = False) -> None:
        submitter.start(self._told(repeated))

    def all(self, submitter: Submitter[Any], uploads: Iterable[Upload]) -> None:
        """Run all steps."""
        self.create(submitter)
        self.describe(submitter)
        self.upload(submitter, *uploads)
        self.start(submitter)

    def _told(self, repeated: bool) -> Job:
        return evolve(self.job, repeated=repeated)
