"""The `folder` submitter: each job becomes a folder, for programs that watch a folder, and for file shares.

A watcher never sees a part of a job: the files are written in the hidden folder `.incoming` of the same file system.
`start` writes the manifest as the last file, and then renames the whole folder to its name.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from dicom_adapter import (
    AttachmentUpload,
    Job,
    Permanent,
    PlatformJob,
    PlatformStatus,
    Submitter,
    SubmitterContext,
    Upload,
)
from dicom_adapter_delivery.folder_drop import DELIVERED, DropState, FolderDrop, folder_name
from dicom_adapter_delivery.folder_files import PRIVATE_FOLDER, sync_folder, writing
from dicom_adapter_delivery.folder_settings import FolderSettings

KEEP_MARKS_S = 30 * 24 * 3600  # far longer than the time from a crash to the repetition of the step
CHECK_TEXT = b"written by dicom-adapter check --connect; it can be deleted\n"


class FolderSubmitter(Submitter[FolderSettings]):
    """Deliver jobs as folders."""

    name = "folder"

    def __init__(self, settings: FolderSettings, context: SubmitterContext) -> None:
        super().__init__(settings, context)
        self.takes_attachments = settings.attachments

    def open(self) -> None:
        """Create the submitter's own folder, and delete marks that are not needed any more."""
        marks = self.context.data_folder / DELIVERED
        if not marks.is_dir():
            marks.mkdir(mode=PRIVATE_FOLDER, parents=True)
            for created in (marks, marks.parent):
                sync_folder(created.parent)
        for mark in marks.iterdir():
            if time.time() - mark.stat().st_mtime > KEEP_MARKS_S:
                mark.unlink(missing_ok=True)

    def check_connection(self) -> str:
        path = self.settings.path
        if not path.is_dir():
            raise Permanent(f"{path} must be a folder; create it, or check that its file system is mounted")
        with writing("write a test file", path):
            _write_and_delete(path / f".dicom-adapter-check-{uuid4().hex}")
            free = shutil.disk_usage(path).free
        return f"{path} can be written; {free / 1e9:.1f} GB are free"

    def create_job(self, job: Job) -> PlatformJob:
        self._drop(job, "create").create()
        return PlatformJob(job_id=job.platform_job_id or folder_name(job, self.settings.folder_name))

    def add_metadata(self, job: Job, metadata: Mapping[str, str]) -> None:
        self._drop(job, "metadata").describe(metadata)

    def upload(self, job: Job, upload: Upload) -> None:
        self._drop(job, f"upload of instance {upload.instance.instance_id}").add(upload)

    def attach(self, job: Job, attachment: AttachmentUpload) -> None:
        self._drop(job, f"upload of attachment {attachment.position + 1}").attach(attachment)

    def start(self, job: Job) -> None:
        self._drop(job, "start").complete()

    def status(self, job: Job) -> PlatformStatus:
        drop = self._drop(job, "status")
        return PlatformStatus(state=drop.state.value, finished=drop.state is not DropState.INCOMPLETE)

    def cancel(self, job: Job) -> None:
        self._drop(job, "cancel").cancel()

    def _drop(self, job: Job, step: str) -> FolderDrop:
        return FolderDrop.of(job, step, self.settings, self.context.data_folder)


def _write_and_delete(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, CHECK_TEXT)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
        path.unlink()
