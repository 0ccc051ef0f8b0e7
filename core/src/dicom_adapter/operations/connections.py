"""Ask the platforms of the submitters whether they accept requests: `check --connect`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attrs import frozen

from dicom_adapter.api.errors import DicomAdapterError, describe_failure
from dicom_adapter.api.submitter import Submitter
from dicom_adapter.runtime.deadline import call_within

CALL_SECONDS = 30.0  # time limit for one platform


@frozen(kw_only=True)
class ConnectionTrial:
    """The result for one submitter."""

    submitter: str  # name of the [submitters.<name>] table
    answer: str = ""  # answer of the platform; "" if the submitter tries nothing, or if there is a problem
    problem: str = ""  # reason why the platform cannot be used

    @property
    def was_tried(self) -> bool:
        return bool(self.answer or self.problem)


def try_connections(submitters: Mapping[str, Submitter[Any]]) -> Iterator[ConnectionTrial]:
    """Ask one platform after another."""
    for name, submitter in submitters.items():
        try:
            answer = call_within(CALL_SECONDS, submitter.check_connection)
        except DicomAdapterError as failure:  # also TookTooLong; its message is for operators
            yield ConnectionTrial(submitter=name, problem=str(failure))
        except (Exception, SystemExit) as failure:  # noqa: BLE001 - a plugin may raise anything, even SystemExit
            yield ConnectionTrial(submitter=name, problem=describe_failure(failure))
        else:
            yield ConnectionTrial(submitter=name, answer=str(answer or ""))
