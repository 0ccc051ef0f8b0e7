"""The count finds every error of results: each case changes correct evidence."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from faults.adapter import AE_TITLES, COMMANDS
from faults.commands import DESTINATION
from faults.count import count
from faults.count_results import DELIVERY, by_state, held
from faults.evidence import Evidence, LedgerInstance, LedgerJob, PlatformFile, PlatformJob
from faults.lookup import look_up
from faults.records import Sent

SENT = Sent(
    ae_title=COMMANDS,
    study_instance_uid="2.25.9",
    sop_instance_uid="2.25.1",
    digest="d1",
    began=10.0,
    status=0x0000,
    answered=10.5,
)
INPUT = LedgerInstance(
    number=1,
    ae_title=COMMANDS,
    study_instance_uid="2.25.9",
    sop_instance_uid="2.25.1",
    state="reclaimed",
    storage_key="k1",
    is_replaced=False,
    received=10.2,
    changed=40.0,
)
RESULT = evolve(INPUT, number=2, sop_instance_uid="2.25.2", storage_key="k2", is_result=True)
HELD = evolve(RESULT, number=3, sop_instance_uid="2.25.3", storage_key="k3", state="quarantined")
JOB = LedgerJob(
    job_id="job-1",
    name="COMMANDS-1",
    ae_title=COMMANDS,
    pipeline=AE_TITLES[COMMANDS].pipelines[0],
    state="succeeded",
    platform_job="job-1",
    instances=(1,),
)
DELIVERED = evolve(
    JOB,
    job_id="job-2",
    pipeline=DELIVERY,
    state="submitted",
    platform_job="COMMANDS-1-to-drop-job-2",
    instances=(2,),
    submitter=DESTINATION,
    source_job="job-1",
)
TO_WEB = evolve(DELIVERED, job_id="job-3", platform_job="job-3-1", submitter="web")
RUN = PlatformJob(
    job_id="job-1",
    adapter_job="job-1",
    pipeline=JOB.pipeline,
    is_started=True,
    created=20.0,
    files=(PlatformFile(sop_instance_uid="2.25.1", digest="d1"),),
)
WRITTEN = PlatformFile(sop_instance_uid="2.25.2", digest="d2")
WRITTEN_WRONG = PlatformFile(sop_instance_uid="2.25.3", digest="d3")
FOLDER = evolve(RUN, job_id=DELIVERED.platform_job, adapter_job="job-2", pipeline=DELIVERY, files=(WRITTEN,))
GOOD = Evidence(
    sent=(SENT,),
    platform_jobs=(RUN, FOLDER),
    instances=(INPUT, RESULT, HELD),
    jobs=(JOB, DELIVERED, TO_WEB),
    stored=frozenset({"k3"}),
    results={"job-1": (WRITTEN, WRITTEN_WRONG)},
    arrived={"web": (WRITTEN,)},
)
OTHER = PlatformFile(sop_instance_uid="2.25.2", digest="d9")
INPUT_FILE = RUN.files[0]


def changed(**changes: Any) -> Evidence:
    return evolve(GOOD, **changes)


WRONG: dict[str, tuple[Evidence, str]] = {
    "a command ran twice": (changed(platform_jobs=(RUN, RUN, FOLDER)), "one job"),
    "a command never ran": (changed(platform_jobs=(FOLDER,)), "one job"),
    "a job of a command is only submitted": (
        changed(jobs=(evolve(JOB, state="submitted"), DELIVERED, TO_WEB)),
        "one job",
    ),
    "a command failed": (changed(jobs=(evolve(JOB, state="failed"), DELIVERED, TO_WEB)), "one job"),
    "the input has other bytes": (
        changed(platform_jobs=(evolve(RUN, files=(evolve(RUN.files[0], digest="d9"),)), FOLDER)),
        "payloads",
    ),
    "a result is not delivered": (changed(platform_jobs=(RUN, evolve(FOLDER, files=()))), "results"),
    "a result has no row": (changed(results={"job-1": (WRITTEN, WRITTEN_WRONG, OTHER)}), "results"),
    "a result is delivered in two folders": (
        changed(platform_jobs=(RUN, FOLDER, evolve(FOLDER, job_id="another"))),
        "results",
    ),
    "a result is twice in a folder": (changed(platform_jobs=(RUN, evolve(FOLDER, files=(WRITTEN,) * 2))), "results"),
    "a folder is delivered twice": (changed(platform_jobs=(RUN, FOLDER, FOLDER)), "one job"),
    "a delivery is faulted": (changed(jobs=(JOB, evolve(DELIVERED, state="faulted"), TO_WEB)), "one job"),
    "a result is delivered with other bytes": (
        changed(platform_jobs=(RUN, evolve(FOLDER, files=(OTHER,)))),
        "results",
    ),
    "a quarantined result is delivered": (
        changed(platform_jobs=(RUN, evolve(FOLDER, files=(WRITTEN, WRITTEN_WRONG)))),
        "results",
    ),
    "a quarantined result was lost": (changed(instances=(INPUT, RESULT)), "results"),
    "a delivered instance is no result": (changed(results={"job-1": (WRITTEN_WRONG,)}), "results"),
    "a quarantined result lacks its object": (changed(stored=frozenset()), "objects"),
    "a product lacks a result": (changed(arrived={"web": ()}), "arrived"),
    "a product lacks a result, whose delivery was cancelled": (
        changed(arrived={"web": ()}, jobs=(JOB, DELIVERED, evolve(TO_WEB, state="cancelled"))),
        "arrived",
    ),
    "a product has a result twice": (changed(arrived={"web": (WRITTEN, WRITTEN)}), "arrived"),
    "a product has a result with another data set": (changed(arrived={"web": (OTHER,)}), "arrived"),
    "a product has a quarantined result": (changed(arrived={"web": (WRITTEN, WRITTEN_WRONG)}), "arrived"),
    "a product has another instance": (changed(arrived={"web": (WRITTEN, INPUT_FILE)}), "arrived"),
    "a product has a result of a job that has not succeeded": (
        changed(jobs=(evolve(JOB, state="running"), DELIVERED, TO_WEB)),
        "arrived",
    ),
    "no delivery to a product": (changed(jobs=(JOB, DELIVERED)), "arrived"),
    "two deliveries to a product": (
        changed(jobs=(JOB, DELIVERED, TO_WEB, evolve(TO_WEB, job_id="job-4"))),
        "arrived",
    ),
}


@pytest.mark.parametrize(("evidence", "rule"), WRONG.values(), ids=WRONG.keys())
def test_every_error_of_results_is_found(evidence: Evidence, rule: str) -> None:
    """The rule that is broken is among the findings."""
    assert rule in {finding.rule for finding in count(evidence)}


def test_a_quarantined_copy_does_not_count_as_the_instance_that_was_sent() -> None:
    """An instance whose row is missing was lost, although the quarantined result has its AE title and UID.

    Verified to fail when `look_up` groups the rows of results with those of received instances.
    """
    copy = evolve(HELD, sop_instance_uid=INPUT.sop_instance_uid)
    lookup = look_up(changed(instances=(INPUT, RESULT, copy)))
    assert {(COMMANDS, "2.25.1"): [INPUT]} == lookup.rows
    assert {1, 2, 3} == lookup.by_number.keys()  # deliveries refer to results by number
    lost = Evidence(sent=(SENT,), platform_jobs=(), instances=(copy,), jobs=(), stored=frozenset({"k3"}))
    assert "acknowledged" in {finding.rule for finding in count(lost)}


@pytest.mark.parametrize("state", ["faulted", "failed", "queued", "uploaded"])
@pytest.mark.parametrize("arrived", [(), (WRITTEN,)])
def test_delivery_to_a_product_may_be_held(state: str, arrived: tuple[PlatformFile, ...]) -> None:
    """The product may have the result already: its response was lost. The report names the delivery."""
    delivery = evolve(TO_WEB, state=state)
    evidence = changed(arrived={"web": arrived}, jobs=(JOB, DELIVERED, delivery))
    assert [] == count(evidence)
    assert [delivery] == held(evidence)


def test_delivered_and_quarantined_results_are_no_finding() -> None:
    assert [] == count(GOOD)
    assert {"reclaimed": 1, "quarantined": 1} == by_state(GOOD)
    assert [] == held(GOOD)
