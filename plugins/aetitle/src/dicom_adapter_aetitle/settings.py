"""The settings of the AE Title Job Processor: the table [ae-titles.<AE title>.settings]."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

import attrs

from dicom_adapter import JobPriority, PipelineReference, at_least, setting
from dicom_adapter_aetitle.attribute import BUILT_IN, Attribute, find_attribute

DEFAULT_TIMEOUT_SECONDS = 5.0
DEFAULT_INTERRUPTED_WAIT_SECONDS = 600.0
LONGEST_SECONDS = 365 * 24 * 3600  # a year: a longer time is a mistake; TOML also accepts `inf` and `nan`


class InterruptedRule(str, Enum):
    """Treatment of a group if there is evidence that instances are missing."""

    WAIT = "wait"  # the group waits `interrupted-wait` for the sender to return
    SUBMIT = "submit"  # the group does not wait
    HOLD = "hold"  # the group waits for the sender to return, or for an operator


# The docstring of a validator is shown as the rule in the reference of the settings.
def _within_a_year(_instance: Any, _attribute: attrs.Attribute[Any], value: float | None) -> None:
    """at most a year"""

    if value is not None and not value <= LONGEST_SECONDS:  # this form of the condition also refuses NaN
        raise ValueError(f"must be at most {LONGEST_SECONDS} seconds (a year)")


def _positive(_instance: Any, _attribute: attrs.Attribute[Any], value: float | None) -> None:
    """more than 0 seconds"""

    if value is not None and not value > 0:
        raise ValueError("must be more than 0 seconds")


def _named_pipelines(_instance: Any, _attribute: attrs.Attribute[Any], value: Mapping[str, PipelineReference]) -> None:
    """at least one; name and id must not be empty"""

    if not value:
        raise ValueError('must be given at least once, such as pipeline-lung = "<the pipeline\'s id>"')
    problems = [problem for name, one in value.items() for problem in _pipeline_problems(name, one.id)]
    if problems:
        raise ValueError("; ".join(problems))


def _pipeline_problems(name: str, pipeline_id: str) -> list[str]:
    problems = []
    if not name.strip():
        problems.append("must have a name: pipeline-<name>")
    if not pipeline_id.strip():
        problems.append(f"must have an id: pipeline-{name} is empty")
    return problems


def _grouping(_instance: Any, _attribute: attrs.Attribute[Any], value: str | None) -> None:
    if value is not None and value not in BUILT_IN:
        find_attribute(value)


@attrs.frozen(kw_only=True)
class AeTitleSettings:
    """Settings that decide how long a group waits and which jobs it becomes."""

    priority: JobPriority = setting(
        default=JobPriority.NORMAL, help="Urgency of the jobs. Jobs of higher priority go first."
    )
    timeout: float | None = setting(
        default=None,
        validator=[at_least(5, "seconds"), _within_a_year],
        help="Seconds without a new instance after which a group becomes jobs; if omitted, 5.",
    )
    pipelines: Mapping[str, PipelineReference] = setting(
        prefix="pipeline-",
        validator=_named_pipelines,
        help="A pipeline's id, or a table as below. Each pipeline gets one job for every group.",
    )
    group_by: str | None = setting(
        default=None,
        validator=_grouping,
        help=(
            '`study`, `patient`, `series`, a DICOM keyword or a tag such as `"(0008,0050)"`. If omitted: `patient` '
            "if `timeout` is set, else `study`."
        ),
    )
    max_wait: float | None = setting(
        default=None,
        validator=[_positive, _within_a_year],
        help=(
            "Seconds from a group's first instance until the group becomes jobs even if it still grows. Must not be "
            "less than `timeout`."
        ),
    )

    interrupted: InterruptedRule = setting(
        default=InterruptedRule.WAIT,
        help=(
            "What happens to a group if a C-STORE failed or a data set was cut off: `wait` for the sender to return, "
            "for `interrupted-wait`; `submit` as usual; or `hold` the group until the sender returns or an operator "
            "runs `dicom-adapter ae-titles end-wait`. Jobs of such a group have the metadata `Interrupted`."
        ),
    )
    interrupted_wait: float = setting(
        default=DEFAULT_INTERRUPTED_WAIT_SECONDS,
        validator=[_positive, _within_a_year],
        help="Seconds after the interruption during which a group waits for the sender. `max-wait` does not limit it.",
    )

    def __attrs_post_init__(self) -> None:
        if self.max_wait is not None and self.max_wait < self.quiet_seconds:
            raise ValueError(
                f"max-wait = {self.max_wait:.10g} must not be below timeout "
                f"({self.quiet_seconds:.10g} seconds{' when left out' if self.timeout is None else ''})"
            )

    @property
    def quiet_seconds(self) -> float:
        """Seconds without a new instance after which a group becomes jobs."""
        return DEFAULT_TIMEOUT_SECONDS if self.timeout is None else self.timeout

    @property
    def effective_group_by(self) -> str:
        """The grouping in force: "study", "patient", "series" or a DICOM keyword.

        Sites set a timeout to wait for several studies of a patient. Without a timeout, each study is a group.
        """
        if self.attribute is not None:
            return self.attribute.keyword
        return self.group_by or ("study" if self.timeout is None else "patient")

    @property
    def attribute(self) -> Attribute | None:
        """The attribute that `group-by` names by keyword or tag; None for study, patient and series."""
        return None if self.group_by is None or self.group_by in BUILT_IN else find_attribute(self.group_by)
