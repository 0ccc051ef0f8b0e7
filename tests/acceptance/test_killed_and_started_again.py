"""After kills of all processes or of the host, no acknowledged instance is lost and nothing is submitted twice."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest
from receive_instances import encode
from receive_link import Link
from receive_pdus import make_uid, store_request

from dicom_adapter.api.values import JobState
from dicom_adapter.ledger import Ledger, counters
from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from support import INSTANCE_LINES, STORAGE, PlatformFolder, jobs_in_ledger, send, write_study

pytestmark = pytest.mark.slow

CONFIGURATION = (
    INSTANCE_LINES
    + STORAGE
    + """
retry-first = 0.1
retry-most = 0.5  # longest pause in seconds

[ae-titles.LUNG.settings]
interrupted = "submit"
timeout = 10
pipeline-a = "pipeline-1"
pipeline-b = "pipeline-2"
"""
)


def send_patient(service: LaunchedService, folder: Path, patient_id: str) -> None:
    """Send one study of three instances to LUNG, and check that every instance is acknowledged."""
    paths = write_study(folder, instances=3, patient_id=patient_id)
    assert [True] * 3 == [result.ok for result in send(paths, service, "LUNG")]


def test_a_service_killed_while_groups_wait_submits_each_job_once(
    launch_service: LaunchService, platform: PlatformFolder, tmp_path: Path
) -> None:
    """The second kill follows immediately after jobs were queued. Each pipeline gets one job for each group."""
    first = launch_service(CONFIGURATION)
    send_patient(first, tmp_path / "one", "P-1")
    first.kill()
    assert [] == jobs_in_ledger(first)

    second = launch_service(CONFIGURATION)
    send_patient(second, tmp_path / "two", "P-2")
    second.wait_for("job_queued", times=2)
    second.kill()

    submitted = [job for job in jobs_in_ledger(second) if job.state is JobState.SUBMITTED]
    third = launch_service(CONFIGURATION)
    third.wait_for("job_submitted", times=4 - len(submitted))
    assert [("pipeline-1", 3)] * 2 + [("pipeline-2", 3)] * 2 == sorted(
        (job["pipelineId"], len(job["instances"])) for job in platform.jobs
    )
    assert 4 == len(platform.calls("create"))
    assert 4 == len(platform.calls("start"))


def test_senders_see_no_error_when_the_host_is_killed(launch_service: LaunchService) -> None:
    """The host is killed three times while three senders send. Every instance is acknowledged, and none is lost."""
    service = launch_service(CONFIGURATION)
    stopped = threading.Event()

    def send_until_stopped(sender: int) -> int:
        """Send until stopped, and return the number of acknowledged instances. Any other status raises LinkFailed."""
        with Link(service.port(), "LUNG") as link:
            message = store_request(encode(16), make_uid(2, sender), make_uid(3, sender), 16384)
            for number in count(1):
                link.store(message.rename(make_uid(1, sender * 10**9 + number)))
                if stopped.is_set():
                    return number
        raise AssertionError

    with ThreadPoolExecutor(3) as pool:
        senders = [pool.submit(send_until_stopped, number) for number in range(3)]
        try:
            for times in range(1, 4):
                host = service.wait_for("host_started", times=times)["pid"]
                service.wait_for("instance_stored", times=20 * times)
                os.kill(host, signal.SIGKILL)
            service.wait_for("host_started", times=4)
        finally:
            stopped.set()
        acknowledged = sum(sender.result() for sender in senders)

    assert 0 == service.stop()
    url = f"sqlite:///{service.configuration.parent / 'data' / 'ledger.sqlite'}"
    with closing(Ledger(url)) as ledger, ledger.read() as transaction:
        assert {("LUNG", counters.RECEIVED): acknowledged} == counters.load(transaction)
