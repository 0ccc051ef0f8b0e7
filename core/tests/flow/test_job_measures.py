"""The counts of jobs, and the times from the last arrival to the delivery of results."""

from __future__ import annotations

from collections.abc import Callable

from dicom_adapter import Retriable
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.submit import operators
from dicom_adapter.runtime.measures import (
    ARRIVAL_TO_JOB,
    JOB_RETRIES,
    JOB_TO_RESULT,
    JOBS_CREATED,
    JOBS_ENDED,
    RESULT_TO_DELIVERY,
    TURN,
    Measure,
)
from dicom_adapter.runtime.shared_counts import NANOSECONDS
from dicom_adapter.testing import Adapter
from support.results import CONFIGURATION, Site, output

MakeAdapter = Callable[..., Adapter]
Labels = tuple[str, ...]


def values(adapter: Adapter, measure: Measure) -> dict[Labels, tuple[int, ...]]:
    return {one.labels: one.values for one in adapter.resources.counts.series() if one.name == measure.name}


def seconds(adapter: Adapter, measure: Measure) -> dict[Labels, tuple[int, float]]:
    """Return the number and the sum of the durations, by labels."""
    return {
        labels: (sum(buckets), total / NANOSECONDS) for labels, (*buckets, total) in values(adapter, measure).items()
    }


def test_the_times_from_arrival_to_delivery_are_measured(make_adapter: MakeAdapter) -> None:
    """The results and their deliveries are counted once, although the platform is polled several times."""
    site = Site(make_adapter(CONFIGURATION))
    site.adapter.receive(make_instance(seed="study", instance_number=1))
    site.adapter.advance(2)
    job = site.end_job({"a.dcm": output()})
    site.adapter.advance(600)
    name, pipeline, adapter = job.ae_title, job.pipeline_id, site.adapter
    (waited,) = seconds(adapter, ARRIVAL_TO_JOB).values()
    assert {(name, pipeline)} == seconds(adapter, ARRIVAL_TO_JOB).keys()
    assert (1, (job.created_at - adapter.started_at).total_seconds() - 2) == waited
    results = {(name, pipeline): (1, (job.changed_at - job.created_at).total_seconds())}
    assert results == seconds(adapter, JOB_TO_RESULT)
    deliveries = {
        (name, one.submitter): (1, (one.changed_at - one.created_at).total_seconds()) for one in site.deliveries
    }
    assert deliveries == seconds(adapter, RESULT_TO_DELIVERY)
    assert {
        (name, job.submitter, "succeeded"): (1,),
        (name, "pacs", "submitted"): (1,),
        (name, "archive", "submitted"): (1,),
    } == values(adapter, JOBS_ENDED)
    assert {(name, one.submitter, one.pipeline_id): (1,) for one in [job, *site.deliveries]} == values(
        adapter, JOBS_CREATED
    )
    assert seconds(adapter, TURN)[(name,)][0] >= 2


def test_retries_and_cancelled_jobs_are_counted(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter('[ae-titles.LUNG]\nprocessor = "by-study"\n[ae-titles.LUNG.settings]\npipeline-a = "p"\n')
    adapter.platform.fail("create_job", Retriable("down"), times=4)
    adapter.receive(make_instance())
    adapter.advance(20)
    (job,) = adapter.jobs
    assert {("LUNG", "memory"): (job.attempts,)} == values(adapter, JOB_RETRIES)
    operators.cancel(adapter.ledger, adapter.clock, job.job_id)
    adapter.advance(600)
    assert {("LUNG", "memory", "cancelled"): (1,)} == values(adapter, JOBS_ENDED)
