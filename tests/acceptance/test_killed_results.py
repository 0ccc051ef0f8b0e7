"""The service is killed between the creation of a job and the last response of a destination.

The command of the job runs once, and no result is lost.

All processes of the service are killed, but not the runner of the command. A C-STORE is repeated if its response was
lost: the PACS then has the same SOP Instance UID twice, which counts as one result. The tests limit the number of these
repetitions, and record it as a property of the test suite.

Verified to fail when the runner belongs to the process group of the service (a command runs twice), when the rows of
results are committed after the state of their job (results are lost), and when `folder` does not mark a folder that it
is about to complete (the delivery is faulted).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest

from dicom_adapter.api.values import JobState
from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from support import jobs_in_ledger, send, write_study
from support.results_site import RESULTS, SECONDS, Pacs, ResultsSite, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
INSTANCES = 2  # of each study
DONE = Counter({JobState.SUCCEEDED: 1, JobState.SUBMITTED: 2})  # states of the command's job and its deliveries
Moment = Callable[[LaunchedService, ResultsSite, str], Any]  # waits for a moment of the jobs of an AE title


def logged(event: str, times: int = 1) -> Moment:
    """Return a moment: the service has logged an event about jobs of the AE title."""
    return lambda service, _site, ae_title: service.wait_for(event, times=times, ae_title=ae_title)


def noted(what: str, times: int = 1) -> Moment:
    """Return a moment: the command has made a note."""
    return lambda _service, site, ae_title: wait_until(lambda: site.runs(what)[ae_title] >= times, what)


def incomplete_drop(_service: LaunchedService, site: ResultsSite, _ae_title: str) -> None:
    """Wait for the folder of an incomplete delivery."""
    wait_until(lambda: any((site.drop / ".incoming").glob("*")), "an incomplete folder")


def complete_drop(_service: LaunchedService, site: ResultsSite, ae_title: str) -> None:
    """Wait for the folder of a complete delivery, which the ledger does not record yet."""
    wait_until(lambda: any(site.drop.glob(f"{ae_title}-*")), "a complete folder")


def held(number: int) -> Moment:
    """Return a moment: the PACS has received the n-th C-STORE, and has not answered. The response is lost."""

    def wait(_service: LaunchedService, site: ResultsSite, ae_title: str) -> None:
        assert site.pacs.hold(ae_title, number).arrived.wait(SECONDS)

    return wait


def answered(number: int) -> Moment:
    """Return a moment: the PACS has just answered the n-th C-STORE."""

    def wait(_service: LaunchedService, site: ResultsSite, ae_title: str) -> None:
        response = site.pacs.hold(ae_title, number)
        assert response.arrived.wait(SECONDS)
        response.answer.set()
        time.sleep(0.002 * number)  # the response is on its way, or has just arrived

    return wait


MOMENTS: Mapping[str, Mapping[str, Moment]] = {  # by AE title
    "the job": {
        "QUEUED": logged("job_queued"),
        "CREATED": logged("job_created"),
        "DESCRIBED": logged("job_metadata_sent"),
        "UPLOADED": logged("job_uploaded"),
        "RUNNING": logged("job_submitted"),
    },
    "the command": {
        "STARTED": noted("started"),
        "WRITTEN-1": noted("written"),
        "WRITTEN-2": noted("written", 2),
        "ENDED": noted("ended"),
        "SUCCEEDED": logged("job_succeeded"),
        "COLLECTED": logged("results_collected"),
    },
    "the deliveries": {
        "DELIVERY-1": logged("job_created", 2),
        "DELIVERY-2": logged("job_created", 3),
        "DESCRIBED-2": logged("job_metadata_sent", 3),
        "INCOMPLETE": incomplete_drop,
        "COMPLETE": complete_drop,
        "DELIVERED-1": logged("job_submitted", 2),
        "DELIVERED-2": logged("job_submitted", 3),
    },
    "the responses": {
        "HELD-1": held(1),
        "ANSWERED-1": answered(1),
        "HELD-2": held(2),
        "ANSWERED-2": answered(2),
        "SENT": logged("job_uploaded", 3),
    },
}


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    node = Pacs()
    yield node
    node.close()


def states(service: LaunchedService, ae_title: str) -> Counter[JobState]:
    return Counter(job.state for job in jobs_in_ledger(service) if job.ae_title == ae_title)


def wait_for_end(service: LaunchedService, ae_title: str) -> None:
    """Wait until the jobs of an AE title are done. A failed job is an error."""

    def is_done() -> bool:
        reached = states(service, ae_title)
        assert not reached.keys() & {JobState.FAILED, JobState.FAULTED, JobState.CANCELLED}, reached
        return reached == DONE

    wait_until(is_done, f"the end of the jobs of {ae_title}")


def command(service: LaunchedService, *words: str, status: int = 0) -> Any:
    """Run a command of `dicom-adapter`, and return its JSON."""
    whole = [sys.executable, "-m", "dicom_adapter", *words, "--config", str(service.configuration), "--json"]
    done = subprocess.run(whole, capture_output=True, text=True, check=False, timeout=120)
    assert status == done.returncode, done.stdout + done.stderr
    return json.loads(done.stdout)


def check(service: LaunchedService, site: ResultsSite, ae_titles: list[str], kills: int) -> int:
    """Check the command and both destinations after all jobs have ended. Return the number of repeated C-STOREs.

    The folder has each result and each attachment once. The PACS has received each result at least once. Jobs are
    delivered to it one after the other, and all C-STORE responses of a job are recorded together: a kill repeats at
    most the results of one job.
    """
    assert dict.fromkeys(ae_titles, DONE) == {name: states(service, name) for name in ae_titles}
    assert [""] * 3 * len(ae_titles) == [job.last_error for job in jobs_in_ledger(service)]
    assert dict.fromkeys(ae_titles, 1) == site.runs("started") == site.runs("ended")
    written = sorted(entry["uid"] for entry in site.noted("written"))
    assert RESULTS * len(ae_titles) == len(set(written))
    assert written == sorted(site.dropped())
    reports = [{"aeTitle": name, "result": number} for name in sorted(ae_titles) for number in range(RESULTS)]
    assert reports == sorted(site.dropped_reports(), key=lambda report: (report["aeTitle"], report["result"]))
    assert [] == list((site.drop / ".incoming").iterdir())
    stored = Counter(uid for _patient_id, uid in site.pacs.stored)
    assert set(written) == set(stored)
    repeated = stored.total() - len(stored)
    assert repeated <= RESULTS * kills

    listed = command(service, "results", "list", "--limit", "1000")
    assert written == sorted(row["sopInstanceUid"] for row in listed)
    assert {"released", "reclaimed"} >= {row["state"] for row in listed}
    for row in listed:
        delivered = [(one["destination"], one["state"]) for one in row["deliveries"]]
        assert [("drop", "submitted"), ("pacs", "submitted")] == sorted(delivered)

    assert 0 == service.stop()
    report = command(service, "audit", "--verify", "--repair")  # a kill may leave objects without rows
    assert {"object-without-row"} >= report["counts"].keys(), report
    report = command(service, "audit", "--verify")
    assert ({}, True) == (report["counts"], report["ok"])
    assert len(written) == sum(account["results"] for account in report["results"])
    return repeated


def send_study(service: LaunchedService, folder: Path, ae_title: str) -> None:
    paths = write_study(folder / ae_title, instances=INSTANCES, patient_id=ae_title)
    assert [True] * INSTANCES == [result.ok for result in send(paths, service, ae_title)]


@pytest.mark.parametrize("part", MOMENTS)
def test_a_kill_at_each_moment_neither_repeats_a_command_nor_loses_a_result(
    launch_service: LaunchService,
    pacs: Pacs,
    tmp_path: Path,
    record_testsuite_property: Callable[[str, object], None],
    part: str,
) -> None:
    """For each moment, a study is sent to an AE title of its own, and the service is killed at that moment."""
    moments = MOMENTS[part]
    site = ResultsSite(tmp_path, pacs, moments)
    for name in moments:
        if name.startswith(("HELD", "ANSWERED")):
            pacs.hold(name, int(name[-1]))
    service = launch_service(site.configuration)
    for name, wait_for_moment in moments.items():
        send_study(service, tmp_path / "studies", name)
        wait_for_moment(service, site, name)
        service.kill()
        pacs.answer_all()
        service = launch_service(site.configuration)
    for name in moments:
        wait_for_end(service, name)
    repeated = check(service, site, list(moments), len(moments))
    record_testsuite_property(f"repeated C-STOREs, {part}", repeated)
    lost = sum(name.startswith("HELD") for name in moments)  # the response of each held C-STORE
    assert repeated >= lost


def test_kills_at_random_moments_neither_repeat_a_command_nor_lose_a_result(
    launch_service: LaunchService, pacs: Pacs, tmp_path: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    """Jobs of several studies are in different steps when the service is killed."""
    random = Random(16)
    names = [f"RANDOM-{number}" for number in range(1, 9)]
    site = ResultsSite(tmp_path, pacs, names)
    kills = 0
    service = launch_service(site.configuration)
    for name in names:
        send_study(service, tmp_path / "studies", name)
        for _kill in range(2):
            service.wait_for("host_started")
            time.sleep(random.uniform(0.0, 2.5))
            service.kill()
            kills += 1
            service = launch_service(site.configuration)
    for name in names:
        wait_for_end(service, name)
    record_testsuite_property("repeated C-STOREs, random moments", check(service, site, names, kills))
