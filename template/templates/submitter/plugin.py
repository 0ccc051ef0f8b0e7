"""A submitter: it submits jobs to a platform. Here, the platform is a program that watches a folder for `ready` files.

When the program has finished a job, it writes the file `finished` to the folder of the job.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen
from dicom_adapter import (
    Job,
    Permanent,
    PlatformJob,
    PlatformStatus,
    Retriable,
    Submitter,
    Upload,
    hookimpl,
    setting,
)


@frozen(kw_only=True)
class {{ cookiecutter.__class }}Settings:
    """The plugin's keys in [submitters.<name>]."""

    folder: Path = setting(help="Folder to which jobs are written.")


@contextmanager
def _retriable_errors() -> Iterator[None]:
    """Convert OSError to `Retriable`, so that the adapter retries the step.

    `Permanent` would fault the job. Any other exception counts as a bug.
    """
    try:
        yield
    except OSError as failure:
        raise Retriable(f"the folder cannot be used: {failure.strerror}") from failure


class {{ cookiecutter.__class }}(Submitter[{{ cookiecutter.__class }}Settings]):
    """Writes each job to a folder named by `job.job_id`, so that every step can be repeated."""

    name = "{{ cookiecutter.__plugin }}"

    def create_job(self, job: Job) -> PlatformJob:
        with _retriable_errors():
            self._folder(job).mkdir(parents=True, exist_ok=True)
        return PlatformJob(job_id=job.job_id)

    def add_metadata(self, job: Job, metadata: Mapping[str, str]) -> None:
        with _retriable_errors():
            self._write_file(job, "metadata.json", json.dumps(dict(metadata)))

    def upload(self, job: Job, upload: Upload) -> None:
        whole = self._folder(job) / f"{upload.position:05}.dcm"  # not the UID: it comes from the network
        part = whole.with_suffix(".part")
        with upload.open() as source, _retriable_errors(), part.open("wb") as target:
            shutil.copyfileobj(source, target)
        with _retriable_errors():
            part.replace(whole)

    def start(self, job: Job) -> None:
        if self._has(job, "cancelled"):
            raise Permanent("the job was cancelled")
        with _retriable_errors():
            self._write_file(job, "ready", job.pipeline_id)

    def status(self, job: Job) -> PlatformStatus:
        for state in ("cancelled", "finished"):
            if self._has(job, state):
                return PlatformStatus(state=state, finished=True)
        return PlatformStatus(state="ready" if self._has(job, "ready") else "pending", finished=False)

    def cancel(self, job: Job) -> None:
        if not self._folder(job).exists():
            return  # it was never created
        with _retriable_errors():
            self._write_file(job, "cancelled", "")

    def _folder(self, job: Job) -> Path:
        return self.settings.folder / job.job_id

    def _has(self, job: Job, name: str) -> bool:
        return (self._folder(job) / name).exists()

    def _write_file(self, job: Job, name: str, text: str) -> None:
        """Write a file atomically."""
        part = self._folder(job) / f"{name}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(self._folder(job) / name)


@hookimpl
def dicom_adapter_submitters() -> Iterable[type[Submitter[Any]]]:
    return [{{ cookiecutter.__class }}]
