"""An observer: is told what happens. This one writes a line for each job that reached the platform, or did not."""

from __future__ import annotations

import json
import os
from pathlib import Path

from attrs import frozen
from dicom_adapter import Job, JobState, hookimpl

VARIABLE = "{{ cookiecutter.__module | upper }}_FILE"
TOLD = (JobState.SUBMITTED, JobState.FAULTED, JobState.CANCELLED)


@frozen(kw_only=True)
class {{ cookiecutter.__class }}Settings:
    """Observers have no table in the configuration: what they need comes from the environment."""

    file: Path | None  # where lines are written; None: nowhere

    @classmethod
    def from_environment(cls) -> {{ cookiecutter.__class }}Settings:
        given = os.environ.get(VARIABLE)
        return cls(file=Path(given) if given else None)


@hookimpl
def dicom_adapter_job_changed(job: Job) -> None:
    """Called after each change of a job was committed. It may be slow; what it raises is logged."""
    settings = {{ cookiecutter.__class }}Settings.from_environment()
    if settings.file is None or job.state not in TOLD:
        return
    line = {"job": job.job_id, "aeTitle": job.ae_title, "state": job.state.value, "error": job.last_error}
    with settings.file.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
