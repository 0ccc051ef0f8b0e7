"""The list of the jobs of an adapter. When an assertion about the list fails, pytest also describes the adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dicom_adapter.api.values import Job


class JobList(list["Job"]):
    """Jobs in the order of their submission."""

    def __init__(self, jobs: Iterable[Job], describe_adapter: Callable[[], str]) -> None:
        super().__init__(jobs)
        self.describe_adapter = describe_adapter
