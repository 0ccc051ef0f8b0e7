"""Results of jobs, from the platform to their destinations."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, BinaryIO
from unittest.mock import Mock

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_adapter import Capacity, Job, JobState, Output, Permanent, Retriable, Upload
from dicom_adapter.api.errors import LedgerUnavailable
from dicom_adapter.api.values import SOURCE_JOB
from dicom_adapter.config.results import ResultsConfig
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.results import step
from dicom_adapter.flow.results.collect import Collector
from dicom_adapter.flow.results.operators import Requeue, discard
from dicom_adapter.flow.submit import operators
from dicom_adapter.ledger import balance
from dicom_adapter.ledger.schema import InstanceState
from dicom_adapter.operations.audit import Audit
from dicom_adapter.plugins.measured import unwrap
from dicom_adapter.testing import Adapter
from support.results import CONFIGURATION, STATUS_EVERY_S, WITHOUT_DESTINATION, Site, output

MakeAdapter = Callable[..., Adapter]


@pytest.fixture
def site(make_adapter: MakeAdapter) -> Site:
    return Site(make_adapter(CONFIGURATION))


def audit_problems(adapter: Adapter) -> int:
    """Return the number of findings of an audit."""
    return Audit(adapter.resources, is_running=lambda: False, verify=True).run().count


def test_each_destination_gets_each_result(site: Site) -> None:
    """Each destination has a job of its own, and the files are those that the pipeline made."""
    files = [output(1), output(2)]
    job = site.end_job({"a.dcm": files[0], "b/c.dcm": files[1]})
    assert JobState.SUCCEEDED is job.state
    assert files == site.delivered_to("pacs") == site.delivered_to("archive")
    assert [("pacs", job.job_id, "results", job.priority), ("archive", job.job_id, "results", job.priority)] == [
        (one.submitter, one.metadata[SOURCE_JOB], one.pipeline_id, one.priority) for one in site.deliveries
    ]
    assert 2 == len({one.name for one in site.deliveries})


def test_delivered_results_are_reclaimed(site: Site) -> None:
    site.end_job({"a.dcm": output()})
    site.adapter.advance(120)
    assert [(InstanceState.RECLAIMED, "submitted")] == [(row.state, row.outcome) for row in site.results]
    assert not list(site.adapter.storage.keys())


def test_results_are_not_delivered_to_the_processor_or_observers(site: Site) -> None:
    """The account of received instances does not change; results have an account of their own."""
    site.end_job({"a.dcm": output(1), "b.dcm": output(2, patient_id="OTHER")})
    assert 3 == len(site.adapter.jobs)  # the job and two deliveries
    with site.adapter.ledger.read() as transaction:
        (received,) = balance.load_accounts(transaction)
        (of_results,) = balance.load_accounts(transaction, of_results=True)
    assert (2, 0, 2, 1, 0) == (
        received.received,
        received.difference,
        of_results.received,
        of_results.quarantined,
        of_results.difference,
    )


def test_a_result_that_fails_the_check_is_quarantined_and_the_others_are_delivered(site: Site) -> None:
    good = output(1)
    site.end_job({"bad.dcm": output(2, patient_id="OTHER"), "good.dcm": good, "cut.dcm": output(3)[:-10]})
    assert [good] == site.delivered_to("pacs")
    held = [row for row in site.results if row.state is InstanceState.QUARANTINED]
    assert 2 == len(held)
    assert "its Patient ID is not that of the inputs of its study" == held[0].reason
    assert "ends in the middle" in held[1].reason
    assert 2 == len(site.events("result_quarantined"))
    assert not audit_problems(site.adapter)


@pytest.mark.parametrize("number", [1, 2])
def test_a_copy_of_an_input_is_quarantined(site: Site, number: int) -> None:
    """When the input is sent again, it is processed: it does not count as the return of the quarantined copy.

    Verified to fail when loop protection does not exclude results that were quarantined.
    """
    source = make_instance(seed="study", instance_number=number)
    site.end_job({"copy.dcm": output(sop_uid=source.SOPInstanceUID)})
    (row,) = site.results
    assert InstanceState.QUARANTINED is row.state
    assert "it has the SOP Instance UID of an input of the job" in row.reason
    assert 2 == site.start_job().instance_count


def test_the_same_output_of_a_later_job_is_quarantined(site: Site) -> None:
    site.end_job({"a.dcm": output(1)})
    site.end_job({"a.dcm": output(1)})
    assert ["", "it has the SOP Instance UID of an earlier result, instance 3"] == [row.reason for row in site.results]


def test_two_outputs_with_one_uid_are_not_both_delivered(site: Site) -> None:
    site.end_job({"a.dcm": output(1), "b.dcm": output(1)})
    assert 1 == len(site.delivered_to("pacs"))
    assert 1 == len([row for row in site.results if "another output of the job" in row.reason])


def test_files_that_are_not_dicom_are_attachments_until_the_job_is_deleted(site: Site) -> None:
    job = site.end_job({"report.json": b"{}" * 100, "empty": b"", "\ud800\0name.txt": b"text"})
    assert {("report.json", 200), ("empty", 0), ("??name.txt", 4)} == {
        (one.name, one.size_bytes) for one in site.attachments(job)
    }
    assert not site.deliveries
    site.adapter.advance(120)
    assert 3 == len(list(site.adapter.storage.keys()))
    assert not audit_problems(site.adapter)
    site.wait_days(31)
    assert not site.adapter.jobs
    assert not list(site.adapter.storage.keys())
    assert not audit_problems(site.adapter)


def test_results_without_a_destination_are_kept_for_the_history(make_adapter: MakeAdapter) -> None:
    site = Site(make_adapter(WITHOUT_DESTINATION))
    site.end_job({"a.dcm": output()})
    site.wait_days(29)
    assert [InstanceState.RELEASED] == [row.state for row in site.results]
    assert not audit_problems(site.adapter)
    site.wait_days(2)
    assert [(InstanceState.RECLAIMED, "unused")] == [(row.state, row.outcome) for row in site.results]


def test_results_are_kept_for_keep_days(make_adapter: MakeAdapter) -> None:
    site = Site(make_adapter(CONFIGURATION + "keep-days = 2\n"))
    site.end_job({"a.dcm": output()})
    site.wait_days(1.9)
    assert [InstanceState.RELEASED] == [row.state for row in site.results]
    site.wait_days(0.2)
    assert [InstanceState.RECLAIMED] == [row.state for row in site.results]


def test_counters_are_right_after_the_history_was_deleted(site: Site) -> None:
    site.end_job({"a.dcm": output()})
    site.wait_days(40)
    assert not site.results
    with site.adapter.ledger.read() as transaction:
        accounts = [*balance.load_accounts(transaction), *balance.load_accounts(transaction, of_results=True)]
    assert [(2, 0), (1, 0)] == [(account.received, account.difference) for account in accounts]


# --- failures ---------------------------------------------------------------------------------------------------------


def test_no_output_where_one_is_expected_is_a_failure(make_adapter: MakeAdapter) -> None:
    site = Site(make_adapter(CONFIGURATION + "expect-results = true\n"))
    job = site.end_job({})
    assert JobState.FAILED is job.state
    assert "without any output" in job.last_error
    assert JobState.SUCCEEDED is site.end_job({"a.json": b"{}"}, seed="another").state


def test_no_output_is_a_success_otherwise(site: Site) -> None:
    assert JobState.SUCCEEDED is site.end_job({}).state


@pytest.mark.parametrize(
    ("limit", "error"),
    [
        ('max-output = "5 kB"', "has more than max-output = 5000 bytes"),
        ('max-bytes = "9 kB"', "have more than max-bytes = 9000 bytes together"),
        ("max-outputs = 1", "has more outputs than max-outputs = 1"),
    ],
)
def test_outputs_beyond_a_limit_fault_the_job_until_the_limit_is_raised(
    make_adapter: MakeAdapter, limit: str, error: str
) -> None:
    """Nothing is kept or delivered. A retry collects the outputs of the same run."""
    site = Site(make_adapter(CONFIGURATION + limit))
    job = site.end_job({"a.dcm": output(1), "b.dcm": output(2)})
    assert JobState.FAULTED is job.state
    assert error in job.last_error
    assert not site.results
    assert 2 == len(list(site.adapter.storage.keys()))  # the inputs
    site.adapter.reload(CONFIGURATION)
    retry(site, job.job_id)
    assert (JobState.SUCCEEDED, 1) == (site.job(job).state, site.job(job).run)
    assert 2 == len(site.delivered_to("pacs"))


def retry(site: Site, job_id: str) -> None:
    operators.retry(site.adapter.ledger, site.adapter.clock, job_id)
    site.adapter.advance(STATUS_EVERY_S)


class Broken(io.RawIOBase):
    """A file whose second piece cannot be read."""

    def __init__(self, error: BaseException) -> None:
        self.error, self.pieces = error, 0

    def read(self, _size: int = -1) -> bytes:
        self.pieces += 1
        if self.pieces == 2:
            raise self.error
        return output()[:1000]


def returning(*files: Callable[[], Any]) -> Callable[[Any, Any], list[Output]]:
    return lambda _self, _job: [Output(name=f"{number}.dcm", open=file) for number, file in enumerate(files)]


def whole() -> BinaryIO:
    return io.BytesIO(output())


@pytest.mark.parametrize(
    ("error", "state", "text"),
    [
        (OSError(5, "I/O error"), JobState.RUNNING, "output 2 cannot be read (EIO)"),
        (Retriable("the platform is away"), JobState.RUNNING, "the platform is away"),
        (Permanent("the platform has lost it"), JobState.FAULTED, "the platform has lost it"),
        (ZeroDivisionError(), JobState.FAULTED, "bug in submitter 'platform': ZeroDivisionError"),
    ],
)
def test_an_output_that_cannot_be_read_keeps_nothing_of_the_job(
    site: Site, monkeypatch: pytest.MonkeyPatch, error: BaseException, state: JobState, text: str
) -> None:
    """A failure that may be temporary is retried; then everything is collected once."""
    submitter = site.adapter.host._submitters.in_use["platform"]
    target = type(unwrap(submitter))
    with monkeypatch.context() as patched:
        patched.setattr(target, "results", returning(whole, lambda: Broken(error)))
        job = site.end_job({})
        assert (state, True) == (job.state, text in job.last_error)
        assert not site.results
        assert 2 == len(list(site.adapter.storage.keys()))  # the inputs
    site.adapter.platform.end(job, outputs={"a.dcm": output()})
    retry(site, job.job_id)
    assert JobState.SUCCEEDED is site.job(job).state
    assert 1 == len(site.delivered_to("pacs"))


@pytest.mark.parametrize("call", ["writer", "sync", "capacity"])
def test_a_storage_that_fails_is_retried(site: Site, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    job = site.start_job()
    with monkeypatch.context() as patched:
        patched.setattr(site.adapter.storage, call, fail)
        site.end_job({"a.dcm": output()}, job)
        assert JobState.RUNNING is site.job(job).state
        assert "ENOSPC" in site.job(job).last_error
    site.adapter.advance(30)
    assert JobState.SUCCEEDED is site.job(job).state
    assert 1 == len(site.delivered_to("pacs"))
    assert not audit_problems(site.adapter)


def test_outputs_of_a_job_that_is_cancelled_while_they_are_collected_are_deleted(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing refers to their objects. Verified to fail without `Collected.abandoned`."""
    job, collect = site.start_job(), Collector.collect

    def collect_and_cancel(*arguments: Any) -> Any:
        collected = collect(*arguments)
        operators.cancel(site.adapter.ledger, site.adapter.clock, job.job_id)
        return collected

    monkeypatch.setattr(Collector, "collect", collect_and_cancel)
    site.end_job({"a.dcm": output(), "b.json": b"{}"}, job)
    site.adapter.advance(120)
    assert JobState.CANCELLED is site.job(job).state
    assert not list(site.adapter.storage.keys())


def test_each_attempt_that_the_ledger_refuses_deletes_its_outputs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that fails for hours must not fill the storage. Verified to fail without `Collected.abandoned`."""
    job = site.start_job()
    site.adapter.platform.end(job, outputs={"a.dcm": output(), "b.json": b"{}"})
    with monkeypatch.context() as patched:
        patched.setattr(step, "enter", Mock(side_effect=LedgerUnavailable("database is locked")))
        for _attempt in range(3):
            with suppress(LedgerUnavailable):
                site.adapter.advance(30)
        assert JobState.RUNNING is site.job(job).state
    site.adapter.advance(30)
    assert JobState.SUCCEEDED is site.job(job).state
    assert 1 == len(site.delivered_to("pacs")) == len(site.attachments(job))
    assert not audit_problems(site.adapter)


def test_results_leave_the_reserve_of_the_storage_free(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise results would stop the reception of instances."""
    site = Site(make_adapter('[storage]\npath = "data"\nreserve = "1 GB"\n' + CONFIGURATION))
    job = site.start_job()
    with monkeypatch.context() as patched:
        patched.setattr(site.adapter.storage, "capacity", lambda: Capacity(total_bytes=10**12, free_bytes=10**6))
        site.end_job({"a.dcm": output()}, job)
        assert "the outputs wait for free space" in site.job(job).last_error
    site.adapter.advance(30)
    assert JobState.SUCCEEDED is site.job(job).state


# --- the quarantine quota ---------------------------------------------------------------------------------------------


def test_the_reason_of_a_full_ae_title_names_the_commands_for_what_is_held(make_adapter: MakeAdapter) -> None:
    """Only results are quarantined, so the commands for instances would free no space."""
    adapter = make_adapter('[storage]\npath = "data"\nreserve = 0\nquarantine-quota = "5 kB"\n' + CONFIGURATION)
    site = Site(adapter)
    bad = output(1, patient_id="OTHER")
    site.end_job({"a.dcm": bad})
    adapter.advance(60)
    assert adapter.lanes["LUNG"].full_reason == (
        f"quarantine-quota = 5000 bytes is used up: {len(bad)} bytes by quarantined results; "
        "free space with `dicom-adapter results requeue` or `discard`"
    )
    without = CONFIGURATION.replace("[ae-titles.LUNG", "[ae-titles.HEAD")
    adapter.restart('[storage]\npath = "data"\n' + without)
    assert adapter.lanes["LUNG"].reason.startswith(
        "it is not configured; 0 pending, 0 quarantined instances and 1 quarantined results are held: "
    )


# --- deliveries -------------------------------------------------------------------------------------------------------


def test_a_destination_that_is_down_gets_the_results_later_and_the_other_gets_them_now(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = type(unwrap(site.adapter.host._submitters.in_use["pacs"]))
    upload = destination.upload

    def fail_at_the_pacs(submitter: Any, job: Job, file: Upload) -> None:
        if job.submitter == "pacs":
            raise Retriable("the PACS is down")
        upload(submitter, job, file)

    with monkeypatch.context() as patched:
        patched.setattr(destination, "upload", fail_at_the_pacs)
        site.end_job({"a.dcm": output()})
        site.adapter.advance(60)
        assert ([], [output()]) == (site.delivered_to("pacs"), site.delivered_to("archive"))
    site.adapter.advance(300)
    assert [output()] == site.delivered_to("pacs") == site.delivered_to("archive")


def test_a_faulted_delivery_keeps_its_results(site: Site) -> None:
    site.adapter.platform.fail("upload", Permanent("refused by the PACS"), times=1, pipeline_id="results")
    site.end_job({"a.dcm": output()})
    site.adapter.advance(600)
    faulted = [job for job in site.deliveries if job.state is JobState.FAULTED]
    assert [InstanceState.RELEASED] == [row.state for row in site.results]
    retry(site, faulted[0].job_id)
    site.adapter.advance(120)
    assert [InstanceState.RECLAIMED] == [row.state for row in site.results]
    assert 1 == len(site.delivered_to("pacs")) == len(site.delivered_to("archive"))


# --- loop protection --------------------------------------------------------------------------------------------------


def returned_result() -> Dataset:
    """Return the data set of `output(1)`, as a destination sends it back."""
    return dcmread(io.BytesIO(output(1)))


def test_a_result_that_comes_back_is_acknowledged_and_not_processed(site: Site) -> None:
    """Verified to fail without the look-up in the inbox: the result becomes a job of its own."""
    site.end_job({"a.dcm": output(1)})
    count = len(site.adapter.jobs)
    (result,) = site.adapter.receive(returned_result())
    assert result.outcome.is_acknowledged
    site.adapter.advance(600)
    assert count == len(site.adapter.jobs)
    assert [{"result": 3}] == site.events("result_returned")
    assert 0 == site.adapter.states.get("pending", 0)
    assert not audit_problems(site.adapter)


def test_a_new_study_beside_a_returned_result_is_processed(site: Site) -> None:
    site.end_job({"a.dcm": output(1)})
    count = len(site.adapter.jobs)
    site.adapter.receive(
        make_instance(seed="new", instance_number=1), returned_result(), make_instance(seed="new", instance_number=2)
    )
    site.adapter.advance(5)
    assert [2] == [job.instance_count for job in site.adapter.jobs[count:]]


def test_a_returned_result_is_not_processed_after_a_restart(site: Site) -> None:
    """The result arrives while the host is down."""
    site.end_job({"a.dcm": output(1)})
    count = len(site.adapter.jobs)
    with site.adapter.down():
        site.adapter.receive(returned_result())
    site.adapter.advance(600)
    assert count == len(site.adapter.jobs)


def force(site: Site) -> None:
    """Deliver all quarantined results, although they fail the check."""
    numbers = [row.instance.instance_id for row in site.results if row.state is InstanceState.QUARANTINED]
    settings = {"LUNG": ResultsConfig(to=("pacs", "archive"))}
    requeue = Requeue(
        resources=site.adapter.resources,
        settings=settings,
        known={},
        history=timedelta(days=30),
        by="operator",
        force=True,
    )
    assert numbers == requeue.run(numbers).done
    site.adapter.advance(120)


def jobs_after(site: Site, *arrivals: Dataset) -> list[int]:
    """Return the number of instances of each job that begins because of these arrivals."""
    before = {job.job_id for job in site.adapter.jobs}  # the history may delete some of them meanwhile
    for answer in site.adapter.receive(*arrivals):
        assert answer.outcome.is_acknowledged
    site.adapter.advance(600)
    return [job.instance_count for job in site.adapter.jobs if job.job_id not in before]


def test_a_result_that_was_delivered_by_force_is_not_processed_when_it_comes_back(site: Site) -> None:
    """Verified to fail when loop protection excludes all results that failed the check."""
    wrong = {"patient_id": "OTHER"}
    site.end_job({"a.dcm": output(1, **wrong)})
    force(site)
    assert [output(1, **wrong)] == site.delivered_to("pacs")
    assert [] == jobs_after(site, dcmread(io.BytesIO(output(1, **wrong))))
    assert [{"result": 3}] == site.events("result_returned")
    assert not audit_problems(site.adapter)


@pytest.mark.parametrize("decide", [lambda _site: None, lambda site: discard_all(site)], ids=["held", "discarded"])
def test_an_arrival_with_the_uid_of_a_result_that_was_not_delivered_is_processed(
    site: Site, decide: Callable[[Site], None]
) -> None:
    """It cannot be the result, which no destination has."""
    site.end_job({"a.dcm": output(1, patient_id="OTHER")})
    decide(site)
    assert [1] == jobs_after(site, returned_result())


def discard_all(site: Site) -> None:
    discard(site.adapter.ledger, site.adapter.clock, [row.instance.instance_id for row in site.results], "operator")
    site.adapter.advance(120)


@pytest.mark.parametrize("days", [0, 31])
def test_a_source_image_is_processed_again_although_a_copy_of_it_was_delivered_by_force(site: Site, days: int) -> None:
    """An arrival with this UID may be the image. The row of the image is kept as long as the row of the copy.

    Verified to fail when `returned` does not exclude copies, and when `delete_instances` deletes the row of the image.
    """
    source = make_instance(seed="study", instance_number=1)
    site.end_job({"copy.dcm": output(sop_uid=source.SOPInstanceUID)})
    site.wait_days(days)
    force(site)
    assert [1] == jobs_after(site, source)


def test_the_same_output_as_a_result_that_was_delivered_by_force_is_quarantined(site: Site) -> None:
    """A destination has a result with this UID. Verified to fail when `with_uids` excludes such results."""
    site.end_job({"a.dcm": output(1, study_uid="2.25.55")})
    force(site)
    site.end_job({"a.dcm": output(1, seed="later")}, seed="later")
    assert "it has the SOP Instance UID of an earlier result, instance 3" == site.results[-1].reason
