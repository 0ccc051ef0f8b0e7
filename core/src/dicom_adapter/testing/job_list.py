"""The jobs of an adapter, with a description of the adapter for failed assertions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dicom_adapter.api.values import Job


class JobList(list["Job"]):
    """Jobs in the order of their submission."""

    def __init__(self, jobs: Iterable[Job], account: Callable[[], str]) -> None:
        super().__init__(jobs)
        self.account = account
