"""The check of the index after a start: the index must agree with the ledger and the stored instances.

The rows of instances are compared with the ledger when the instances are delivered again, each in its own turn.
Afterwards, small steps compare the attributes of each header with its newest instance, and update all counts. A header
is the row of all instances of a series that have the same attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from dicom_adapter import InstanceStorageInfo, Unprocessable
from dicom_adapter_cache.header import Attributes
from dicom_adapter_cache.index import Index, as_indexed
from dicom_adapter_cache.rows import DescribedInstance

log = structlog.get_logger("dicom_adapter_cache")

READ_AHEAD = 500  # number of instances that are read from the index together
HEADERS_PER_STEP = 50  # number of headers that one step checks

ReadAttributes = Callable[[InstanceStorageInfo], Attributes]  # raises Unprocessable


class IndexCheck:
    """The check of one index. Not thread-safe: used by the lane thread only."""

    def __init__(self, index: Index, read_attributes: ReadAttributes) -> None:
        self._index = index
        self._read_attributes = read_attributes
        self._ahead: dict[int, InstanceStorageInfo] = {}
        self._last_header = 0

    def agrees(self, delivered: InstanceStorageInfo) -> bool:
        """Return whether the index has the values of a delivered instance. Call this in the order of arrival."""
        instance_id = delivered.instance_id
        if instance_id not in self._ahead:
            self._ahead = {each.instance_id: each for each in self._index.instances_from(instance_id, READ_AHEAD)}
        return self._ahead.pop(instance_id, None) == as_indexed(delivered)

    def step(self) -> bool:
        """Check the next headers, repair wrong ones, and return whether more headers follow."""
        newest = self._index.recount(self._last_header, HEADERS_PER_STEP)
        wrong = [header_id for header_id, (instance, indexed) in newest.items() if self._differs(instance, indexed)]
        if wrong:
            self._read_again(self._index.of_headers(wrong))
        self._last_header = max(newest, default=0)
        return bool(newest)

    def _differs(self, instance: InstanceStorageInfo, indexed: Attributes) -> bool:
        try:
            return self._read_attributes(instance) != indexed
        except Unprocessable:  # `audit` reports a stored object that is missing
            return False

    def _read_again(self, instances: Sequence[InstanceStorageInfo]) -> None:
        """Replace the rows of instances. Instances that cannot be read keep their rows."""
        log.error("cache_index_repaired", ae_title=instances[0].ae_title, instances=len(instances))
        arrivals = []
        for instance in instances:
            try:
                arrivals.append(DescribedInstance(instance, self._read_attributes(instance)))
            except Unprocessable:
                continue
        self._index.add(arrivals, to_replace=[arrival.instance.instance_id for arrival in arrivals])
