"""A job processor: it groups instances and decides when a group becomes jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from attrs import define, field, frozen
from dicom_adapter import (
    InstanceStorageInfo,
    JobPriority,
    JobProcessorBase,
    ProcessorContext,
    Timer,
    Waiting,
    between,
    hookimpl,
    not_empty,
    setting,
)


@frozen(kw_only=True)
class {{ cookiecutter.__class }}Settings:
    """The table [ae-titles.<AE title>.settings]."""

    quiet: float = setting(
        default=10.0,
        validator=between(1, 86_400, "seconds"),
        help="Seconds without a new instance, after which a group becomes jobs.",
    )
    pipelines: Mapping[str, str] = setting(
        prefix="pipeline-", validator=not_empty, help="Id of a pipeline; every group becomes one job for each pipeline."
    )


@define
class Group:
    """The instances of one group, which waits for more of them."""

    due: datetime
    timer: Timer
    instances: dict[str, InstanceStorageInfo] = field(factory=dict)  # by SOP Instance UID: a duplicate replaces it


class {{ cookiecutter.__class }}(JobProcessorBase[{{ cookiecutter.__class }}Settings]):
    """Submit one job for each pipeline when no instance of a group has arrived for `quiet` seconds."""

    name = "{{ cookiecutter.__plugin }}"

    def __init__(self, settings: {{ cookiecutter.__class }}Settings, context: ProcessorContext) -> None:
        super().__init__(settings, context)
        self._groups: dict[str, Group] = {}

    @classmethod
    def describe(cls, settings: {{ cookiecutter.__class }}Settings) -> str:
        return f"groups by study, ready {settings.quiet:g} s after the last instance"

    def key_of(self, instance: InstanceStorageInfo) -> str:
        """Return the key of the instance's group. This is the rule to change."""
        return instance.study_instance_uid

    def handle_instance(self, instance: InstanceStorageInfo) -> None:
        key = self.key_of(instance)
        due = self.now() + timedelta(seconds=self.settings.quiet)
        group = self._groups.get(key)
        if group is not None:
            group.timer.cancel()
        instances = {} if group is None else group.instances
        instances[instance.sop_instance_uid] = instance
        self._groups[key] = Group(due, self.call_at(due, partial(self._finish, key)), instances)

    def waiting(self) -> Iterable[Waiting]:
        return [
            Waiting(label=f"study {key}", instance_count=len(group.instances), until=group.due)
            for key, group in self._groups.items()
        ]

    def _finish(self, key: str) -> None:
        instances = list(self._groups.pop(key).instances.values())
        for pipeline, pipeline_id in self.settings.pipelines.items():
            name = f"{self.ae_title}-{pipeline}-{self.now():%Y%m%d%H%M%S}"
            self.submit_pipeline_job(name, pipeline_id, JobPriority.NORMAL, instances)
        self.remove_instances(instances)


@hookimpl
def dicom_adapter_processors() -> Iterable[type[JobProcessorBase[Any]]]:
    return [{{ cookiecutter.__class }}]
