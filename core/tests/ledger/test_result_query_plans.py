"""The queries of results stay fast in a ledger with a million instances: each of them uses an index.

Verified to fail without the index `newest_results`, and when `newest` does not sort quarantined results.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone

import pytest

from dicom_adapter import InstanceStorageInfo, Job, JobState
from dicom_adapter.ledger import Ledger, attachments, instances, jobs, results
from dicom_adapter.ledger.attachments import Attachment
from dicom_adapter.ledger.filters import Filters
from dicom_adapter.ledger.results import NewResult
from dicom_adapter.ledger.schema import InstanceState
from support.query_plans import Query, plan_of, plans_of

NOW = datetime(2026, 1, 5, 8, 0, 0, tzinfo=timezone.utc)


@pytest.fixture
def large_ledger(ledger: Ledger, an_instance: Callable[..., InstanceStorageInfo], a_job: Callable[..., Job]) -> Ledger:
    """Return a ledger with many received instances, some results, and an attachment."""
    with ledger.write() as transaction:
        for _ in range(200):
            instances.insert(transaction, an_instance())
        jobs.insert(transaction, a_job(state=JobState.SUCCEEDED), [1])
        new = [NewResult(instance=an_instance(), name="a.dcm", reason=reason) for reason in ("", "", "wrong")]
        results.insert(transaction, 1, new, None)
        attachment = Attachment(instance_id=0, job_number=1, name="b", storage_key="f" * 32, size_bytes=1, checksum=2)
        attachments.insert(transaction, [attachment])
    return ledger


def newest(**conditions: object) -> Query:
    return lambda transaction: results.newest(transaction, 50, **conditions)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (newest(), "newest_results"),
        (newest(state=InstanceState.RECLAIMED), "newest_results"),
        (newest(reason="wrong"), "newest_results"),
        (newest(filters=Filters(ae_title="LUNG", since=NOW)), "newest_results"),
        (newest(filters=Filters(calling_ae_title="CT1", until=NOW)), "newest_results"),
        (newest(state=InstanceState.RELEASED), "released_instances"),
        (newest(state=InstanceState.RELEASED, filters=Filters(ae_title="LUNG")), "released_instances"),
        (newest(state=InstanceState.QUARANTINED), "quarantined_instances"),
        (newest(state=InstanceState.QUARANTINED, reason="wrong"), "quarantined_instances"),
        (newest(state=InstanceState.PENDING), "pending_instances"),
        (newest(job_number=1), "results_of_job"),
        (newest(job_number=1, state=InstanceState.RELEASED), "results_of_job"),
        (newest(filters=Filters(sop_instance_uid="2.25.7")), "results_by_uid"),
        (newest(filters=Filters(study_instance_uid="2.25.7")), "instances_of_study"),
        (newest(filters=Filters(accession_number="A1")), "instances_of_study"),
        (newest(state=InstanceState.RELEASED, filters=Filters(patient_id="P1")), "instances_of_study"),
        (lambda t: results.find(t, [201, 202]), "PRIMARY"),
        (lambda t: results.returned(t, "LUNG", 1, 200), "results_by_uid"),
        (lambda t: results.with_uids(t, 1, ["2.25.7"]), "arrivals_of_instance"),
        (lambda t: results.with_content(t, 1000, 2), "results_by_checksum"),
        (lambda t: results.patients_of_job(t, 1), "sqlite_autoindex_job_instances_1"),
        (lambda t: results.deliveries(t, 201), "ix_job_instances_instance_id"),
        (lambda t: results.needed(t, [201]), "ix_job_instances_instance_id"),
        (lambda t: results.release(t, [203], NOW, {}), "PRIMARY"),
        (lambda t: results.keep(t, [201], NOW), "PRIMARY"),
        (lambda t: attachments.of_job(t, 1), "ix_attachments_job_number"),
        (lambda t: attachments.without_job(t, 500), "ix_attachments_job_number"),
        (lambda t: attachments.after(t, 1, 500), "PRIMARY"),
        (lambda t: attachments.with_content(t, 1, 2), "attachments_by_checksum"),
        (lambda t: attachments.delete_rows(t, [1]), "PRIMARY"),
    ],
)
def test_a_query_of_results_uses_its_index(large_ledger: Ledger, query: Query, index: str) -> None:
    """No table is read from its beginning to its end."""
    plan = plan_of(large_ledger, query)
    assert any(index in line.split() for line in plan), plan
    assert [] == [line for line in plan if line.startswith("SCAN") and "INDEX" not in line], plan


@pytest.mark.parametrize("state", [None, InstanceState.RELEASED, InstanceState.RECLAIMED])
def test_the_newest_results_are_found_without_sorting(large_ledger: Ledger, state: InstanceState | None) -> None:
    """There may be many of them, and only the first ones are listed."""
    assert [] == [line for line in plan_of(large_ledger, newest(state=state)) if "TEMP B-TREE" in line]


def test_entering_results_reads_no_other_rows(
    large_ledger: Ledger, an_instance: Callable[..., InstanceStorageInfo]
) -> None:
    new = [NewResult(instance=an_instance(), name="a.dcm")]
    plans = plans_of(large_ledger, lambda transaction: results.insert(transaction, 1, new, None))
    assert plans
    assert [] == [line for plan in plans for line in plan if line.startswith("SCAN")], plans
