"""The complete flow from the C-STORE to the platform, in one process and on a simulated clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO

from dicom_adapter import Job, JobProcessorBase, JobState, NoSettings, hookimpl
from dicom_adapter.api.errors import LedgerUnavailable
from dicom_adapter.api.receiving import StoreOutcome
from dicom_adapter.dicom.synthetic import make_instance, make_study
from dicom_adapter.flow.process import inbox
from dicom_adapter.flow.process.turn import Turn
from dicom_adapter.ledger import instances
from dicom_adapter.ledger.schema import LaneState
from dicom_adapter.runtime.parts import lane_part
from dicom_adapter.testing import Adapter, Plugin

LUNG = """
[ae-titles.LUNG]
processor = "by-study"
settings = { pipeline-lung = "p-lung" }
"""
THREE_PIPELINES = """
[ae-titles.LUNG]
processor = "by-study"
settings = { timeout = 60, pipeline-lung = "p-lung", pipeline-liver = "p-liver", pipeline-brain = "p-brain" }
"""
HOUR = 3600.0


def names(*data_sets: Dataset) -> list[str]:
    return [data_set.SOPInstanceUID for data_set in data_sets]


def content(adapter: Adapter, job: Job) -> list[Dataset]:
    """Return the data sets that the platform has received for a job, in the job's order."""
    files = adapter.platform.jobs[job.job_id].files
    return [dcmread(DicomBytesIO(files[position])) for position in sorted(files)]


def submitted(adapter: Adapter) -> list[tuple[str, str, list[str]]]:
    """Return pipeline, time and SOP Instance UIDs of each job. All jobs must be submitted."""
    assert {JobState.SUBMITTED} >= {job.state for job in adapter.jobs}
    return [(job.pipeline_id, f"{job.created_at:%H:%M:%S}", names(*content(adapter, job))) for job in adapter.jobs]


def stop_host(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the steps of the host until the monkeypatch is undone or the adapter restarts. Receiving continues."""
    monkeypatch.setattr(adapter.host, "run_until_idle", lambda: None)


# --- groups and restarts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interrupted", ["not", "after every instance", "at the deadline", "for an hour after it"])
def test_a_study_becomes_one_job_per_pipeline_despite_restarts(make_adapter: Any, interrupted: str) -> None:
    """Pending instances are delivered again from the ledger, with their original times.

    Verified to fail when turns get the time of the restart instead of the time for which they were due.
    """
    adapter = make_adapter(THREE_PIPELINES)
    study = make_study(instances=5)
    for instance in study:
        [answer] = adapter.receive(instance, ae_title="LUNG")
        assert StoreOutcome.STORED is answer.outcome
        adapter.advance(11)
        if interrupted == "after every instance":
            adapter.restart()
    adapter.advance(48.999)
    assert [] == adapter.jobs
    if interrupted in ("at the deadline", "for an hour after it"):
        with adapter.down():
            adapter.advance(0.001 if interrupted == "at the deadline" else HOUR)
    adapter.advance(0.001)

    time_and_members = ("08:01:44", names(*study))  # 60 s after the last instance, which arrived at 08:00:44
    expected = [(pipeline, *time_and_members) for pipeline in ("p-lung", "p-liver", "p-brain")]
    assert expected == submitted(adapter)
    adapter.restart()
    assert 3 == len(adapter.jobs)


def test_only_submitted_instances_are_reclaimed(make_adapter: Any) -> None:
    """An instance of three jobs is stored once, and deleted when all three jobs were submitted."""
    adapter = make_adapter(THREE_PIPELINES)
    adapter.receive(*make_study(instances=2), ae_title="LUNG")
    adapter.advance(30)
    adapter.receive(make_instance(), ae_title="LUNG")
    assert 3 == len(list(adapter.storage.keys()))
    adapter.advance(30)

    assert {"reclaimed": 2, "pending": 1} == adapter.states
    assert 1 == len(list(adapter.storage.keys()))


def test_turns_that_were_delayed_by_an_outage_of_the_host_are_in_the_order_of_their_times(
    make_adapter: Any,
) -> None:
    """Two groups that arrived an hour apart are two jobs, with the times that they would have had without the outage.

    Verified to fail when all instances are delivered before any timer (then there is one job).
    """
    adapter = make_adapter(LUNG)
    study = make_study(instances=4)
    with adapter.down():
        adapter.receive(*study[:2], ae_title="LUNG")
        adapter.advance(HOUR)
        adapter.receive(*study[2:], ae_title="LUNG")
        adapter.advance(HOUR)
        assert [] == adapter.jobs

    assert [
        ("p-lung", "08:00:05", names(*study[:2])),
        ("p-lung", "09:00:05", names(*study[2:])),
    ] == submitted(adapter)


def test_one_study_sent_to_two_ae_titles_is_two_groups(make_adapter: Any) -> None:
    """The AE titles have separate instances and settings."""
    kidney = '[ae-titles.KIDNEY]\nprocessor = "by-study"\nsettings = { timeout = 10, pipeline-kidney = "p-kidney" }\n'
    adapter = make_adapter(LUNG + kidney)
    study = make_study(instances=2)
    adapter.receive(*study, ae_title="KIDNEY")
    adapter.receive(*study, ae_title="LUNG")
    adapter.advance(10)

    assert [
        ("p-lung", "08:00:05", names(*study)),
        ("p-kidney", "08:00:10", names(*study)),
    ] == submitted(adapter)
    assert ["LUNG", "KIDNEY"] == [job.ae_title for job in adapter.jobs]
    assert {"reclaimed": 4} == adapter.states


@pytest.mark.parametrize("noticed", [True, False])
def test_an_instance_that_arrives_when_a_timer_is_due_is_delivered_before_the_timer(
    make_adapter: Any, monkeypatch: pytest.MonkeyPatch, noticed: bool
) -> None:
    """The lane reads new instances before it runs a timer, also without a notification.

    Verified to fail when timers run before instances at equal times, or a timer runs without this read.
    """
    adapter = make_adapter(LUNG)
    study = make_study(instances=2)
    adapter.receive(study[0], ae_title="LUNG")
    adapter.clock.advance(5)
    step_lane = adapter.host.parts()[lane_part("LUNG")].step
    if not noticed:
        stop_host(adapter, monkeypatch)
    adapter.receive(study[1], ae_title="LUNG")
    step_lane()
    monkeypatch.undo()
    adapter.advance(5)

    assert [("p-lung", "08:00:10", names(*study))] == submitted(adapter)


def test_a_lane_reads_ahead_without_skipping_anything(make_adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five instances are read in batches of two, before and after a restart."""
    monkeypatch.setattr(inbox, "BATCH", 2)
    adapter = make_adapter(LUNG)
    study = make_study(instances=5)
    adapter.receive(*study, ae_title="LUNG")
    adapter.restart()
    adapter.advance(5)

    assert [("p-lung", "08:00:05", names(*study))] == submitted(adapter)


def test_a_replaced_instance_is_not_in_a_group_that_was_due_before_the_replacement(
    make_adapter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older instance is no longer pending. The newer instance arrived too late and is in the next group."""
    adapter = make_adapter(LUNG + "overwrite-same-instance = true\n")
    study = make_study(instances=2)
    adapter.receive(*study, ae_title="LUNG")
    stop_host(adapter, monkeypatch)
    adapter.clock.advance(7)
    study[0].AccessionNumber = "corrected"
    adapter.receive(study[0], ae_title="LUNG")
    monkeypatch.undo()
    adapter.advance(5)

    assert [
        ("p-lung", "08:00:05", names(study[1])),
        ("p-lung", "08:00:12", names(study[0])),
    ] == submitted(adapter)


# --- the job on the platform ------------------------------------------------------------------------------------------


def test_the_platform_receives_the_data_set_that_was_sent(make_adapter: Any) -> None:
    """The Part 10 file has the data set and AE title of the sender. The metadata of the job has source and size."""
    adapter = make_adapter(LUNG)
    instance = make_instance(patient_id="PID-4711", accession_number="A1")
    adapter.receive(instance, ae_title="LUNG", calling_ae_title="CT1")
    adapter.advance(5)

    [job] = adapter.jobs
    [received] = content(adapter, job)
    assert instance == received
    assert "CT1" == received.file_meta.SourceApplicationEntityTitle
    assert {"Source": "LUNG (by-study)", "Instances": "1"} == dict(job.metadata)


@pytest.mark.parametrize("title", ["../../../X", "..", "/nonexistent/x", "instances", "$(id)", "A B"])
def test_an_ae_title_never_becomes_a_path(make_adapter: Any, tmp_path: Path, title: str) -> None:
    """All files are in the adapter's folders, for any called or calling AE title.

    Verified to fail when the AE title is used as the name of a folder.
    """

    class Noting(JobProcessorBase[NoSettings]):
        name = "noting"

        def handle_instance(self, instance: Any) -> None:
            (self.data_folder / "note").touch()

    class NotingPlugin:
        @hookimpl
        def dicom_adapter_processors(self) -> list[type[Noting]]:
            return [Noting]

    adapter = make_adapter(f'[ae-titles."{title}"]\nprocessor = "noting"\n', Plugin(NotingPlugin()))
    adapter.receive(make_instance(), ae_title=title, calling_ae_title=title)

    assert {"pending": 1} == adapter.states
    (note,) = tmp_path.rglob("note")
    assert tmp_path / "data" / "processors" == note.parent.parent.resolve()


# --- failures of the ledger -------------------------------------------------------------------------------------------


def failing(*_arguments: Any, **_keywords: Any) -> Any:
    raise LedgerUnavailable("disk I/O error")


def test_a_turn_is_repeated_until_the_ledger_can_commit_it(make_adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lane is not stopped, nothing is lost, and nothing is submitted twice."""
    adapter = make_adapter(LUNG)
    study = make_study(instances=2)
    adapter.receive(*study, ae_title="LUNG")
    with monkeypatch.context() as patch:
        patch.setattr(Turn, "commit", failing)
        adapter.advance(30)
        assert ([], {"pending": 2}) == (adapter.jobs, adapter.states)
        assert LaneState.RUNNING is adapter.lanes["LUNG"].state
    adapter.advance(1)

    assert ["LUNG-lung-20260105080005"] == [job.name for job in adapter.jobs]
    assert [names(*study)] == [uids for _pipeline, _time, uids in submitted(adapter)]


def test_arrivals_are_not_forgotten_when_the_ledger_cannot_be_read(
    make_adapter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next read returns the arrivals.

    Verified to fail when the notification is cleared before the read (then there is no next read).
    """
    adapter = make_adapter(LUNG)
    with monkeypatch.context() as patch:
        patch.setattr(instances, "pending_after", failing)
        with pytest.raises(LedgerUnavailable):
            adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(5)

    assert {"reclaimed": 1} == adapter.states
