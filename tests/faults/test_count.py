"""The count finds every kind of error: each case changes correct evidence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve

from faults.adapter import AE_TITLES
from faults.count import count, orphans
from faults.evidence import Evidence, LedgerInstance, LedgerJob, PlatformFile, PlatformJob
from faults.mount import Outage
from faults.records import Sent

UID = "2.25.1"
STORED = "k1"

SENT = Sent(
    ae_title="NEWEST",
    study_instance_uid="2.25.9",
    sop_instance_uid=UID,
    digest="d1",
    began=10.0,
    status=0x0000,
    answered=10.5,
)
ROW = LedgerInstance(
    number=1,
    ae_title="NEWEST",
    study_instance_uid="2.25.9",
    sop_instance_uid=UID,
    state="reclaimed",
    storage_key=STORED,
    is_replaced=False,
    received=10.2,
    changed=40.0,
)
JOBS = tuple(
    LedgerJob(
        job_id=f"job-{number}",
        name="NEWEST-1",
        ae_title="NEWEST",
        pipeline=pipeline,
        state="submitted",
        platform_job=f"platform-job-{number}",
        instances=(1,),
    )
    for number, pipeline in enumerate(AE_TITLES["NEWEST"].pipelines)
)
STARTED = tuple(
    PlatformJob(
        job_id=job.platform_job,
        adapter_job=job.job_id,
        pipeline=job.pipeline,
        is_started=True,
        created=20.0,
        files=(PlatformFile(sop_instance_uid=UID, digest="d1"),),
    )
    for job in JOBS
)
GOOD = Evidence(sent=(SENT,), platform_jobs=STARTED, instances=(ROW,), jobs=JOBS, stored=frozenset())

Change = Callable[[Evidence], Evidence]


def rules(evidence: Evidence) -> set[str]:
    """Return the names of the broken rules."""
    return {finding.rule for finding in count(evidence)}


def first_started(**changes: Any) -> Change:
    """Return a change of the first started job."""
    return lambda good: evolve(good, platform_jobs=(evolve(STARTED[0], **changes), STARTED[1]))


def first_job(**changes: Any) -> Change:
    """Return a change of the ledger's first job."""
    return lambda good: evolve(good, jobs=(evolve(JOBS[0], **changes), JOBS[1]))


def row(**changes: Any) -> Change:
    """Return a change of the instance's row."""
    return lambda good: evolve(good, instances=(evolve(ROW, **changes),))


def sent(**changes: Any) -> Change:
    """Return a change of the C-STORE request."""
    return lambda good: evolve(good, sent=(evolve(SENT, **changes),))


def also_sent(**changes: Any) -> Change:
    """Return a change that adds another request after the first one."""
    return lambda good: evolve(good, sent=(SENT, evolve(SENT, **{"began": 11.0, **changes})))


def also_started(**changes: Any) -> Change:
    """Return a change that adds another job on the platform."""
    return lambda good: evolve(good, platform_jobs=(*STARTED, evolve(STARTED[0], job_id="another", **changes)))


ORPHAN = {"kind": "object-without-row", "text": "object k9 belongs to no instance", "storageKey": "k9"}
OUTAGES = (Outage(began=20.0, ended=30.0),)
WITHOUT_LEDGER = {
    "event": "worker_failed",
    "error": "LedgerReplaced at connection.py:84",
    "timestamp": "1970-01-01T00:00:25.000000Z",
}
REFUSED_START = "error: /disk has no storage of dicom-adapter: it is new, or its disk is not mounted. Mount the disk"
OTHER_BYTES = (PlatformFile(sop_instance_uid=UID, digest="d2"),)


def with_quarantined_duplicate(**changes: Any) -> Change:
    """Return a change: another data set of the instance was sent to an AE title that does not overwrite."""

    def change(good: Evidence) -> Evidence:
        both = tuple(evolve(one, ae_title="SERIES") for one in also_sent(digest="d2", checksum=2)(good).sent)
        held = evolve(ROW, number=99, state="quarantined", ae_title="SERIES", **{"checksum": 2, **changes})
        first = evolve(ROW, number=98, state="pending", ae_title="SERIES", checksum=0)
        return evolve(GOOD, sent=both, instances=(first, held), platform_jobs=(), jobs=(), stored=frozenset({STORED}))

    return change


WRONG: dict[str, tuple[Change, str]] = {
    "an instance is in no job": (first_started(files=()), "acknowledged"),
    "another data set than the acknowledged one is quarantined": (
        with_quarantined_duplicate(checksum=3),
        "acknowledged",
    ),
    "a job was never started": (first_started(is_started=False), "acknowledged"),
    "an instance sent again is in no later job": (also_sent(began=30.0), "acknowledged"),
    "a job has bytes that were not sent": (first_started(files=OTHER_BYTES), "payloads"),
    "a refused instance is in a job": (sent(status=0xA700), "payloads"),
    "an instance of another AE title is in a job": (sent(ae_title="STUDIES"), "payloads"),
    "a job has a file twice": (first_started(files=STARTED[0].files * 2), "payloads"),
    "a job of the ledger was started twice": (also_started(), "one job"),
    "an unknown job was started": (also_started(adapter_job="unknown"), "one job"),
    "another job than the ledger's was started": (first_job(platform_job="another"), "one job"),
    "a job is faulted": (first_job(state="faulted"), "one job"),
    "an instance is in two jobs of one pipeline": (also_started(adapter_job="job-9"), "once"),
    "a row that became jobs is not in one of them": (first_job(instances=()), "once"),
    "a row that was replaced is in jobs": (row(is_replaced=True), "once"),
    "a pending row is in jobs": (row(state="pending"), "once"),
    "a row lacks its object": (row(state="released"), "objects"),
    "a reception never ended": (lambda good: evolve(good, unfinished=("k9.part",)), "objects"),
    "the audit finds something": (
        lambda good: evolve(good, audit=({"kind": "balance", "text": "1 is not accounted for"},)),
        "audit",
    ),
    "the audit finds no orphan where there is one": (lambda good: evolve(good, stored=frozenset({"k9"})), "audit"),
    "the audit finds an orphan where there is none": (lambda good: evolve(good, audit=(ORPHAN,)), "audit"),
    "something was printed": (lambda good: evolve(good, log=({"event": "text", "text": "Traceback"},)), "health"),
    "a start was refused although there was no outage": (
        lambda good: evolve(good, log=({"event": "text", "text": REFUSED_START},)),
        "health",
    ),
    "a worker could not use the ledger for another reason": (
        lambda good: evolve(good, log=({**WITHOUT_LEDGER, "error": "LedgerUnavailable at ledger.py:1 write"},)),
        "health",
    ),
    "a worker failed after an outage of the disk": (
        lambda good: evolve(
            good, log=({**WITHOUT_LEDGER, "timestamp": "1970-01-01T00:00:33.500000Z"},), outages=OUTAGES
        ),
        "health",
    ),
    "a worker failed in an outage for another reason": (
        lambda good: evolve(good, log=({**WITHOUT_LEDGER, "error": "KeyError at worker.py:1"},), outages=OUTAGES),
        "health",
    ),
    "something was created on the mount point": (lambda good: evolve(good, on_mount_point=("data",)), "mount"),
    "a submitter has a bug": (
        lambda good: evolve(good, log=({"event": "job_faulted", "error": "bug in submitter 'grpc': KeyError"},)),
        "health",
    ),
}

RIGHT: dict[str, Change] = {
    "everything is right": lambda good: good,
    "the response was lost": sent(status=None),
    "a duplicate was merged": also_sent(),
    "a duplicate with another data set is quarantined": with_quarantined_duplicate(),
    "a newer arrival replaced the instance": lambda good: evolve(
        also_sent(digest="d2")(good), platform_jobs=tuple(evolve(job, files=OTHER_BYTES) for job in STARTED)
    ),
    "a job was created twice and started once": also_started(is_started=False),
    "the instance is quarantined": lambda good: evolve(
        good,
        platform_jobs=(),
        jobs=(),
        instances=(evolve(ROW, state="quarantined"),),
        stored=frozenset({STORED}),
    ),
    "a crash left an object": lambda good: evolve(good, stored=frozenset({"k9"}), audit=(ORPHAN,)),
    "a service gave up": lambda good: evolve(
        good, log=({"event": "service_not_started", "reason": "the host ended with status -9; the log says why"},)
    ),
    "a start was refused in an outage of the disk": lambda good: evolve(
        good, log=({"event": "text", "text": f"{REFUSED_START}\n{REFUSED_START}"},), outages=OUTAGES
    ),
    "a step waited too long for the ledger": lambda good: evolve(
        good, log=({**WITHOUT_LEDGER, "error": "LedgerUnavailable at ledger.py:1 write > ledger.py:2 _acquire"},)
    ),
    "a folder was lost while it was listed": lambda good: evolve(
        good, log=({**WITHOUT_LEDGER, "error": "FileNotFoundError at pathlib.py:1 glob"},), outages=OUTAGES
    ),
    "a worker failed in an outage of the disk": lambda good: evolve(good, log=(WITHOUT_LEDGER,), outages=OUTAGES),
    "the platform sent garbage": lambda good: evolve(
        good, log=({"event": "library_message", "logger": "grpc._common", "text": "Exception deserializing message!"},)
    ),
    "the platform refused a job": lambda good: evolve(good, log=({"event": "job_faulted", "error": "job 1: refused"},)),
}


@pytest.mark.parametrize(("change", "rule"), WRONG.values(), ids=WRONG.keys())
def test_every_error_is_found(change: Change, rule: str) -> None:
    """The rule that is broken is among the findings."""
    assert rule in rules(change(GOOD))


@pytest.mark.parametrize("change", RIGHT.values(), ids=RIGHT.keys())
def test_correct_behaviour_is_no_finding(change: Change) -> None:
    assert set() == rules(change(GOOD))


def test_orphans_are_objects_that_no_row_needs() -> None:
    """A stored object without a row, or with a reclaimed row, is an orphan. An object with a quarantined row is not."""
    evidence = evolve(row(state="quarantined")(GOOD), stored=frozenset({STORED, "k9"}))
    assert {"k9"} == orphans(evidence)
    assert {STORED, "k9"} == orphans(evolve(GOOD, stored=evidence.stored))
