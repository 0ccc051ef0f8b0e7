"""A plugin with a submitter whose behaviour the test defines."""

from __future__ import annotations

from collections.abc import Mapping

from dicom_adapter import Job, NoSettings, PlatformJob, PlatformStatus, Submitter, Upload, hookimpl


class ScriptedPlatform:
    """A plugin with the submitter `scripted`, which passes each call to this object.

    Tests override methods in a subclass. The object survives restarts of a host.
    """

    def __init__(self) -> None:
        self.submitter = _submitter(self)

    @hookimpl
    def dicom_adapter_submitters(self) -> list[type[Submitter[NoSettings]]]:
        return [self.submitter]

    def open(self) -> None:
        """Handle `open` of the submitter."""

    def close(self) -> None:
        """Handle `close` of the submitter."""

    def handle(self, call: str, job: Job, position: int | None = None) -> None:
        """Handle "create", "metadata", "upload", "start", "status" or "cancel". An error makes the call fail."""

    def create(self, job: Job) -> PlatformJob:
        """Return the result of "create"."""
        return PlatformJob(job_id=f"job of {job.pipeline_id}", payload_id="payload")

    def add_metadata(self, job: Job, metadata: Mapping[str, str]) -> None:
        """Receive the metadata of a job."""

    def status(self, job: Job) -> PlatformStatus:
        """Return the result of "status"."""
        return PlatformStatus(state="gone", finished=True)


def _submitter(platform: ScriptedPlatform) -> type[Submitter[NoSettings]]:
    class ScriptedSubmitter(Submitter[NoSettings]):
        name = "scripted"

        def open(self) -> None:
            platform.open()

        def create_job(self, job: Job) -> PlatformJob:
            platform.handle("create", job)
            return platform.create(job)

        def add_metadata(self, job: Job, metadata: Mapping[str, str]) -> None:
            platform.handle("metadata", job)
            platform.add_metadata(job, metadata)

        def upload(self, job: Job, upload: Upload) -> None:
            platform.handle("upload", job, upload.position)
            with upload.open() as file:
                assert upload.size_bytes == len(file.read())

        def start(self, job: Job) -> None:
            platform.handle("start", job)

        def status(self, job: Job) -> PlatformStatus:
            platform.handle("status", job)
            return platform.status(job)

        def cancel(self, job: Job) -> None:
            platform.handle("cancel", job)

        def close(self) -> None:
            platform.close()

    return ScriptedSubmitter
