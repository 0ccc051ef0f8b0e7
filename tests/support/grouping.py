"""A plugin with small job processors for the tests of the core, which use no plugin package.

`core/tests/conftest.py` installs this module as the plugin `by-study`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from attrs import define, evolve, field, frozen

from dicom_adapter import (
    InstanceStorageInfo,
    JobPriority,
    JobProcessorBase,
    PipelineReference,
    ProcessorContext,
    Timer,
    Unprocessable,
    Waiting,
    hookimpl,
    setting,
)


@frozen(kw_only=True)
class StudySettings:
    timeout: float = setting(default=5.0, help="Seconds without a new instance after which a study becomes jobs.")
    priority: JobPriority = setting(default=JobPriority.NORMAL, help="Priority of the jobs.")
    pipelines: Mapping[str, PipelineReference] = setting(
        prefix="pipeline-", help="Pipeline; it gets one job for each study."
    )
    required: str = setting(default="", help="DICOM keyword; an instance without a value is quarantined.")


@define(eq=False)
class Study:
    """The pending instances of one study, by SOP Instance UID."""

    due: datetime
    timer: Timer
    instances: dict[str, InstanceStorageInfo] = field(factory=dict)


class StudyProcessor(JobProcessorBase[StudySettings]):
    """Processor that groups by Study Instance UID. A study becomes jobs `timeout` seconds after its last instance."""

    name = "by-study"

    def __init__(self, settings: StudySettings, context: ProcessorContext) -> None:
        super().__init__(settings, context)
        self._studies: dict[str, Study] = {}  # by Study Instance UID

    @classmethod
    def describe(cls, settings: StudySettings) -> str:
        return f"groups by study, ready {settings.timeout:.10g} s after the last instance"

    def handle_instance(self, instance: InstanceStorageInfo) -> None:
        if self.settings.required and not self.read_header(instance).get(self.settings.required):
            raise Unprocessable(f"it has no {self.settings.required}")
        for study in self._studies.values():
            study.instances.pop(instance.sop_instance_uid, None)  # a duplicate replaces the earlier instance
        uid = instance.study_instance_uid
        before = self._studies.get(uid)
        if before is not None:
            before.timer.cancel()
        timer = self.call_later(self.settings.timeout, partial(self._submit, uid))
        due = self.now() + timedelta(seconds=self.settings.timeout)
        self._studies[uid] = Study(due, timer, {} if before is None else before.instances)
        self._studies[uid].instances[instance.sop_instance_uid] = instance

    def waiting(self) -> Iterable[Waiting]:
        return [
            Waiting(label=f"study {uid}", instance_count=len(study.instances), until=study.due)
            for uid, study in self._studies.items()
        ]

    def _submit(self, uid: str) -> None:
        instances = list(self._studies.pop(uid).instances.values())
        if not instances:
            return  # duplicates of another study have replaced all instances
        for name, pipeline in self.settings.pipelines.items():
            job_name = f"{self.ae_title}-{name}-{self.now():%Y%m%d%H%M%S}"
            self.submit_pipeline_job(
                job_name, pipeline.id, self.settings.priority, instances, submitter=pipeline.submitter
            )
        self.remove_instances(instances)


class HiddenStudyProcessor(StudyProcessor):
    """Processor whose labels are random digits instead of studies, as with keys that contain patient data."""

    name = "by-hidden-study"

    def __init__(self, settings: StudySettings, context: ProcessorContext) -> None:
        super().__init__(settings, context)
        self._labels: dict[str, str] = {}  # by the label with the study

    def waiting(self) -> Iterable[Waiting]:
        return [
            evolve(group, label=self._labels.setdefault(group.label, f"group #{secrets.token_hex(4)}"))
            for group in super().waiting()
        ]


@hookimpl
def dicom_adapter_processors() -> list[type[JobProcessorBase[Any]]]:
    """Return the processors of this plugin."""
    return [StudyProcessor, HiddenStudyProcessor]
