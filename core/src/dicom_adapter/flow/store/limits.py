"""Step 2 (`store`) of the flow: refuse a C-STORE if there is no free space, or if its AE title is full."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from dicom_adapter.api.errors import LedgerError
from dicom_adapter.config.model import StorageConfig
from dicom_adapter.flow.acceptance import LocalRefusal, Space, instance_refusal, lack_of_space, measure_space
from dicom_adapter.ledger import lanes
from dicom_adapter.runtime.resources import Resources

FREE_SPACE_SECONDS = 0.05  # validity of a check of the disks
PLENTY_BYTES = 2**30  # more than is written to a disk in FREE_SPACE_SECONDS, by all programs together
FULL_AE_TITLES_SECONDS = 1.0  # time between two queries for full AE titles


class StoreLimits:
    """Checks the limits, and caches the results for a short time. Not thread-safe: used by the network thread only."""

    def __init__(self, resources: Resources, backlog: Callable[[], str] = lambda: "") -> None:
        """`backlog` returns why nothing is accepted until the host has entered rows, or ""."""
        self._backlog = backlog
        self._storage = resources.storage
        self._ledger = resources.ledger
        self._problem = resources.problem
        now = time.monotonic()
        self._lack: LocalRefusal | None = None  # why no instance can be stored at any AE title
        self._lack_until = now
        self._is_plenty = False  # True: a check cannot find a lack of space before `_lack_until`
        self._full: Mapping[str, str] = {}
        self._query_full_at = now

    def refusal_before(self, ae_title: str, storage: StorageConfig) -> str:
        """Return why a data set for this AE title must be refused before it arrives; "" if it is accepted.

        A refusal never results from an outdated check of the disks.
        """
        if self._lack or time.monotonic() >= self._lack_until:
            self._check_free_space(storage)
        return self._refusal(ae_title)

    def refusal_after(self, ae_title: str, storage: StorageConfig) -> str:
        """Return why a data set that is written completely must be refused; "" if it is accepted.

        The disks are checked for each instance, unless there is plenty of space: two system calls take some time.
        """
        if not self._is_plenty or time.monotonic() >= self._lack_until:
            self._check_free_space(storage)
        return self._refusal(ae_title)

    def _refusal(self, ae_title: str) -> str:
        refusal = instance_refusal(ae_title, self._full_ae_titles(), self._lack)
        return "" if refusal is None else refusal.reason

    def _check_free_space(self, storage: StorageConfig) -> None:
        backlog = self._backlog()
        space = Space(problem=backlog) if backlog else measure_space(self._storage, self._ledger, self._problem)
        self._lack = lack_of_space(space, storage)
        self._is_plenty = lack_of_space(space.after(PLENTY_BYTES), storage) is None
        self._lack_until = time.monotonic() + FREE_SPACE_SECONDS

    def _full_ae_titles(self) -> Mapping[str, str]:
        """Return the AE titles that are full, with the reasons."""
        now = time.monotonic()
        if now >= self._query_full_at:
            self._query_full_at = now + FULL_AE_TITLES_SECONDS
            try:
                with self._ledger.read() as transaction:
                    _stopped, self._full = lanes.stopped_and_full(transaction)
            except LedgerError:
                pass  # the commit of the instance will fail as well, and its C-STORE is refused then
        return self._full
