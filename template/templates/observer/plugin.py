"""An observer: it is notified of events. This one writes a line for each job that has ended."""

from __future__ import annotations

import json
import os
from pathlib import Path

from attrs import frozen
from dicom_adapter import Job, JobState, hookimpl

VARIABLE = "{{ cookiecutter.__module | upper }}_FILE"
# A job ends as SUBMITTED if its submitter does not follow jobs on the platform, otherwise as SUCCEEDED or FAILED.
# An operator may retry a FAULTED or FAILED job.
REPORTED = (JobState.SUBMITTED, JobState.SUCCEEDED, JobState.FAULTED, JobState.FAILED, JobState.CANCELLED)


@frozen(kw_only=True)
class {{ cookiecutter.__class }}Settings:
    """Settings from environment variables, because observers have no table in the configuration."""

    file: Path | None  # file to append lines to; None: write nothing

    @classmethod
    def from_environment(cls) -> {{ cookiecutter.__class }}Settings:
        path = os.environ.get(VARIABLE)
        return cls(file=Path(path) if path else None)


@hookimpl
def dicom_adapter_job_changed(job: Job) -> None:
    """Write a line. The adapter calls this hook in a separate thread, after the change is committed; it logs errors."""
    settings = {{ cookiecutter.__class }}Settings.from_environment()
    if settings.file is None or job.state not in REPORTED:
        return
    line = {"job": job.job_id, "aeTitle": job.ae_title, "state": job.state.value, "error": job.last_error}
    with settings.file.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
