"""The count of results: what the commands have written, compared with what was delivered. Pure functions.

    results   each result of a succeeded job is in exactly one delivered folder, as the command has written it, or it is
              quarantined; nothing else was delivered
    arrived   each product has each result of a succeeded job that is not quarantined once, with the same data set, or
              the delivery of this result to this product is held; the product has nothing else

A delivery is *held* if its job is not finished, or faulted or failed: an operator sees it. The report names these jobs.

The rules "one job" and "payloads" also apply to the jobs of commands, and to deliveries to the folder: each command has
run once, and each delivery is one folder with the results of its job. Products have no jobs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from faults.commands import DESTINATION
from faults.evidence import Evidence, LedgerJob, PlatformFile
from faults.lookup import Lookup

DELIVERY = "results"  # the pipeline of deliveries
DELIVERED = "submitted"  # the last state of a delivery
NOT_HELD = (DELIVERED, "cancelled")


def is_delivery_to_product(job: LedgerJob) -> bool:
    """Return whether a job delivers results to a product, not to the folder."""
    return job.pipeline == DELIVERY and job.submitter != DESTINATION


def held(evidence: Evidence) -> list[LedgerJob]:
    """Return the deliveries to products that are held."""
    return [job for job in evidence.jobs if is_delivery_to_product(job) and job.state not in NOT_HELD]


def by_state(evidence: Evidence) -> Counter[str]:
    """Return the number of collected results in each state."""
    return Counter(row.state for row in evidence.instances if row.is_result)


def wrong_results(evidence: Evidence, lookup: Lookup) -> Iterator[str]:
    """Return the violations of the rule about the folder."""
    delivered = Counter(file for job in lookup.started if job.pipeline == DELIVERY for file in job.files)
    quarantined = _quarantined(evidence)
    for job in evidence.jobs:
        if job.state == "succeeded":
            for file in evidence.results.get(job.job_id, ()):
                times = delivered.pop(file, 0)
                if times + (file.sop_instance_uid in quarantined) != 1:
                    yield f"result {file.sop_instance_uid} of job {job.job_id} was delivered {times} times"
    for file in delivered:
        yield f"instance {file.sop_instance_uid} was delivered, and is no result of a succeeded job"


def wrong_arrivals(evidence: Evidence, lookup: Lookup) -> Iterator[str]:
    """Return the violations of the rule about products."""
    quarantined = _quarantined(evidence)
    for destination, files in evidence.arrived.items():
        jobs = [job for job in evidence.jobs if is_delivery_to_product(job) and job.submitter == destination]
        yield from _wrong_jobs(destination, jobs, evidence, quarantined)
        waiting = {
            lookup.by_number[number].sop_instance_uid
            for job in jobs
            if job.state not in NOT_HELD
            for number in job.instances
        }
        yield from _wrong_files(destination, files, evidence, quarantined, waiting)


def _wrong_jobs(destination: str, jobs: list[LedgerJob], evidence: Evidence, quarantined: set[str]) -> Iterator[str]:
    """Yield the jobs with results that have none, or several, delivery jobs to a product."""
    deliveries = Counter(job.source_job for job in jobs)
    for job in evidence.jobs:
        written = {file.sop_instance_uid for file in evidence.results.get(job.job_id, ())}
        wanted = int(job.state == "succeeded" and bool(written - quarantined))
        if deliveries[job.job_id] != wanted:
            yield f"{job.state} job {job.job_id} has {deliveries[job.job_id]} deliveries to {destination}"


def _wrong_files(
    destination: str, files: tuple[PlatformFile, ...], evidence: Evidence, quarantined: set[str], waiting: set[str]
) -> Iterator[str]:
    times = Counter(file.sop_instance_uid for file in files)
    digests = {file.sop_instance_uid: file.digest for file in files}
    for job in evidence.jobs:
        for file in evidence.results.get(job.job_id, ()) if job.state == "succeeded" else ():
            uid = file.sop_instance_uid
            result = f"result {uid} of job {job.job_id}"
            if uid in quarantined:
                continue  # if it has arrived, it is yielded below
            number = times.pop(uid, 0)
            if number == 0 and uid not in waiting:
                yield f"{result} is not in {destination}, and its delivery is not held"
            elif number > 1:
                yield f"{result} is {number} times in {destination}"
            elif number == 1 and digests[uid] != file.digest:
                yield f"{result} has another data set in {destination}"
    for uid in times:
        yield f"instance {uid} is in {destination}, and is no result of a succeeded job"


def _quarantined(evidence: Evidence) -> set[str]:
    return {row.sop_instance_uid for row in evidence.instances if row.is_result and row.state == "quarantined"}
