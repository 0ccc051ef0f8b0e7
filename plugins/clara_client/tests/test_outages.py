"""Both submitters in an adapter under a virtual clock, against the emulator: what breaks, and how it goes on."""

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
status-every = 60
[ae-titles.LUNG.settings]
pipeline-lung = "{lung}"
[ae-titles.HEAD.settings]
priority = "higher"
pipeline-head = "{head}"
"""
STEPS = ("Jobs.Create", "Jobs.AddMetadata", "Payloads.Upload", "Jobs.Start")
TOLD = {"grpc": "UNAUTHENTICATED", "rest": 401}

pytestmark = pytest.mark.parametrize("protocol", ["grpc", "rest"])


def configuration(platform: PlatformEmulator, protocol: str) -> str:
    endpoint = platform.grpc if protocol == "grpc" else platform.rest
    return CONFIGURATION.format(protocol=protocol, endpoint=endpoint, lung=LUNG, head=HEAD)


def test_an_upload_that_breaks_goes_on_with_the_file_that_broke(
    make_adapter: MakeAdapter, platform_emulator: PlatformEmulator, protocol: str
) -> None:
    """The connection is lost at file 700 of 1,000: 300 more calls, and no file is sent that had arrived.

    Fails when the files that arrived before a failure are not written down.
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


def test_after_an_hour_without_the_platform_each_job_goes_once_and_in_order(
    make_adapter: MakeAdapter, platform_emulator: PlatformEmulator, protocol: str
) -> None:
    """The oldest first within a priority; the higher priority first, but for one turn in eight, which is the oldest's.

    Fails when `choose` does not look at the age, at the priority, or never turns to the oldest.
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

    # The first call is left out: while the platform is down, every job tries in rotation. The pauses between tries are
    # random, so any job may be the one that finds the platform back.
    _found_it_back, *turns = pipelines_of_steps(platform_emulator, platform_emulator.log.calls())
    while_both_wait = turns[: len(turns) - turns[::-1].index(HEAD)]
    # A job takes five turns, one of them without a call: the six urgent jobs take 30, the oldest job 4 or 5 in between.
    assert while_both_wait.count(LUNG) in (3, 4)


def pipelines_of_steps(platform: PlatformEmulator, calls: Iterable[CallRecord]) -> Iterable[str | None]:
    """The pipelines of the steps that the platform took, in order."""
    return (platform.platform.pipeline_of(call.ids) for call in calls if call.call in STEPS and call.worked)


def test_a_job_is_watched_to_its_end_across_a_refusal(
    make_adapter: MakeAdapter, platform_emulator: PlatformEmulator, protocol: str
) -> None:
    """Credentials that were wrong for a while do not make its end unknown."""
    refusal = CallFault(call="Jobs.Status", kind=CallFaultKind.STATUS, status=TOLD[protocol])
    platform_emulator.faults.add(refusal)
    adapter = make_adapter(configuration(platform_emulator, protocol))
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(300)
    assert () == platform_emulator.faults.left()
    [job] = adapter.jobs
    assert ("stopped", "healthy", True) == (job.platform_state, job.platform_detail, job.platform_finished)
