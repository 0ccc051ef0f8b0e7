"""The count: acknowledged instances compared with started jobs, pending and quarantined instances. Pure functions.

    acknowledged   for each pipeline of its AE title, every acknowledged instance is in a started job that was created
                   after the instance was sent, with the same bytes (or the bytes of a newer arrival, if the AE title
                   overwrites); or it is pending or quarantined, with the same bytes unless the AE title overwrites
    once           an instance is in the n-th started job of a pipeline only if it was sent at least n times before
                   this job was created; each ledger row that became jobs is in one job of each pipeline, every other
                   row in none
    one job        each job of the ledger is submitted, or succeeded if it is followed, and is one started job of the
                   platform; the platform has no other started jobs
    payloads       a started job has the instances of its ledger job, all of which were sent to its AE title and not
                   refused, bit for bit
    objects        a row that is not reclaimed has its stored object
    audit          `dicom-adapter audit` finds the orphans that this count finds, and nothing else
    health         the log has no event of a defect
    mount          nothing was created on the mount point of the disk while it was not mounted

The first two rules do not apply to an AE title of the cache, whose rules are in `count_cache`. The runs of commands and
the folders of deliveries are jobs of a platform, too; the rules about results are in `count_results`.

A finding may show UIDs and ids, because they are synthetic: no patient has them.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from faults import count_cache, count_results
from faults.adapter import AE_TITLES, COMMANDS
from faults.evidence import Evidence, LedgerJob, PlatformFile, PlatformJob
from faults.lookup import WAITING, Finding, Lookup, look_up
from faults.records import Sent

ORPHAN = "object-without-row"  # the kind of the audit's finding for an orphan
# Reasons of a failed start that are no defect: a process was killed during the start, or a process of the run before
# still uses the data folder or the port.
EXPECTED_REASON = re.compile(
    r"the (host|receiver) ended with status -9; .*|another dicom-adapter .*is already .*|cannot listen on .*"
)
WITHOUT_DISK = re.compile(  # in the error or reason of an event while the disk is not mounted
    r"LedgerReplaced|StorageReplaced|StorageUnavailable|LedgerUnavailable|mount the disk|Mount the disk|is missing"
    r"|FileNotFoundError at pathlib"  # the disk was lost between two steps of listing a folder
)
# A step waited too long for other threads of its process, on a busy machine, and is repeated. `report` counts them: an
# idle machine has none.
BUSY_LEDGER = re.compile(r"LedgerUnavailable at .* _acquire")
REFUSED_START = re.compile("error: .* has no storage of dicom-adapter: .*|error: .* is missing or empty, .*")
REACTION_SECONDS = 2.0  # from the end of an outage to the last event that it causes, on a busy machine
LOGGER_OF_UNREADABLE_RESPONSES = "grpc._common"  # of gRPC; the platform's fault `garbage` causes such responses
DEFECTS = {  # log events that neither kills nor faults of the platform cause
    "text",  # a line that is not an event
    "process_output",
    "library_message",
    "library_warning",
    "exception_uncaught",
    "exception_ignored",
    "service_not_started",
    "worker_failed",
    "processor_failed",
    "processor_close_failed",
    "processor_waiting_failed",
    "submitter_close_failed",
    "turn_not_committed",
    "lane_stopped",
    "store_failed",
    "stored_object_deletion_failed",
    "observer_failed",
    "plugin_load_failed",
}


def count(evidence: Evidence) -> list[Finding]:
    """Return all findings."""
    lookup = look_up(evidence)
    rules: Mapping[str, Callable[[Evidence, Lookup], Iterator[str]]] = {
        "acknowledged": _lost,
        "once": _too_often,
        "one job": _wrong_jobs,
        "payloads": _wrong_payloads,
        "objects": _missing_objects,
        "audit": _audited,
        "health": _defects,
        "mount": _on_mount_point,
        "results": count_results.wrong_results,
        "arrived": count_results.wrong_arrivals,
    }
    findings = [(name, what) for name, rule in rules.items() for what in rule(evidence, lookup)]
    return [Finding(rule=name, what=what) for name, what in (*findings, *count_cache.findings(evidence, lookup))]


def orphans(evidence: Evidence) -> frozenset[str]:
    """Return the stored objects that no row needs: a crash occurred between the object and its row."""
    return evidence.stored - _needed(evidence)


# --- the rules ------------------------------------------------------------------------------------------------------


def _lost(evidence: Evidence, lookup: Lookup) -> Iterator[str]:
    for request in evidence.sent:
        ae_title, uid = request.ae_title, request.sop_instance_uid
        if AE_TITLES[ae_title].submits_on_request or not request.is_acknowledged:
            continue
        waiting = [row for row in lookup.rows.get((ae_title, uid), ()) if row.state in WAITING]
        if any(row.checksum == request.checksum or AE_TITLES[ae_title].overwrites for row in waiting):
            continue
        wanted = {
            PlatformFile(sop_instance_uid=uid, digest=digest)
            for digest in _acceptable_digests(request, lookup.sent[ae_title, uid])
        }
        for pipeline in AE_TITLES[ae_title].pipelines:
            jobs = lookup.holding.get((pipeline, uid), ())
            if not any(job.created > request.began and wanted & set(job.files) for job in jobs):
                yield f"instance {uid}, acknowledged for {ae_title}, is in no started job of pipeline {pipeline}"


def _acceptable_digests(request: Sent, all_sent: list[Sent]) -> set[str]:
    """Return the digests that may be in a job for this request: that of the request or, with overwriting, a later one.

    A request without a response may be stored later than a request that was sent after it.
    """
    digests = {request.digest}
    if AE_TITLES[request.ae_title].overwrites:
        digests |= {
            later.digest
            for later in all_sent
            if later.may_be_kept and (later.began > request.began or later.status is None)
        }
    return digests


def _too_often(evidence: Evidence, lookup: Lookup) -> Iterator[str]:
    for (ae_title, uid), requests in lookup.sent.items():
        for pipeline in () if AE_TITLES[ae_title].submits_on_request else AE_TITLES[ae_title].pipelines:
            jobs = lookup.holding.get((pipeline, uid), [])
            for number, job in enumerate(jobs, start=1):  # in the order of their creation
                times_sent = sum(request.may_be_kept and request.began < job.created for request in requests)
                if times_sent < number:
                    yield f"instance {uid} of {ae_title} is in too many jobs of pipeline {pipeline}: {job.job_id}"
    yield from _rows_and_jobs(evidence, lookup)


def _rows_and_jobs(evidence: Evidence, lookup: Lookup) -> Iterator[str]:
    pipelines: dict[int, list[str]] = defaultdict(list)
    for job in evidence.jobs:
        for number in job.instances:
            pipelines[number].append(job.pipeline)
    for row in evidence.instances:
        if AE_TITLES[row.ae_title].submits_on_request or row.is_result:
            continue
        became_jobs = row.state not in WAITING and not row.is_replaced
        wanted = sorted(AE_TITLES[row.ae_title].pipelines) if became_jobs else []
        if wanted != sorted(pipelines[row.number]):
            yield f"{row.state} instance {row.number} of {row.ae_title} is in jobs of {sorted(pipelines[row.number])}"


def _wrong_jobs(evidence: Evidence, lookup: Lookup) -> Iterator[str]:
    times = Counter(job.adapter_job for job in lookup.started)
    for ledger_job in evidence.jobs:
        if count_results.is_delivery_to_product(ledger_job):
            continue  # a product has no jobs: a rule about results
        if ledger_job.state != _last_state(ledger_job):
            yield f"job {ledger_job.job_id} is {ledger_job.state}"
        if times[ledger_job.job_id] != 1:
            yield f"job {ledger_job.job_id} was started {times[ledger_job.job_id]} times"
    for platform_job in lookup.started:
        started = f"platform job {platform_job.job_id}"
        job = lookup.jobs.get(platform_job.adapter_job)
        if job is None:
            yield f"{started} was started without a job of the ledger ('{platform_job.adapter_job}')"
        elif job.platform_job != platform_job.job_id:
            yield f"{started} was started for job {job.job_id}, which has platform job {job.platform_job}"
        elif job.pipeline != platform_job.pipeline:
            yield f"{started} has pipeline {platform_job.pipeline}, but job {job.job_id} has pipeline {job.pipeline}"


def _last_state(job: LedgerJob) -> str:
    is_followed = job.ae_title == COMMANDS and job.pipeline != count_results.DELIVERY
    return "succeeded" if is_followed else "submitted"


def _wrong_payloads(evidence: Evidence, lookup: Lookup) -> Iterator[str]:
    for platform_job in lookup.started:
        ledger_job = lookup.jobs.get(platform_job.adapter_job)
        if ledger_job is None:
            continue  # a finding of another rule
        wanted = sorted(lookup.by_number[number].sop_instance_uid for number in ledger_job.instances)
        if wanted != sorted(file.sop_instance_uid for file in platform_job.files):
            yield f"platform job {platform_job.job_id} has other instances than job {ledger_job.job_id}"
        if len(set(wanted)) != len(wanted):
            yield f"job {ledger_job.job_id} has an instance twice"
        if ledger_job.pipeline == count_results.DELIVERY:
            continue  # what was delivered is compared with the results
        yield from _wrong_files(platform_job, ledger_job, lookup)


def _wrong_files(platform_job: PlatformJob, ledger_job: LedgerJob, lookup: Lookup) -> Iterator[str]:
    """Yield the files that were not sent to the AE title of the job, or not accepted, before the job was created."""
    for file in platform_job.files:
        subject = f"platform job {platform_job.job_id} has instance {file.sop_instance_uid}"
        requests = lookup.sent.get((ledger_job.ae_title, file.sop_instance_uid), [])
        fitting = [request for request in requests if request.digest == file.digest]
        if not fitting:
            yield f"{subject} with bytes that were not sent"
        elif not any(request.may_be_kept for request in fitting):
            yield f"{subject}, which was refused"
        elif not any(request.may_be_kept and request.began < platform_job.created for request in fitting):
            yield f"{subject}, which was sent only after the job was created"


def _missing_objects(evidence: Evidence, lookup: Lookup) -> Iterator[str]:
    for key in sorted(_needed(evidence) - evidence.stored):
        yield f"the stored object {key} is missing"
    for name in evidence.unfinished:
        yield f"the data of {name}, an instance whose reception never ended, was not deleted"


def _needed(evidence: Evidence) -> frozenset[str]:
    return frozenset(row.storage_key for row in evidence.instances if row.state != "reclaimed")


def _audited(evidence: Evidence, lookup: Lookup) -> Iterator[str]:
    for finding in evidence.audit:
        if finding["kind"] != ORPHAN:
            yield finding["text"]
    audited = {finding["storageKey"] for finding in evidence.audit if finding["kind"] == ORPHAN}
    for key in sorted(audited ^ orphans(evidence)):
        yield f"object {key} is an orphan only in {'the audit' if key in audited else 'this count'}"


def _defects(evidence: Evidence, lookup: Lookup) -> Iterator[str]:
    for entry in evidence.log:
        is_expected = EXPECTED_REASON.fullmatch(entry.get("reason", "")) or _is_caused_by_outage(entry, evidence)
        is_expected = is_expected or entry.get("logger") == LOGGER_OF_UNREADABLE_RESPONSES or is_busy(entry)
        if (entry["event"] in DEFECTS and not is_expected) or "bug in submitter" in entry.get("error", ""):
            yield str(dict(entry))


def is_busy(entry: Mapping[str, Any]) -> bool:
    """Return whether a step waited too long for the ledger."""
    return entry["event"] == "worker_failed" and bool(BUSY_LEDGER.fullmatch(entry.get("error", "")))


def _is_caused_by_outage(entry: Mapping[str, Any], evidence: Evidence) -> bool:
    """Return whether the cause of a defect may be that the disk was not mounted."""
    if entry["event"] == "text":  # it has no time
        return bool(evidence.outages) and all(map(REFUSED_START.fullmatch, entry["text"].splitlines()))
    if not WITHOUT_DISK.search(f"{entry.get('error', '')} {entry.get('reason', '')}"):
        return False
    at = datetime.fromisoformat(entry["timestamp"].replace("Z", "+00:00")).timestamp()
    return any(outage.began <= at <= outage.ended + REACTION_SECONDS for outage in evidence.outages)


def _on_mount_point(evidence: Evidence, lookup: Lookup) -> Iterator[str]:
    for path in evidence.on_mount_point:
        yield f"{path} was created without the disk"
