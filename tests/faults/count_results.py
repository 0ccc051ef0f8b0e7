"""The count of results: what the commands have written, compared with what was delivered. Pure functions.

    results   each result of a succeeded job is in exactly one delivered folder, as the command has written it, or it is
              quarantined; nothing else was delivered

The rules "one job" and "payloads" also apply to the jobs of commands, and to deliveries: each command has run once, and
each delivery is one folder with the results of its job.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from faults.evidence import Evidence
from faults.lookup import Lookup

DELIVERY = "results"  # the pipeline of deliveries


def by_state(evidence: Evidence) -> Counter[str]:
    """Return the number of collected results in each state."""
    return Counter(row.state for row in evidence.instances if row.is_result)


def wrong_results(evidence: Evidence, lookup: Lookup) -> Iterator[str]:
    """Return the violations."""
    delivered = Counter(file for job in lookup.started if job.pipeline == DELIVERY for file in job.files)
    held = {row.sop_instance_uid for row in evidence.instances if row.is_result and row.state == "quarantined"}
    for job in evidence.jobs:
        if job.state == "succeeded":
            for file in evidence.results.get(job.job_id, ()):
                times = delivered.pop(file, 0)
                if times + (file.sop_instance_uid in held) != 1:
                    yield f"result {file.sop_instance_uid} of job {job.job_id} was delivered {times} times"
    for file in delivered:
        yield f"instance {file.sop_instance_uid} was delivered, and is no result of a succeeded job"
