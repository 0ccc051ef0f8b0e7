"""Counters and histograms in memory that the processes of a service share.

The supervisor creates the memory, so a counter keeps its value when a receiver or the host is restarted. Each process
writes to a region of its own, without system calls, and the host reads all regions for `/metrics`. No file is involved:
a full disk has no effect, and nothing remains after the service has ended.

A region has the number of its used bytes, then entries. An entry has the length of its key, the number of its values,
the key (JSON: the name of the measure, then the values of its labels), and the values, which are 64-bit numbers. A
counter has one value. A histogram has the count of each bucket, and the sum in nanoseconds. Entries are only added.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence

from attrs import frozen

from dicom_adapter.runtime.measures import Measure

REGION_BYTES = 1 << 20  # of one process; only used pages occupy memory
MOST_SERIES = 200  # of one measure in one region; further combinations of labels are counted together
MOST_KEY_BYTES = 400
OTHER = "other"  # value of all labels of the combinations that are counted together
HOST_REGION = 0  # number of the host's region; a receiver's region has the number of the receiver
NANOSECONDS = 10**9

_WORD = 8
_ENTRY = struct.Struct("II")  # length of the key in bytes, number of values


@frozen
class CountedSeries:
    """The values of a measure for one combination of labels."""

    name: str
    labels: tuple[str, ...]
    values: tuple[int, ...]


class Tally:
    """One counter."""

    def __init__(self, values: memoryview, lock: threading.Lock | None) -> None:
        self._values, self._lock = values, lock

    def add(self, amount: int = 1) -> None:
        """Increase the counter."""
        if self._lock is None:
            self._values[0] += amount
        else:
            with self._lock:
                self._values[0] += amount


class Distribution:
    """One histogram of durations."""

    def __init__(self, values: memoryview, lock: threading.Lock | None, bounds: Sequence[float]) -> None:
        self._values, self._lock, self._bounds = values, lock, bounds

    def observe(self, seconds: float) -> None:
        """Count a duration. A negative duration, after a change of the clock, counts as zero."""
        seconds = max(0.0, seconds)
        bucket = bisect_left(self._bounds, seconds)
        if self._lock is None:
            self._add(bucket, seconds)
        else:
            with self._lock:
                self._add(bucket, seconds)

    def _add(self, bucket: int, seconds: float) -> None:
        self._values[bucket] += 1
        self._values[-1] += int(seconds * NANOSECONDS)


class Counts:
    """The counters and histograms of one process. Thread-safe."""

    def __init__(self, memory: mmap.mmap | None = None, *, has_one_thread: bool = False) -> None:
        """Continue the counts in `memory`. None: count in memory that no other process can read.

        `has_one_thread`: only one thread counts. This takes less time, because no lock is needed.
        """
        self._memory = memoryview(mmap.mmap(-1, REGION_BYTES) if memory is None else memory)
        self._lock = threading.Lock()
        self._lock_of_values = None if has_one_thread else self._lock
        self._values: dict[tuple[str, tuple[str, ...]], memoryview] = {}
        self._series: Counter[str] = Counter()  # number of entries of each measure
        for name, labels, place, count in _entries(self._memory):
            self._remember(name, labels, place, count)

    @classmethod
    def of_process(cls, descriptor: int | None, region: int, *, has_one_thread: bool = False) -> Counts:
        """Return the counts in a region of the memory of `create_shared_counts`; None: as in `__init__`."""
        memory = None if descriptor is None else mmap.mmap(descriptor, REGION_BYTES, offset=region * REGION_BYTES)
        return cls(memory, has_one_thread=has_one_thread)

    def tally(self, measure: Measure, *labels: str) -> Tally:
        """Return the counter with these values of the labels."""
        return Tally(self._find(measure, labels, 1), self._lock_of_values)

    def distribution(self, measure: Measure, *labels: str) -> Distribution:
        """Return the histogram with these values of the labels."""
        values = self._find(measure, labels, len(measure.bounds) + 2)
        return Distribution(values, self._lock_of_values, measure.bounds)

    def series(self) -> list[CountedSeries]:
        """Return all values."""
        return list(_series(self._memory))

    def _find(self, measure: Measure, labels: tuple[str, ...], count: int) -> memoryview:
        """Return the values for these labels. The number of entries is limited, so that they fit into the region."""
        with self._lock:
            key = (measure.name, labels)
            if key not in self._values:
                text = json.dumps([measure.name, *labels]).encode()
                if self._series[measure.name] >= MOST_SERIES or len(text) > MOST_KEY_BYTES:
                    key = (measure.name, (OTHER,) * len(labels))
                    text = json.dumps([measure.name, *key[1]]).encode()
            if key not in self._values:
                self._append(*key, text, count)
            return self._values[key]

    def _append(self, name: str, labels: tuple[str, ...], text: bytes, count: int) -> None:
        text += b" " * (-len(text) % _WORD)
        begin = _used(self._memory)
        place = begin + _ENTRY.size + len(text)
        _ENTRY.pack_into(self._memory, begin, len(text), count)
        self._memory[begin + _ENTRY.size : place] = text
        self._memory[:_WORD] = (place + count * _WORD).to_bytes(_WORD, "little")  # last: now readers see the entry
        self._remember(name, labels, place, count)

    def _remember(self, name: str, labels: tuple[str, ...], place: int, count: int) -> None:
        self._values[name, labels] = self._memory[place : place + count * _WORD].cast("Q")
        self._series[name] += 1


def create_shared_counts(receivers: int) -> int:
    """Create the memory for the host and this number of receivers; return its descriptor."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("dicom-adapter-counts")
    else:
        import tempfile  # imported only on systems other than Linux

        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, (1 + receivers) * REGION_BYTES)
    return descriptor


def read_shared_counts(descriptor: int) -> list[CountedSeries]:
    """Return the values in all regions."""
    found: list[CountedSeries] = []
    for begin in range(0, os.fstat(descriptor).st_size, REGION_BYTES):
        used = _used(os.pread(descriptor, _WORD, begin))
        found += _series(os.pread(descriptor, used, begin))
    return found


def _used(memory: memoryview | bytes) -> int:
    return int.from_bytes(memory[:_WORD], "little") or _WORD


def _series(memory: memoryview | bytes) -> Iterator[CountedSeries]:
    for name, labels, place, count in _entries(memory):
        yield CountedSeries(name, labels, struct.unpack_from(f"{count}Q", memory, place))


def _entries(memory: memoryview | bytes) -> Iterator[tuple[str, tuple[str, ...], int, int]]:
    """Yield the name, the labels, the place of the values and the number of values of each entry."""
    at, end = _WORD, _used(memory)
    while at < end:
        length, count = _ENTRY.unpack_from(memory, at)
        place = at + _ENTRY.size + length
        name, *labels = json.loads(bytes(memory[at + _ENTRY.size : place]))
        yield name, tuple(labels), place, count
        at = place + count * _WORD
