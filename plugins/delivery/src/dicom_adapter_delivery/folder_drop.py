"""The folder of one job: invisible until it is complete, then it appears in one rename.

    <path>/.incoming/<run id>/000000.dcm    an instance of a job that is not complete
    <path>/<name>/000000.dcm                the same instance after the start of the job
    <path>/<name>/report.json               an attachment, named by the core
    <path>/<name>/manifest.json             the list of the files
    <data folder>/<run id>/metadata.json    metadata of a job that is not complete
    <data folder>/<run id>/files.jsonl      one line for each complete file
    <data folder>/delivered/<run id>        the rename has begun: a consumer may have moved the folder away since then

A file is synced before its line is written to `files.jsonl`, and the line is synced before the ledger records the
upload: an upload that the ledger records is durable.
No part of a path comes from a DICOM attribute.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Mapping
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import uuid4

from attrs import frozen

from dicom_adapter import AttachmentUpload, Job, Permanent, Retriable, Upload
from dicom_adapter_delivery.folder_files import (
    PART,
    PRIVATE_FILE,
    append_line,
    copy_durably,
    make_folder,
    publish,
    read_lines,
    set_permissions,
    sync_folder,
    write_json,
    writing,
)
from dicom_adapter_delivery.folder_settings import FolderName, FolderSettings

INCOMING, DELIVERED = ".incoming", "delivered"
MANIFEST, METADATA, FILES = "manifest.json", "metadata.json", "files.jsonl"
OUTPUT_NAME = "outputName"  # key of an attachment in the manifest: its name, as the pipeline chose it
INSTANCE_SUFFIX = ".dcm"
MANIFEST_VERSION = 1
RUN_ID = re.compile(r"[0-9a-f]{32}(-[0-9]{1,7})?")  # a job's id; from the second run on also the number of the run
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
LONGEST_JOB_NAME = 100  # characters of a job's name in the name of its folder


class DropState(str, Enum):
    """State of a job's folder."""

    MISSING = "missing"  # not created, or cancelled
    INCOMPLETE = "incomplete"
    COMPLETE = "complete"
    COLLECTED = "collected"  # it was complete, and a consumer has moved it away


def folder_name(job: Job, naming: FolderName) -> str:
    """Return the name of the job's folder: unique, without characters that mean anything in a path."""
    if naming is FolderName.ID:
        return job.run_id
    plain = NOT_IN_NAMES.sub("-", job.name).strip(".-")[:LONGEST_JOB_NAME]
    return f"{plain or 'job'}-{job.run_id}"


@frozen(kw_only=True)
class FolderDrop:
    """The folder of one run of a job, before and after it is complete."""

    job: Job
    subject: str  # beginning of error messages
    settings: FolderSettings
    incoming: Path  # the folder of incomplete jobs
    work: Path  # the job's folder while it is incomplete
    final: Path  # the job's folder after its start
    data: Path  # the adapter's own files about the job while it is incomplete
    mark: Path  # exists if `final` existed, or is about to exist

    @classmethod
    def of(cls, job: Job, step: str, settings: FolderSettings, data_folder: Path) -> FolderDrop:
        """Return the folder of a job. Raises Retriable if the target folder is missing, Permanent for invalid ids."""
        subject = f"job {job.job_id}: {step}"
        name = job.platform_job_id or folder_name(job, settings.folder_name)
        if not RUN_ID.fullmatch(job.run_id) or NOT_IN_NAMES.search(name) or name.startswith("."):
            raise Permanent(f"{subject}: the job's id cannot be the name of a folder")
        with writing(subject, settings.path):
            if not settings.path.is_dir():
                raise NotADirectoryError(errno.ENOENT, "it is not a folder")
        incoming = settings.path / INCOMING
        return cls(
            job=job,
            subject=subject,
            settings=settings,
            incoming=incoming,
            work=incoming / job.run_id,
            final=settings.path / name,
            data=data_folder / job.run_id,
            mark=data_folder / DELIVERED / job.run_id,
        )

    @property
    def state(self) -> DropState:
        """The state, from the folders that exist. Raises Retriable if the file system does not answer."""
        with writing(self.subject, self.settings.path):
            if self.work.is_dir():
                return DropState.INCOMPLETE
            if not self.mark.exists():
                return DropState.MISSING
            return DropState.COMPLETE if self.final.is_dir() else DropState.COLLECTED

    def create(self) -> None:
        """Create the job's folder among the incomplete ones."""
        with writing(self.subject, self.data):
            make_folder(self.data)
            (self.data / FILES).touch(mode=PRIVATE_FILE)
            sync_folder(self.data)  # `append_line` syncs only the file
        with writing(self.subject, self.settings.path):
            make_folder(self.incoming)
            make_folder(self.work)

    def describe(self, metadata: Mapping[str, str]) -> None:
        """Store the metadata for the manifest."""
        self._require_incomplete()
        with writing(self.subject, self.data):
            write_json(self.data / METADATA, dict(metadata))

    def add(self, upload: Upload) -> None:
        """Write one instance, or replace it."""
        instance = upload.instance
        identity = {
            "sopInstanceUid": instance.sop_instance_uid,
            "sopClassUid": instance.sop_class_uid,
            "studyInstanceUid": instance.study_instance_uid,
            "seriesInstanceUid": instance.series_instance_uid,
            "transferSyntaxUid": instance.transfer_syntax_uid,
        }
        self._write(f"{upload.position:06}{INSTANCE_SUFFIX}", upload, identity)

    def attach(self, attachment: AttachmentUpload) -> None:
        """Write one attachment, or replace it."""
        name = attachment.file_name
        if (
            not name
            or NOT_IN_NAMES.search(name)
            or name.startswith(".")
            or name == MANIFEST
            or name.endswith(INSTANCE_SUFFIX)
        ):
            raise Permanent(f"{self.subject}: its file name is not allowed here")
        self._write(name, attachment, {OUTPUT_NAME: attachment.name})

    def _write(self, name: str, upload: Upload | AttachmentUpload, identity: Mapping[str, str]) -> None:
        """Write a file durably, then record it."""
        self._require_incomplete()
        temporary = self.work / f".{uuid4().hex}{PART}"
        try:
            with upload.open() as source, writing(self.subject, self.settings.path):
                file = copy_durably(self.subject, source, temporary, upload.size_bytes, self.settings.file_mode)
                publish(temporary, self.work / name)
        finally:
            with writing(self.subject, self.settings.path):
                temporary.unlink(missing_ok=True)
        entry = {"name": name, **identity, "sizeBytes": file.size_bytes, "sha256": file.sha256}
        with writing(self.subject, self.data):
            append_line(self.data / FILES, entry)

    def complete(self) -> None:
        """Write the manifest, and give the job's folder its name. A repetition does nothing."""
        if self.state in (DropState.COMPLETE, DropState.COLLECTED):
            return self._forget()
        self._require_incomplete()
        files = self._checked_files()
        with writing(self.subject, self.settings.path):
            self._remove_parts()
            write_json(self.work / MANIFEST, self._manifest(files), self.settings.file_mode)
            set_permissions(self.work, self.settings.folder_mode)
        with writing(self.subject, self.mark.parent):
            self.mark.touch(mode=PRIVATE_FILE)
            sync_folder(self.mark.parent)
        with writing(self.subject, self.settings.path):
            publish(self.work, self.final)
        return self._forget()

    def cancel(self) -> None:
        """Delete the folder of an incomplete job. A complete one stays: a consumer may read it."""
        if self.state is DropState.INCOMPLETE:
            with writing(self.subject, self.settings.path):
                self.mark.unlink(missing_ok=True)
                shutil.rmtree(self.work)
        self._forget()  # in every state: a crash may have left the files

    def _require_incomplete(self) -> None:
        state = self.state
        if state is DropState.INCOMPLETE:
            return
        if state is DropState.MISSING and not self.incoming.is_dir():
            raise Retriable(f"{self.subject}: {self.incoming} is missing; check that its file system is mounted")
        raise Permanent(
            f"{self.subject}: the folder of the job is {state.value}; "
            "if it was deleted, cancel the job and submit its instances again"
        )

    def _checked_files(self) -> list[Mapping[str, Any]]:
        """Return the entries of the manifest. Raises Permanent if they differ from the files."""
        with writing(self.subject, self.data):
            recorded = {entry["name"]: entry for entry in read_lines(self.data / FILES)}
        with writing(self.subject, self.settings.path):
            paths = [path for path in self.work.iterdir() if path.name != MANIFEST and not path.name.startswith(".")]
            found = {path.name: path.stat().st_size for path in paths}
        wrong = sorted(
            name for name in recorded.keys() | found if recorded.get(name, {}).get("sizeBytes") != found.get(name)
        )
        if wrong:
            # The name of an attachment may have patient data.
            first = next((name for name in wrong if name.endswith(INSTANCE_SUFFIX)), "an attachment")
            raise Permanent(
                f"{self.subject}: files in {self.work} were changed ({len(wrong)}, such as {first}); "
                "cancel the job and submit its instances again"
            )
        return [recorded[name] for name in sorted(recorded)]

    def _manifest(self, files: list[Mapping[str, Any]]) -> Mapping[str, Any]:
        job = self.job
        return {
            "version": MANIFEST_VERSION,
            "jobId": job.job_id,
            "run": job.run,
            "name": job.name,
            "aeTitle": job.ae_title,
            "pipelineId": job.pipeline_id,
            "priority": job.priority.value,
            "createdAt": job.created_at.isoformat(),
            "completedAt": datetime.now(timezone.utc).isoformat(),
            "metadata": self._metadata(),
            "files": [entry for entry in files if OUTPUT_NAME not in entry],
            "attachments": [entry for entry in files if OUTPUT_NAME in entry],
        }

    def _metadata(self) -> Mapping[str, Any]:
        try:
            metadata: Mapping[str, Any] = json.loads((self.data / METADATA).read_bytes())
        except FileNotFoundError:
            return {}
        return metadata

    def _remove_parts(self) -> None:
        """Delete temporary files of interrupted uploads."""
        for path in self.work.glob(f".*{PART}"):
            path.unlink(missing_ok=True)

    def _forget(self) -> None:
        """Delete the adapter's own files about the job."""
        with writing(self.subject, self.data):
            if self.data.exists():
                shutil.rmtree(self.data)
