"""The two scenarios that specify the AE Title Job Processor, in real time, with DCMTK's senders and the adapter's."""

from __future__ import annotations

import time
from contextlib import closing
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_adapter.ledger import Ledger, instances
from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE, PlatformFolder, Run, send, write_study

CONFIGURATION = (
    STORAGE
    + """
[ae-titles.LUNG.settings]
priority = "normal"
timeout = 12
pipeline-a = "pipeline-1"
pipeline-b = "pipeline-2"
pipeline-c = "pipeline-3"

[ae-titles.HEAD.settings]
priority = "higher"
pipeline-h = "pipeline-4"
"""
)


def started_jobs(platform: PlatformFolder) -> list[tuple[str, str, int]]:
    """Return pipeline, priority and number of instances of each started job."""
    return sorted((job["pipelineId"], job["priority"], len(job["instances"])) for job in platform.jobs)


@pytest.mark.dcmtk
def test_five_studies_of_one_patient_become_one_job_for_each_pipeline(
    launch_service: LaunchService, platform: PlatformFolder, dcmtk: Run, tmp_path: Path
) -> None:
    """Each study is sent in a separate association within the timeout.

    All five studies are in each of the three jobs.
    """
    service = launch_service(CONFIGURATION)
    port = service.port()
    for number in range(5):
        paths = write_study(tmp_path / f"study-{number}")
        dcmtk("storescu", "-aec", "LUNG", "127.0.0.1", port, *paths)
    service.wait_for("job_submitted", times=3)
    expected = [("pipeline-1", "normal", 10), ("pipeline-2", "normal", 10), ("pipeline-3", "normal", 10)]
    assert expected == started_jobs(platform)
    assert 10 == service.wait_for("instances_reclaimed")["count"]


@pytest.mark.dcmtk
def test_three_studies_in_one_association_become_three_jobs(
    launch_service: LaunchService, platform: PlatformFolder, dcmtk: Run, tmp_path: Path
) -> None:
    """Five seconds after the association, there is one job for each study."""
    service = launch_service(CONFIGURATION)
    for number in range(3):
        write_study(tmp_path / "outgoing" / str(number))
    dcmtk("dcmsend", "-aec", "HEAD", "+sd", "+r", "127.0.0.1", service.port(), tmp_path / "outgoing")
    service.wait_for("job_submitted", times=3)
    assert [("pipeline-4", "higher", 2)] * 3 == started_jobs(platform)
    studies = {frozenset(_study(file) for file in platform.files(job)) for job in platform.jobs}
    assert 3 == len(studies)
    assert all(1 == len(study) for study in studies)


def test_every_arrival_restarts_the_wait(
    launch_service: LaunchService, platform: PlatformFolder, tmp_path: Path
) -> None:
    """Four instances of one study, each in a separate association, 4, 3 and 1 s apart, become one job.

    If sending is so slow that more than five seconds pass between two instances, there is a job for the instances
    before, and another job for those after.
    """
    service = launch_service(CONFIGURATION)
    for path, pause in zip(write_study(tmp_path / "study", instances=4), (4, 3, 1, 0), strict=True):
        assert [True] == [result.ok for result in send([path], service, "HEAD")]
        time.sleep(pause)  # the pauses are part of the scenario
    sizes = group_sizes(arrivals(service, count=4), wait=timedelta(seconds=5))
    service.wait_for("job_submitted", times=len(sizes))
    assert sorted(("pipeline-4", "higher", size) for size in sizes) == started_jobs(platform)


def arrivals(service: LaunchedService, count: int) -> list[datetime]:
    """Return the time at which each instance was received. Wait until the rows of `count` instances are entered."""
    url = f"sqlite:///{service.configuration.parent / 'data' / 'ledger.sqlite'}"
    with closing(Ledger(url)) as ledger:
        while True:
            with ledger.read() as transaction:
                found = instances.arrived_after(transaction, 0, 1000)
            if len(found) >= count:
                return [instance.received_at for instance in found]


def group_sizes(times: list[datetime], wait: timedelta) -> list[int]:
    """Return the number of instances in each group. A pause longer than `wait` ends a group."""
    sizes = [1]
    for before, after in pairwise(times):
        sizes = [*sizes, 1] if after - before > wait else [*sizes[:-1], sizes[-1] + 1]
    return sizes


def _study(file: Path) -> str:
    return str(dcmread(file, stop_before_pixels=True).StudyInstanceUID)
