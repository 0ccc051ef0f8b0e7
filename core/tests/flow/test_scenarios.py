"""The scenarios that specify the AE title job processor, from the C-STORE to the platform, under a virtual clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_adapter import JobPriority, JobProcessorBase, JobState, NoSettings, hookimpl
from dicom_adapter.api.errors import LedgerUnavailable
from dicom_adapter.api.receiving import StoreOutcome
from dicom_adapter.dicom.synthetic import make_instance, make_study
from dicom_adapter.flow.process import inbox
from dicom_adapter.flow.process.turn import Turn
from dicom_adapter.ledger import instances
from dicom_adapter.ledger.schema import LaneState
from dicom_adapter.runtime.parts import lane_part
from dicom_adapter.testing import Adapter, Plugin

PLATFORM = """
[submitters.clara]
type = "fake"
folder = "platform"
"""
PATIENTS = f"""{PLATFORM}
[ae-titles.LUNG.settings]
priority = "normal"
timeout = 60
pipeline-lung = "p-lung"
pipeline-liver = "p-liver"
pipeline-brain = "p-brain"
"""
STUDIES = f"""{PLATFORM}
[ae-titles.LUNG.settings]
priority = "higher"
pipeline-lung = "p-lung"
"""
HOUR = 3600.0


def studies(count: int) -> list[list[Dataset]]:
    """Studies of one patient, two instances each."""
    return [make_study(instances=2, patient_id="PID-4711") for _ in range(count)]


def names(*data_sets: Dataset) -> list[str]:
    return [data_set.SOPInstanceUID for data_set in data_sets]


def stories(adapter: Adapter) -> list[Any]:
    """What became of everything, without what differs from run to run."""
    return [
        (job.name, job.pipeline_id, job.priority, f"{job.created_at:%H:%M:%S}", job.state, content(adapter, job.job_id))
        for job in adapter.jobs
    ]


def content(adapter: Adapter, job_id: str) -> list[str]:
    """The SOP instances that the platform has of a job, in the job's order; read from its files."""
    files = (adapter.config.storage.path.parent / "platform" / job_id / "dcm").glob("*.dcm")
    return [dcmread(file).SOPInstanceUID for file in sorted(files, key=lambda file: int(file.stem))]


def down(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host takes no more steps, until the next restart; instances are still received."""
    monkeypatch.setattr(adapter.host, "run_until_idle", lambda: None)


# --- the first scenario -----------------------------------------------------------------------------------------------


def test_five_studies_of_one_patient_become_three_jobs_with_all_five(make_adapter: Any) -> None:
    """Five studies, each in an association of its own, all within 60 seconds: one job for each of three pipelines."""
    adapter = make_adapter(PATIENTS)
    five = studies(5)
    for study in five:
        answers = adapter.receive(*study, ae_title="LUNG")
        assert [StoreOutcome.STORED] * 2 == [answer.outcome for answer in answers]
        adapter.advance(11)

    adapter.advance(60 - 11 - 0.001)
    assert [] == adapter.jobs
    adapter.advance(0.001)

    everything = names(*(instance for study in five for instance in study))
    made = ("08:01:44", JobState.SUBMITTED, everything)  # 60 s after the last, which came at 08:00:44
    assert [
        ("LUNG-lung-20260105080144", "p-lung", JobPriority.NORMAL, *made),
        ("LUNG-liver-20260105080144", "p-liver", JobPriority.NORMAL, *made),
        ("LUNG-brain-20260105080144", "p-brain", JobPriority.NORMAL, *made),
    ] == stories(adapter)


@pytest.mark.parametrize("interrupted", ["after every study", "at the deadline", "for an hour over the deadline"])
def test_a_restart_changes_nothing_of_it(make_adapter: Any, monkeypatch: Any, interrupted: str) -> None:
    """The same jobs with the same names and times: groups and deadlines come back from the ledger.

    Tried: with turns at the time of the restart instead of their own, the times differ.
    """
    adapter = make_adapter(PATIENTS)
    five = studies(5)
    for study in five:
        adapter.receive(*study, ae_title="LUNG")
        adapter.advance(11)
        if interrupted == "after every study":
            adapter.restart()
    if interrupted == "at the deadline":
        adapter.advance(48.999)
        down(adapter, monkeypatch)
        adapter.clock.advance(0.001)
        adapter.restart()
    elif interrupted == "for an hour over the deadline":
        down(adapter, monkeypatch)
        adapter.clock.advance(HOUR)
        adapter.restart()
    else:
        adapter.advance(49)

    everything = names(*(instance for study in five for instance in study))
    made = (JobPriority.NORMAL, "08:01:44", JobState.SUBMITTED, everything)
    assert [
        ("LUNG-lung-20260105080144", "p-lung", *made),
        ("LUNG-liver-20260105080144", "p-liver", *made),
        ("LUNG-brain-20260105080144", "p-brain", *made),
    ] == stories(adapter)
    adapter.restart()
    assert 3 == len(adapter.jobs)


def test_what_was_submitted_is_reclaimed_and_nothing_else(make_adapter: Any) -> None:
    """One study becomes three jobs and is stored once; when the jobs are with the platform its room is given back."""
    adapter = make_adapter(PATIENTS)
    adapter.receive(*studies(1)[0], ae_title="LUNG")
    adapter.advance(30)
    adapter.receive(make_instance(patient_id="PID-4712"), ae_title="LUNG")
    assert 3 == len(list(adapter.storage.keys()))
    adapter.advance(30)

    assert {"reclaimed": 2, "pending": 1} == adapter.states
    assert 1 == len(list(adapter.storage.keys()))


# --- the second scenario ----------------------------------------------------------------------------------------------


def test_three_studies_in_one_association_become_three_jobs_after_five_seconds(make_adapter: Any) -> None:
    """Studies A, B and C in one association, one pipeline, no timeout: one job for each of them."""
    adapter = make_adapter(STUDIES)
    three = studies(3)
    mixed = [study[number] for number in (0, 1) for study in three]
    adapter.receive(*mixed, ae_title="LUNG")

    adapter.advance(4.999)
    assert [] == adapter.jobs
    adapter.advance(0.001)

    job = ("LUNG-lung-20260105080005", "p-lung", JobPriority.HIGHER, "08:00:05", JobState.SUBMITTED)
    assert [(*job, names(*study)) for study in three] == stories(adapter)


@pytest.mark.parametrize("restarts", [False, True], ids=["undisturbed", "restarted"])
def test_four_instances_that_keep_coming_become_one_job(make_adapter: Any, restarts: bool) -> None:
    """4 s, 3 s and 1 s apart, each in an association of its own: every arrival starts the wait of 5 s anew."""
    adapter = make_adapter(STUDIES)
    study = make_study(instances=4)
    for instance, gap in zip(study, (4, 3, 1, 4.999), strict=True):
        adapter.receive(instance, ae_title="LUNG")
        adapter.advance(gap)
        if restarts:
            adapter.restart()
    assert [] == adapter.jobs
    adapter.advance(0.001)

    job = ("LUNG-lung-20260105080013", "p-lung", JobPriority.HIGHER, "08:00:13", JobState.SUBMITTED)
    assert [(*job, names(*study))] == stories(adapter)


# --- what follows from them -------------------------------------------------------------------------------------------


def test_two_groups_an_hour_apart_that_came_while_the_host_was_down_are_two_jobs(
    make_adapter: Any, monkeypatch: Any
) -> None:
    """What is made up for is decided as it would have been then.

    Tried: with all instances delivered before any timer rings, this fails.
    """
    adapter = make_adapter(STUDIES)
    morning, later = make_study(instances=4, study_uid="1.2.3")[:2], make_study(instances=4, study_uid="1.2.3")[2:]
    down(adapter, monkeypatch)
    adapter.receive(*morning, ae_title="LUNG")
    adapter.clock.advance(HOUR)
    adapter.receive(*later, ae_title="LUNG")
    adapter.clock.advance(HOUR)
    assert [] == adapter.jobs
    adapter.restart()

    assert [
        ("LUNG-lung-20260105080005", "p-lung", JobPriority.HIGHER, "08:00:05", JobState.SUBMITTED, names(*morning)),
        ("LUNG-lung-20260105090005", "p-lung", JobPriority.HIGHER, "09:00:05", JobState.SUBMITTED, names(*later)),
    ] == stories(adapter)


def test_an_instance_that_comes_after_its_group_became_jobs_starts_a_new_group(make_adapter: Any) -> None:
    """It is neither lost nor added to a job that is on its way."""
    adapter = make_adapter(STUDIES)
    first, late = make_study(instances=2)
    adapter.receive(first, ae_title="LUNG")
    adapter.advance(5.001)
    adapter.receive(late, ae_title="LUNG")
    adapter.advance(5)

    assert [names(first), names(late)] == [story[-1] for story in stories(adapter)]


def test_one_study_sent_to_two_ae_titles_is_two_groups(make_adapter: Any) -> None:
    """Each AE title keeps its own instances, and waits as long as it was told to."""
    adapter = make_adapter(f'{STUDIES}[ae-titles.KIDNEY.settings]\ntimeout = 10\npipeline-kidney = "p-kidney"\n')
    study = make_study(instances=2)
    adapter.receive(*study, ae_title="KIDNEY")
    adapter.receive(*study, ae_title="LUNG")
    adapter.advance(10)

    assert [("LUNG", "p-lung", "08:00:05", names(*study)), ("KIDNEY", "p-kidney", "08:00:10", names(*study))] == [
        (job.ae_title, job.pipeline_id, f"{job.created_at:%H:%M:%S}", content(adapter, job.job_id))
        for job in adapter.jobs
    ]
    assert {"reclaimed": 4} == adapter.states


def test_patients_are_told_apart_by_id_and_issuer(make_adapter: Any) -> None:
    """The same number from two hospitals is two patients; padding is no difference."""
    adapter = make_adapter(PATIENTS)
    here, there = make_instance(patient_id="1", issuer="HERE"), make_instance(patient_id="1", issuer="THERE")
    again = make_instance(patient_id="1 ", issuer="HERE")
    adapter.receive(here, there, again, ae_title="LUNG")
    adapter.advance(60)

    assert [names(here, again)] * 3 + [names(there)] * 3 == [story[-1] for story in stories(adapter)]


def test_an_instance_without_the_attribute_that_groups_it_is_quarantined_with_the_reason(make_adapter: Any) -> None:
    """Acknowledged is acknowledged: it waits for an operator, the others go on. Tried: a processor that drops it."""
    adapter = make_adapter(PATIENTS)
    nameless, other = make_instance(patient_id=""), make_instance()
    adapter.receive(nameless, other, ae_title="LUNG")
    adapter.advance(60)

    reasons = [event.detail["reason"] for event in adapter.events if event.event == "instance_quarantined"]
    assert 1 == len(reasons)
    assert "PatientID (0010,0020), which is missing or empty" in str(reasons[0])
    assert [names(other)] * 3 == [story[-1] for story in stories(adapter)]
    assert {"quarantined": 1, "reclaimed": 1} == adapter.states
    assert 1 == len(list(adapter.storage.keys()))


def test_what_the_platform_gets_is_what_was_sent(make_adapter: Any, tmp_path: Path) -> None:
    """A Part 10 file with the sender's data set and AE title; the job says where it comes from, and how much it is."""
    adapter = make_adapter(STUDIES)
    instance = make_instance(patient_id="PID-4711", accession_number="A1")
    adapter.receive(instance, ae_title="LUNG", calling_ae_title="CT1")
    adapter.advance(5)

    (job,) = adapter.jobs
    (file,) = (tmp_path / "platform" / job.job_id / "dcm").iterdir()
    received = dcmread(file)
    assert instance == received
    assert "CT1" == received.file_meta.SourceApplicationEntityTitle
    assert {"Source": "LUNG (aetitle)", "Instances": "1"} == dict(job.metadata)


@pytest.mark.parametrize("title", ["../../../X", "..", "/nonexistent/x", "instances", "$(id)", "A B"])
def test_an_ae_title_never_becomes_a_path(make_adapter: Any, tmp_path: Path, title: str) -> None:
    """Whatever is configured or called, files lie where they belong. Tried: with the title as a folder's name."""

    class Noting(JobProcessorBase[NoSettings]):
        name = "noting"

        def handle_instance(self, instance: Any) -> None:
            (self.data_folder / "note").touch()

    class Brought:
        @hookimpl
        def dicom_adapter_processors(self) -> list[type[Noting]]:
            return [Noting]

    adapter = make_adapter(f'{PLATFORM}[ae-titles."{title}"]\nprocessor = "noting"\n', Plugin(Brought()))
    adapter.receive(make_instance(), ae_title=title, calling_ae_title=title)

    assert {"pending": 1} == adapter.states
    (note,) = tmp_path.rglob("note")
    assert tmp_path / "data" / "processors" == note.parent.parent.resolve()


# --- under difficulties -----------------------------------------------------------------------------------------------


def failing(*_arguments: Any, **_keywords: Any) -> Any:
    raise LedgerUnavailable("disk I/O error")


def test_a_ledger_that_cannot_commit_is_waited_for(make_adapter: Any, monkeypatch: Any) -> None:
    """However long it takes: the processor is not to blame, nothing is lost, and nothing is submitted twice."""
    adapter = make_adapter(STUDIES)
    study = make_study(instances=2)
    adapter.receive(*study, ae_title="LUNG")
    with monkeypatch.context() as patch:
        patch.setattr(Turn, "commit", failing)
        adapter.advance(30)
        assert ([], {"pending": 2}) == (adapter.jobs, adapter.states)
        assert LaneState.RUNNING is adapter.lanes["LUNG"].state
    adapter.advance(1)

    assert [("LUNG-lung-20260105080005", names(*study))] == [(name, held) for name, *_, held in stories(adapter)]


def test_arrivals_are_not_forgotten_when_the_ledger_cannot_be_read(make_adapter: Any, monkeypatch: Any) -> None:
    """The next look finds them. Tried: with the news taken as read before the reading, nobody looks again."""
    adapter = make_adapter(STUDIES)
    with monkeypatch.context() as patch:
        patch.setattr(instances, "pending_after", failing)
        with pytest.raises(LedgerUnavailable):
            adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(5)

    assert {"reclaimed": 1} == adapter.states


@pytest.mark.parametrize("noticed", [True, False])
def test_an_instance_that_comes_exactly_when_its_group_is_due_belongs_to_it(
    make_adapter: Any, monkeypatch: Any, noticed: bool
) -> None:
    """Also when nobody has told the lane of it: it looks before a timer rings.

    Tried: with timers first at equal times, or without the look, it comes too late.
    """
    adapter = make_adapter(STUDIES)
    study = make_study(instances=2)
    adapter.receive(study[0], ae_title="LUNG")
    adapter.clock.advance(5)
    lane = adapter.host.parts()[lane_part("LUNG")].step
    if not noticed:
        down(adapter, monkeypatch)
    adapter.receive(study[1], ae_title="LUNG")
    lane()
    monkeypatch.undo()
    adapter.advance(5)

    assert [("08:00:10", names(*study))] == [(at, held) for _name, _id, _priority, at, _state, held in stories(adapter)]


def test_a_lane_reads_ahead_without_skipping_anything(make_adapter: Any, monkeypatch: Any) -> None:
    """Five instances in batches of two, before and after a restart."""
    monkeypatch.setattr(inbox, "BATCH", 2)
    adapter = make_adapter(STUDIES)
    study = make_study(instances=5)
    adapter.receive(*study, ae_title="LUNG")
    adapter.restart()
    adapter.advance(5)

    assert [names(*study)] == [story[-1] for story in stories(adapter)]


def test_a_group_that_was_due_before_an_instance_was_replaced_goes_without_it(
    make_adapter: Any, monkeypatch: Any
) -> None:
    """The older one is no more, and the newer one came too late for that group: it is a group of its own."""
    adapter = make_adapter(STUDIES.replace("[ae-titles.LUNG.settings]", "[ae-titles.LUNG]\n{}").format(OVERWRITE))
    study = make_study(instances=2)
    adapter.receive(*study, ae_title="LUNG")
    down(adapter, monkeypatch)
    adapter.clock.advance(7)
    study[0].AccessionNumber = "corrected"
    adapter.receive(study[0], ae_title="LUNG")
    monkeypatch.undo()
    adapter.advance(5)

    groups = [("08:00:05", names(study[1])), ("08:00:12", names(study[0]))]
    assert groups == [(at, held) for _name, _id, _priority, at, _state, held in stories(adapter)]


OVERWRITE = "overwrite-same-instance = true\n[ae-titles.LUNG.settings]"
