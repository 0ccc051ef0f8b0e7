"""Attachments in deliveries: the destinations that take them get each of them once."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from datetime import timedelta

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from dicom_adapter import JobState, Permanent, Retriable
from dicom_adapter.config.results import ResultsConfig
from dicom_adapter.flow.results.destinations import DestinationFacts
from dicom_adapter.flow.results.file_names import file_names
from dicom_adapter.flow.results.operators import Requeue
from dicom_adapter.flow.submit import operators
from dicom_adapter.ledger import backups
from dicom_adapter.operations.audit import Audit
from dicom_adapter.operations.story import make_story
from dicom_adapter.testing import Adapter
from support.results import CONFIGURATION, Site, output

MakeAdapter = Callable[..., Adapter]
ARCHIVE = '[submitters.archive]\ntype = "memory"'
TAKES = CONFIGURATION.replace(ARCHIVE, f"{ARCHIVE}\nattachments = true")
REPORT = {"report.json": b"{}"}
FILES = {"report.json": b"{}", "more/Report.json": b"[]"}


@pytest.fixture
def site(make_adapter: MakeAdapter) -> Site:
    return Site(make_adapter(TAKES))


def received(site: Site, destination: str = "archive") -> list[dict[str, bytes]]:
    """Return the attachments of each started job of a destination."""
    return [
        dict(job.attachments)
        for job in site.adapter.platform.jobs.values()
        if job.job.submitter == destination and job.started
    ]


def story_of(site: Site, job_id: str) -> str:
    with site.adapter.ledger.read() as transaction:
        story = make_story(transaction, job_id, site.adapter.clock.now())
    return " ".join(entry.text for section in story.sections for entry in section.entries)


def requeue_to_archive(site: Site, *, force: bool = False) -> Requeue:
    """Return the command that delivers held results and their attachments to the destination `archive`."""
    return Requeue(
        resources=site.adapter.resources,
        settings={"LUNG": ResultsConfig(to=("archive",))},
        known={"archive": DestinationFacts(takes_attachments=True)},
        history=timedelta(days=30),
        by="operator",
        force=force,
    )


def findings(adapter: Adapter) -> int:
    return Audit(adapter.resources, is_running=lambda: False, verify=True).run().count


def test_only_destinations_that_take_attachments_get_them(site: Site) -> None:
    """Verified to fail when `takes_attachments` is ignored."""
    job = site.end_job({"a.dcm": output(), **REPORT})
    assert [REPORT] == received(site)
    assert [{}] == received(site, "pacs")
    assert [("pacs", 1, 0), ("archive", 1, 1)] == [
        (one.submitter, one.instance_count, one.attachment_count) for one in site.deliveries
    ]
    text = story_of(site, job.job_id)
    assert "produced 1 result and 1 attachment. The attachments are delivered to archive." in text
    assert "They are not sent to pacs, which takes DICOM only." in text
    assert "to deliver 1 result and 1 attachment of job" in text
    assert not findings(site.adapter)


def test_a_job_with_attachments_only_is_delivered(site: Site) -> None:
    site.end_job(FILES)
    assert ["archive"] == [one.submitter for one in site.deliveries]
    assert [JobState.SUBMITTED] == [one.state for one in site.deliveries]
    assert [{"report.json": b"{}", "more-Report.json": b"[]"}] == received(site)
    assert not findings(site.adapter)


def test_attachments_wait_if_no_dicom_output_passes_the_check(site: Site) -> None:
    """A pipeline that confuses patients may have done so in its report, too. A requeue delivers them together.

    Verified to fail when attachments are delivered in spite of the quarantined results.
    """
    job = site.end_job({"a.dcm": output(patient_id="OTHER"), **REPORT})
    assert not site.deliveries
    assert "The attachments are not delivered, because no DICOM output has passed the check." in story_of(
        site, job.job_id
    )
    requeue = requeue_to_archive(site, force=True)
    assert not requeue.run([row.instance.instance_id for row in site.results]).refused
    site.adapter.advance(10)
    assert [REPORT] == received(site)


def test_a_job_is_kept_as_long_as_its_quarantined_results(site: Site) -> None:
    """Without it, the attachments that wait were lost, and no result could be compared with the inputs again.

    Verified to fail when old jobs are deleted without regard to their quarantined results.
    """
    job = site.end_job({"a.dcm": output(patient_id="OTHER"), **REPORT})
    site.wait_days(62)
    assert [job.job_id] == [one.job_id for one in site.adapter.jobs]
    requeue = requeue_to_archive(site)
    [number] = [row.instance.instance_id for row in site.results]
    assert "its Patient ID is not that of the inputs of its study" in requeue.run([number]).refused[number]
    assert not evolve(requeue, force=True).run([number]).refused
    site.adapter.advance(10)
    assert [REPORT] == received(site)
    site.wait_days(62)
    assert not site.adapter.jobs
    assert not list(site.adapter.storage.keys())


def test_attachments_of_delivered_results_are_not_delivered_again(site: Site) -> None:
    """Verified to fail when earlier deliveries of an attachment are not considered."""
    site.end_job({"a.dcm": output(1), "b.dcm": output(2, patient_id="OTHER"), **REPORT})
    requeue = requeue_to_archive(site, force=True)
    [number] = [row.instance.instance_id for row in site.results if row.reason]
    assert [number] == requeue.run([number]).done
    site.adapter.advance(10)
    assert [REPORT, {}] == received(site)


def test_a_refused_attachment_faults_the_job_after_all_files_were_tried(site: Site) -> None:
    """The retry uploads only what is missing."""
    site.adapter.platform.fail("attach", Permanent("too large"), pipeline_id="results")
    site.end_job({"a.dcm": output(), **FILES})
    [job] = [one for one in site.deliveries if one.submitter == "archive"]
    assert (JobState.FAULTED, "1 of 2 attachments could not be uploaded: too large") == (job.state, job.last_error)
    assert (1, 1) == tuple(len(found) for found in _files(site, job.job_id))
    operators.retry(site.adapter.ledger, site.adapter.clock, job.job_id)
    site.adapter.advance(10)
    assert (1, 2) == tuple(len(found) for found in _files(site, job.job_id))
    assert JobState.SUBMITTED is site.job(job).state


def _files(site: Site, job_id: str) -> tuple[Collection[int], Collection[str]]:
    job = site.adapter.platform.jobs[job_id]
    return job.files, job.attachments


def test_attachments_stay_until_all_deliveries_have_finished(site: Site) -> None:
    """The job that has produced them is deleted earlier. Verified to fail when deliveries are not considered."""
    site.adapter.platform.fail("attach", Permanent("refused"), pipeline_id="results")
    site.end_job(REPORT)
    [job] = site.deliveries
    site.wait_days(31)
    assert [job.job_id] == [one.job_id for one in site.adapter.jobs]
    assert not findings(site.adapter)
    operators.retry(site.adapter.ledger, site.adapter.clock, job.job_id)
    site.adapter.advance(10)
    assert [REPORT] == received(site)
    site.wait_days(31)
    assert not site.adapter.jobs
    assert not list(site.adapter.storage.keys())
    assert not findings(site.adapter)


def test_a_missing_object_is_reported_while_a_delivery_needs_it(site: Site) -> None:
    """The job that has produced it was deleted. Verified to fail when only that job counts."""
    site.adapter.platform.fail("attach", Permanent("refused"), pipeline_id="results")
    site.end_job(REPORT)
    site.wait_days(31)
    assert ["archive"] == [one.submitter for one in site.adapter.jobs]
    site.adapter.storage.delete(list(site.adapter.storage.keys()))
    assert 1 == findings(site.adapter)


def test_a_restart_between_attachments_uploads_only_the_rest(site: Site) -> None:
    site.adapter.platform.fail("attach", Retriable("busy"), pipeline_id="results")
    job = site.start_job()
    site.adapter.platform.end(job, outputs=FILES)
    site.adapter.advance(10)
    site.adapter.restart()
    site.adapter.advance(120)
    assert [2] == [len(files) for files in received(site)]


def test_a_restored_delivery_without_its_attachments_waits_for_an_operator(site: Site) -> None:
    """A backup has no attachments. Verified to fail when the jobs are not faulted."""
    site.adapter.platform.fail("attach", Retriable("down"), times=99, pipeline_id="results")
    site.end_job({"a.dcm": output(), **REPORT})
    with site.adapter.ledger.write() as transaction:
        backups.delete_attachments(transaction)
    [job] = [one for one in site.deliveries if one.submitter == "archive"]
    assert (JobState.FAULTED, 0, JobState.METADATA_SENT) == (job.state, job.attachment_count, job.faulted_in)
    assert "a retry delivers the DICOM results without them" in job.last_error
    operators.retry(site.adapter.ledger, site.adapter.clock, job.job_id)
    site.adapter.advance(10)
    assert [output()] == site.delivered_to("archive")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["report.json", "a/report.json"], ["report.json", "a-report.json"]),
        (["Report.json", "report.JSON", "report.json"], ["Report.json", "report-2.JSON", "report-3.json"]),
        (["../../etc/passwd", "/root/.ssh/id"], ["etc-passwd", "root-.ssh-id"]),
        (["seg.nii.gz", "seg.nii.gz"], ["seg.nii.gz", "seg-2.nii.gz"]),
        (["manifest.json", "000000.dcm"], ["manifest-2.json", "000000.dcm.bin"]),
        (["報告.pdf", "", ".."], ["attachment.pdf", "attachment", "attachment-2"]),
        (["CON.txt", "nul"], ["attachment-CON.txt", "attachment-nul"]),
        (["a.dcm ", "000000.DCM."], ["a.dcm.bin", "000000.DCM.bin"]),
        (["b" * 96 + ".dcm-of-a-very-long-name"], ["b" * 96 + ".bin"]),
    ],
)
def test_names_of_files_are_recognizable_and_differ(names: list[str], expected: list[str]) -> None:
    assert expected == file_names(names)


def test_the_time_for_equal_names_of_files_is_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names are made in the transaction that commits the results: others wait for it.

    Verified to fail when each name tries all numbers from 1.
    """
    searches = 0

    class CountedNames(set[str]):
        def __contains__(self, name: object) -> bool:
            nonlocal searches
            searches += 1
            return super().__contains__(name)

    monkeypatch.setattr("dicom_adapter.flow.results.file_names.set", CountedNames, raising=False)
    found = file_names([f"{'folder/' * 20}{number:04}.json" for number in range(1000)])
    assert 1000 == len(set(found))
    assert searches < 3000


ENDINGS = st.sampled_from(["", ".dcm", ".DCM ", "/x.dcm.-", "manifest.json", ".nii.gz"])
NAMES = st.builds(lambda text, ending: text + ending, st.text(max_size=150), ENDINGS)


@given(st.lists(NAMES, max_size=20))
def test_names_of_files_are_safe(names: list[str]) -> None:
    """No name is a path, hidden, or taken, whatever a pipeline writes."""
    found = file_names(names)
    assert len(names) == len({name.lower() for name in found})
    for name in found:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name)
        assert name.lower() != "manifest.json"
        assert not name.lower().endswith(".dcm")
