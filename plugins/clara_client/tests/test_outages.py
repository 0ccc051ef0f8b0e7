"""`clara-grpc` and `clara-rest` in an adapter with a virtual clock: jobs continue after failures of the platform."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from dicom_adapter import JobState
from dicom_adapter.testing import Adapter, make_instance, make_study
from dicom_adapter_clara_client.emulator import CallFault, CallFaultKind, CallOutcome, CallRecord
from dicom_adapter_clara_client.testing import PlatformEmulator

MakeAdapter = Callable[..., Adapter]

LUNG, HEAD = 32 * "a", 32 * "b"
CONFIGURATION = """
[submitters.platform]
type = "clara-{protocol}"
endpoint = "{endpoint}"
follow = false
status-every = 60
[ae-titles.LUNG.settings]
pipeline-lung = "{lung}"
[ae-titles.HEAD.settings]
priority = "higher"
pipeline-head = "{head}"
"""
STEPS = ("Jobs.Create", "Jobs.AddMetadata", "Payloads.Upload", "Jobs.Start")
WRONG_CREDENTIALS = {"grpc": "UNAUTHENTICATED", "rest": 401}

pytestmark = pytest.mark.parametrize("protocol", ["grpc", "rest"])


def configuration(platform: PlatformEmulator, protocol: str) -> str:
    endpoint = platform.grpc if protocol == "grpc" else platform.rest
    return CONFIGURATION.format(protocol=protocol, endpoint=endpoint, lung=LUNG, head=HEAD)


def test_an_interrupted_upload_continues_with_the_failed_file(
    make_adapter: MakeAdapter, platform_emulator: PlatformEmulator, protocol: str
) -> None:
    """The connection is lost at file 700 of 1,000. After a retry, the remaining 300 files are sent, and no file twice.

    Verified to fail when the files sent before the failure are not recorded.
    """
    platform_emulator.faults.add(CallFault(call="Payloads.Upload", kind=CallFaultKind.RESET, after=700))
    adapter = make_adapter(configuration(platform_emulator, protocol))
    adapter.receive(*make_study(instances=1000), ae_title="LUNG")
    adapter.advance(30)
    outcomes = [call.outcome for call in platform_emulator.log.calls("Payloads.Upload")]
    assert [CallOutcome.DONE] * 700 == outcomes[:700]
    assert CallOutcome.DONE is not outcomes[700]
    assert [CallOutcome.DONE] * 300 == outcomes[701:]
    [job] = platform_emulator.platform.jobs.list()
    assert 1000 == len(platform_emulator.platform.payloads.details(job.payload_id).files)
    assert [JobState.SUBMITTED] == [job.state for job in adapter.jobs]


def test_each_job_is_submitted_once_and_in_order_after_an_outage(
    make_adapter: MakeAdapter, platform_emulator: PlatformEmulator, protocol: str
) -> None:
    """Higher priorities are first, then older jobs; but every eighth step is a step of the oldest job.

    Verified to fail when `choose` ignores the age or the priority, or never chooses the oldest job.
    """
    platform_emulator.faults.add(CallFault(kind=CallFaultKind.STATUS, status="UNAVAILABLE", times=None))
    adapter = make_adapter(configuration(platform_emulator, protocol))
    for number in range(6):
        for ae_title in ("LUNG", "HEAD"):
            adapter.receive(make_instance(seed=f"{ae_title}-{number}", patient_id=f"{number}"), ae_title=ae_title)
            adapter.advance(300)
    assert () == platform_emulator.platform.jobs.list()
    platform_emulator.faults.clear()
    adapter.advance(300)

    jobs = adapter.jobs
    assert [JobState.SUBMITTED] * 12 == [job.state for job in jobs]
    assert sorted(job.platform_job_id for job in jobs) == sorted(
        job.job_id for job in platform_emulator.platform.jobs.list()
    )
    submitted = [event.job_id for event in adapter.events if event.event == "job_submitted"]
    for ae_title in ("LUNG", "HEAD"):
        oldest_first = [job.job_id for job in jobs if job.ae_title == ae_title]
        assert oldest_first == [job_id for job_id in submitted if job_id in oldest_first]

    # The first call is ignored: during the outage the jobs retry after random pauses, so any job may be the first.
    _first_after_the_outage, *steps = pipelines_of_steps(platform_emulator, platform_emulator.log.calls())
    while_both_wait = steps[: len(steps) - steps[::-1].index(HEAD)]
    # A job has five steps, one of them without a call. During the 30 steps of the six urgent jobs (HEAD), four or five
    # steps are of the oldest jobs (LUNG): three or four calls.
    assert while_both_wait.count(LUNG) in (3, 4)


def pipelines_of_steps(platform: PlatformEmulator, calls: Iterable[CallRecord]) -> Iterable[str | None]:
    """Return the pipelines of the steps that the platform performed, in order."""
    return (platform.platform.pipeline_of(call.ids) for call in calls if call.call in STEPS and call.worked)


def test_a_jobs_status_is_polled_to_its_end_despite_a_refusal(
    make_adapter: MakeAdapter, platform_emulator: PlatformEmulator, protocol: str
) -> None:
    """If the credentials are wrong for a while, polling continues and the end of the job is recorded."""
    refusal = CallFault(call="Jobs.Status", kind=CallFaultKind.STATUS, status=WRONG_CREDENTIALS[protocol])
    platform_emulator.faults.add(refusal)
    adapter = make_adapter(configuration(platform_emulator, protocol))
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(300)
    assert () == platform_emulator.faults.left()
    [job] = adapter.jobs
    assert ("stopped", "healthy", True) == (job.platform_state, job.platform_detail, job.platform_finished)
