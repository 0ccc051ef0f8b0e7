"""Counters in memory that the processes of a service share: values, restarts of processes, and limits."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from dicom_adapter.runtime.measures import (
    ARRIVAL_TO_JOB,
    JOBS_CREATED,
    OF_HOST,
    OF_RECEIVERS,
    RECEIVED_INSTANCES,
    STORE_RESPONSE,
    Measure,
)
from dicom_adapter.runtime.shared_counts import (
    HOST_REGION,
    MOST_SERIES,
    REGION_BYTES,
    CountedSeries,
    Counts,
    create_shared_counts,
    read_shared_counts,
)

# Counts in a region, then ends without any clean-up, as after a crash.
CRASHING = """
import os, sys
from dicom_adapter.runtime.measures import RECEIVED_INSTANCES
from dicom_adapter.runtime.shared_counts import Counts
Counts.of_process(int(sys.argv[1]), 1, has_one_thread=True).tally(RECEIVED_INSTANCES, "LUNG", "stored").add(3)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def shared() -> Iterator[int]:
    """Return the memory of a host and two receivers."""
    descriptor = create_shared_counts(2)
    yield descriptor
    os.close(descriptor)


def test_the_regions_of_all_processes_are_read_together(shared: int) -> None:
    for region in (HOST_REGION, 1, 2):
        Counts.of_process(shared, region).tally(RECEIVED_INSTANCES, "LUNG", "stored").add(region + 1)
    name = RECEIVED_INSTANCES.name
    assert [CountedSeries(name, ("LUNG", "stored"), (count,)) for count in (1, 2, 3)] == read_shared_counts(shared)


def test_a_killed_process_loses_no_counts(shared: int) -> None:
    """Its successor continues them. Verified to fail when a process does not read the entries of its region."""
    for _start in range(2):
        ended = subprocess.run([sys.executable, "-c", CRASHING, str(shared)], pass_fds=[shared], check=False)
        assert -9 == ended.returncode
    assert [CountedSeries(RECEIVED_INSTANCES.name, ("LUNG", "stored"), (6,))] == read_shared_counts(shared)


def test_a_duration_is_counted_in_the_first_bucket_that_contains_it() -> None:
    """The upper bound belongs to the bucket, as in Prometheus. The last value is the sum in nanoseconds."""
    counts = Counts()
    responses = counts.distribution(STORE_RESPONSE, "LUNG")
    for seconds in (0.0005, 0.0006, 11.0, -1.0):
        responses.observe(seconds)
    ((*buckets, total),) = [series.values for series in counts.series()]
    assert [2, 1, *[0] * 12, 1] == buckets
    assert 11_001_100_000 == total


def test_threads_lose_no_counts() -> None:
    counts, before = Counts(), sys.getswitchinterval()
    tally = counts.tally(RECEIVED_INSTANCES, "LUNG", "stored")

    def count() -> None:
        for _number in range(20_000):
            tally.add()

    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=count) for _number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert [(80_000,)] == [series.values for series in counts.series()]


def test_too_many_combinations_of_labels_are_counted_together() -> None:
    """The id of a pipeline may come from a request, so the number of ids is not limited by the configuration."""
    counts = Counts()
    for number in range(MOST_SERIES + 50):
        counts.tally(JOBS_CREATED, "LUNG", "platform", f"pipeline-{number}").add()
    counts.tally(JOBS_CREATED, "LUNG", "platform", "long" * 1000).add()
    found = {series.labels: series.values for series in counts.series()}
    assert MOST_SERIES + 1 == len(found)
    assert (51,) == found["other", "other", "other"]
    counts.tally(JOBS_CREATED, "LUNG", "platform", "pipeline-0").add()  # a known combination is still counted
    assert (2,) == {series.labels: series.values for series in counts.series()}["LUNG", "platform", "pipeline-0"]


@pytest.mark.parametrize("measures", [OF_HOST, OF_RECEIVERS])
def test_all_measures_with_the_longest_labels_fit_into_a_region(measures: tuple[Measure, ...]) -> None:
    counts = Counts()
    for measure in measures:
        for number in range(MOST_SERIES + 1):
            labels = ("é" * 50 + f"{number:04}", *["x"] * (len(measure.labels) - 1))
            if measure.bounds:
                counts.distribution(measure, *labels).observe(1)
            else:
                counts.tally(measure, *labels).add()
    assert len(measures) * (MOST_SERIES + 1) == len(counts.series())


def test_names_with_any_characters_are_read_back() -> None:
    counts = Counts()
    counts.distribution(ARRIVAL_TO_JOB, 'A"\\B', "µ\n").observe(1)
    assert [('A"\\B', "µ\n")] == [series.labels for series in counts.series()]


def test_memory_is_used_only_for_what_is_counted(shared: int) -> None:
    Counts.of_process(shared, 1).tally(RECEIVED_INSTANCES, "LUNG", "stored").add()
    status = os.fstat(shared)
    assert 3 * REGION_BYTES == status.st_size
    assert status.st_blocks * 512 <= 8192
