"""The story of a study, an instance or a job, as operators read it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pydicom.dataset import Dataset

from dicom_adapter import (
    JobProcessorBase,
    NoSettings,
    Permanent,
    PlatformJob,
    Retriable,
    Unprocessable,
    hookimpl,
)
from dicom_adapter.api.errors import Refused
from dicom_adapter.api.receiving import AssociationRequest
from dicom_adapter.dicom.synthetic import make_instance, make_study
from dicom_adapter.flow.process import quarantine
from dicom_adapter.flow.submit import operators
from dicom_adapter.ledger import events, lanes
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.schema import InstanceOutcome
from dicom_adapter.net.storage_scp import ClosedAssociation
from dicom_adapter.operations.story import Story, Unknown
from dicom_adapter.operations.story.arriving import ENDED, OUTCOMES
from dicom_adapter.receiver.receiver import Receiver
from dicom_adapter.simulation.platform import MemorySubmitter
from dicom_adapter.testing import Adapter, Plugin

STUDY = "2.25.1"
SECRET = "PID-4711"
SMALL = {"rows": 2, "columns": 2, "patient_id": SECRET}

CONFIGURATION = """
[submitters.platform]
type = "memory"
retry-first = 8
retry-most = 64  # longest pause in seconds
[ae-titles.LUNG]
processor = "by-study"
settings = { pipeline-one = "p1" }
[ae-titles.HEAD]
processor = "by-study"
overwrite-same-instance = true
settings = { timeout = 60, priority = "higher", pipeline-two = "p2" }
"""

Associate = Callable[..., str]
MakeStory = Callable[[Adapter, str], Story]
MakeAdapter = Callable[..., Adapter]


@pytest.fixture
def adapter(make_adapter: MakeAdapter) -> Adapter:
    return make_adapter(CONFIGURATION)


def a_study(count: int = 2, **more: Any) -> list[Dataset]:
    return make_study(instances=count, study_uid=STUDY, **{**SMALL, **more})


def sentences(story: Story, ae_title: str = "LUNG") -> list[str]:
    """Return the sentences of one AE title, each with its time."""
    [section] = [section for section in story.sections if section.ae_title == ae_title]
    return [f"{'now' if entry.at is None else format(entry.at, '%H:%M:%S')} {entry.text}" for entry in section.entries]


def short_job(adapter: Adapter, number: int = -1) -> str:
    return adapter.jobs[number].job_id[:8]


# --- from association to reclaim --------------------------------------------------------------------------------------


def test_the_story_of_a_study_goes_from_association_to_reclaim(
    adapter: Adapter, associate: Associate, story_of: MakeStory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The story has no patient data.

    Verified to fail when each instance, not each association, has an entry.
    """
    with_payload = PlatformJob(job_id="platform-job-1", payload_id="payload-1")
    create = MemorySubmitter.create_job
    monkeypatch.setattr(MemorySubmitter, "create_job", lambda self, job: (create(self, job), with_payload)[1])
    association = associate(adapter, a_study(3, series=2))
    waiting = story_of(adapter, STUDY)
    adapter.clock.advance(1)
    late = associate(adapter, a_study(1), caller="PACS", how="aborted")
    adapter.advance(7)
    story = story_of(adapter, STUDY)
    [job] = adapter.jobs
    assert "Study 2.25.1: 7 instances in 3 series" == story.title
    assert [
        f"08:00:00 CT1 (127.0.0.1) sent 6 instances in 2 series; association {association} was released at 08:00:00.",
        f"08:00:01 PACS (127.0.0.1) sent 1 instance; association {late} was aborted at 08:00:01.",
        f"08:00:06 Job {job.job_id[:8]} was queued with 7 instances: LUNG-one-20260105080006, pipeline p1, "
        "priority normal.",
        f"08:00:06 Job {job.job_id[:8]} was submitted: platform job platform-job-1, payload payload-1.",
        "08:00:06 7 instances were reclaimed after submission.",
    ] == sentences(story)
    assert SECRET not in repr((story, waiting))


def test_the_story_names_the_groups_in_which_a_study_waits(
    make_adapter: MakeAdapter, associate: Associate, story_of: MakeStory
) -> None:
    """There is a section for each AE title.

    A group is named if its label has the study; otherwise only the AE title is named.
    """
    lung, head, settings = CONFIGURATION.partition("[ae-titles.HEAD]")
    adapter = make_adapter(lung + head + settings.replace("by-study", "by-hidden-study"))
    for ae_title in ("LUNG", "HEAD"):
        associate(adapter, a_study(), ae_title)
    adapter.receive(make_instance(**{**SMALL, "patient_id": "another"}), ae_title="HEAD")
    adapter.advance(1)
    label = adapter.lanes["HEAD"].waiting[0].label
    story = story_of(adapter, STUDY)
    assert ["LUNG", "HEAD"] == [section.ae_title for section in story.sections]
    assert (
        "now 2 instances wait in the group study 2.25.1 (2 instances), which becomes jobs at 08:00:05."
        == sentences(story)[-1]
    )
    assert (
        "now 2 instances wait in the processor. 2 groups wait at AE title HEAD. The next group, "
        f"{label} (2 instances), becomes jobs at 08:01:00." == sentences(story, "HEAD")[-1]
    )
    adapter.clock.advance(10)
    assert sentences(story_of(adapter, STUDY))[-1].endswith(
        "becomes jobs at 08:00:05, which is in the past: the service is late or not running."
    )


def test_an_instance_and_a_job_have_separate_stories(
    adapter: Adapter, associate: Associate, story_of: MakeStory
) -> None:
    """The story of an instance counts the other instances of its jobs. The story of a job excludes other jobs."""
    study = a_study(3)
    associate(adapter, study)
    adapter.advance(6)
    instance = story_of(adapter, study[1].SOPInstanceUID)
    assert (f"SOP instance {study[1].SOPInstanceUID} of study {STUDY}", "sop-instance") == (
        instance.title,
        instance.kind,
    )
    assert "was queued with 3 instances (including this one): LUNG-one" in sentences(instance)[1]
    job = story_of(adapter, adapter.jobs[0].job_id[:6].upper())
    assert f"Job {adapter.jobs[0].job_id} (LUNG-one-20260105080005): 3 instances of study {STUDY}" == job.title
    assert 4 == len(sentences(job))


def test_the_story_of_a_study_in_many_associations_stays_short(
    adapter: Adapter, associate: Associate, story_of: MakeStory
) -> None:
    """Each instance is sent in a separate association, over many days, and becomes a job."""
    for number in range(10):
        associate(
            adapter,
            [make_instance(study_uid=STUDY, series_uid="2.25.2", **SMALL)],
            how=("released", "lost")[number % 2],
        )
        adapter.advance(6)
    adapter.clock.move_to(adapter.clock.now() + timedelta(days=1))
    associate(adapter, [make_instance(study_uid=STUDY, series_uid="2.25.2", **SMALL)])
    adapter.advance(6)
    assert [
        "08:00:00 CT1 (127.0.0.1) sent 11 instances, in 11 associations, until 2026-01-06 08:01:00; "
        "6 were released and 5 were lost.",
        "08:00:05 11 jobs were queued until 2026-01-06 08:01:05 and submitted.",
        "08:00:05 11 instances were reclaimed until 2026-01-06 08:01:05 after submission.",
    ] == sentences(story_of(adapter, STUDY))


# --- duplicates and refusals ------------------------------------------------------------------------------------------


def test_duplicates_are_shown_with_the_pending_instance(
    adapter: Adapter, associate: Associate, story_of: MakeStory
) -> None:
    """Identical data sets are not kept, different data sets are quarantined. The story has both."""
    study = a_study()
    associate(adapter, study)
    adapter.clock.advance(1)
    same = associate(adapter, study, caller="PACS")
    for data_set in study:
        data_set.SeriesDescription = "changed"
    changed = associate(adapter, study[:1], how="lost")
    story = sentences(story_of(adapter, STUDY))
    assert (
        f"08:00:01 2 duplicates arrived from PACS (127.0.0.1) in association {same}, which was released. "
        "They were not kept: the same data set is pending already." in story
    )
    assert f"08:00:01 CT1 (127.0.0.1) sent 1 instance; association {changed} lost its connection at 08:00:01." in story
    assert (
        "08:00:01 1 instance was quarantined: another data set with this SOP Instance UID is pending; "
        "overwrite-same-instance = false keeps it." in story
    )


def test_replaced_instances_are_shown(adapter: Adapter, associate: Associate, story_of: MakeStory) -> None:
    """The newer arrival may belong to another study."""
    study = a_study()
    associate(adapter, study, "HEAD")
    adapter.clock.advance(1)
    study[0].StudyInstanceUID = "2.25.3"
    study[1].SeriesDescription = "changed"
    associate(adapter, study, "HEAD")
    story = sentences(story_of(adapter, STUDY), "HEAD")
    assert "08:00:01 2 instances were replaced by newer arrivals. Newer arrivals belong to study 2.25.3." in story
    assert "08:00:01 2 instances were reclaimed after being replaced by newer arrivals." in story


def test_other_refusals_in_the_associations_are_counted(
    adapter: Adapter, associate: Associate, story_of: MakeStory
) -> None:
    """The ledger has only the number of refusals. The log names the instances."""
    wrong = make_instance(study_uid=STUDY, **SMALL)
    del wrong.SeriesInstanceUID
    association = associate(adapter, [*a_study(), wrong])
    assert (
        f"08:00:00 1 instance was refused in association {association}: 1 with 0xA900 (data set does not match). "
        "The log of the receiver has their UIDs (instance_refused)." == sentences(story_of(adapter, STUDY))[1]
    )


# --- trouble with the platform ----------------------------------------------------------------------------------------


def test_failed_attempts_and_the_next_one_are_shown(
    adapter: Adapter, associate: Associate, story_of: MakeStory
) -> None:
    """Attempts that failed for the same reason share one sentence."""
    adapter.platform.fail("create_job", Retriable("busy"), times=100)
    associate(adapter, a_study())
    adapter.advance(15)
    [job] = adapter.jobs
    assert job.next_attempt_at is not None
    failed, kept, due = sentences(story_of(adapter, STUDY))[-3:]
    assert failed.startswith(
        f"08:00:05 Job {job.job_id[:8]}: {job.attempts} attempts to create it on the platform failed"
    )
    assert failed.endswith(f": {job.last_error}.")
    name = job.job_id[:8]
    assert f"now 2 instances are kept for job {name}." == kept
    assert (
        f"now Job {name} is queued. The next attempt to create it on the platform is at {job.next_attempt_at:%H:%M:%S}."
        == due
    )


def test_attempts_that_failed_for_different_reasons_share_one_sentence(
    adapter: Adapter, associate: Associate, story_of: MakeStory
) -> None:
    associate(adapter, a_study())
    adapter.advance(6)
    [job] = adapter.jobs
    failed = [
        Event(at=adapter.clock.now(), event="job_attempt_failed", ae_title="LUNG", job_id=job.job_id, detail=detail)
        for detail in [{"error": "it was busy"}, {"error": "it was away"}] * 50
    ]
    with adapter.ledger.write() as transaction:
        events.record(transaction, failed)
    assert sentences(story_of(adapter, STUDY))[-1].endswith(", with 2 different errors. The last error: it was away.")


def test_a_faulted_job_is_shown_with_the_operators_actions(
    adapter: Adapter, associate: Associate, story_of: MakeStory
) -> None:
    """Faulted, retried, faulted, cancelled: the story has each step, and the next commands while it is faulted."""
    adapter.platform.fail("start", Permanent("refused"), times=100)
    associate(adapter, a_study())
    adapter.advance(6)
    name = short_job(adapter)
    story = sentences(story_of(adapter, STUDY))
    assert f"Job {name} became faulted. The last attempt to start it failed: " in story[3]
    assert (
        f"now Job {name} is faulted and keeps its instances. Fix the cause, then run `dicom-adapter jobs retry "
        f"{name}`. To give up the job, run `dicom-adapter jobs cancel {name}`." == story[-1]
    )
    operators.retry(adapter.ledger, adapter.clock, adapter.jobs[0].job_id)
    adapter.advance(3)
    operators.cancel(adapter.ledger, adapter.clock, adapter.jobs[0].job_id)
    adapter.advance(3)
    kinds = [entry.kind for section in story_of(adapter, name).sections for entry in section.entries]
    assert ["job_faulted", "job_retried", "job_faulted", "job_cancel_requested", "job_cancelled"] == kinds[3:-1]
    assert "reclaimed after cancellation of every job." in sentences(story_of(adapter, name))[-1]


def test_platform_states_are_shown(adapter: Adapter, associate: Associate, story_of: MakeStory) -> None:
    associate(adapter, a_study())
    adapter.advance(6)
    [job] = adapter.jobs
    event = Event(
        at=adapter.clock.now(),
        event="job_platform_state",
        ae_title="LUNG",
        job_id=job.job_id,
        detail={"state": "faulted", "message": "out of memory"},
    )
    with adapter.ledger.write() as transaction:
        events.record(transaction, [event])
    assert (
        f"08:00:06 The platform reported job {job.job_id[:8]} as faulted (out of memory)."
        == sentences(story_of(adapter, STUDY))[-1]
    )


# --- trouble with the processor ---------------------------------------------------------------------------------------


@pytest.fixture
def troubled(make_adapter: MakeAdapter) -> Callable[[BaseException], Adapter]:
    """Return a function that makes an adapter whose processor raises."""

    def make(error: BaseException) -> Adapter:
        class Troubled(JobProcessorBase[NoSettings]):
            name = "troubled"

            def handle_instance(self, instance: object) -> None:
                raise error

        class ProcessorPlugin:
            @hookimpl
            def dicom_adapter_processors(self) -> list[type]:
                return [Troubled]

        configuration = '[ae-titles.LUNG]\nprocessor = "troubled"\n'
        return make_adapter(configuration, Plugin(ProcessorPlugin()))

    return make


def test_quarantined_instances_are_shown(
    troubled: Callable[[BaseException], Adapter], associate: Associate, story_of: MakeStory
) -> None:
    """The story has the reason, actions of operators, and the next commands."""
    adapter = troubled(Unprocessable("it has no series"))
    associate(adapter, a_study())
    story = sentences(story_of(adapter, STUDY))
    assert "08:00:00 2 instances were quarantined: it has no series." == story[1]
    which = f"--all --ae-title LUNG --study {STUDY}"
    assert (
        "now 2 instances are quarantined and in no job. Fix the cause, then run `dicom-adapter instances requeue "
        f"{which}`. To discard them, run `dicom-adapter instances discard {which}`." == story[-1]
    )
    quarantine.requeue(adapter.ledger, adapter.clock, [1], "ann")
    adapter.advance(2)
    quarantine.discard(adapter.ledger, adapter.clock, [1, 2], "ann", ["LUNG"])
    adapter.advance(60)
    assert [
        "2 instances were quarantined",
        "1 instance was requeued by ann.",
        "1 instance was quarantined",
        "2 instances were discarded by ann.",
        "2 instances were reclaimed after being discarded by an operator.",
    ] == [
        sentence[9:].split(":")[0] for sentence in sentences(story_of(adapter, STUDY))[1:] if "AE title" not in sentence
    ]


def test_a_stopped_ae_title_is_shown_with_the_reason(
    make_adapter: MakeAdapter, associate: Associate, story_of: MakeStory
) -> None:
    """The processor failed repeatedly. The story has the times of failures and stop, and the next command."""

    class Unbuilt(JobProcessorBase[NoSettings]):
        name = "troubled"

        def open(self) -> None:
            raise ValueError(SECRET)

        def handle_instance(self, instance: object) -> None:
            raise AssertionError

    class ProcessorPlugin:
        @hookimpl
        def dicom_adapter_processors(self) -> list[type]:
            return [Unbuilt]

    adapter = make_adapter('[ae-titles.LUNG]\nprocessor = "troubled"\n', Plugin(ProcessorPlugin()))
    associate(adapter, a_study())
    adapter.advance(30)
    story = sentences(story_of(adapter, STUDY))
    assert any(sentence.startswith("08:00:15 AE title LUNG was stopped: its processor failed 5") for sentence in story)
    assert any("The processor of AE title LUNG failed " in sentence for sentence in story)
    assert story[-2].startswith(
        "now AE title LUNG has been stopped since 08:00:15: its processor failed 5 times in a row"
    )
    assert story[-2].endswith("`dicom-adapter ae-titles restart LUNG`, or restart the service.")
    assert "now 2 instances wait until the AE title is served." == story[-1]
    assert SECRET not in repr(story)


def test_an_ae_title_that_is_full_or_not_served_is_shown(
    adapter: Adapter, associate: Associate, story_of: MakeStory
) -> None:
    associate(adapter, a_study())
    with adapter.ledger.write() as transaction:
        lanes.set_full(transaction, "LUNG", "quarantine-quota = 20 GB is used up")
    assert (
        "now AE title LUNG is full and refuses instances: quarantine-quota = 20 GB is used up. "
        "Requeue or discard quarantined instances, or retry or cancel faulted and failed jobs."
    ) in sentences(story_of(adapter, STUDY))
    with adapter.ledger.write() as transaction:
        lanes.delete_others(transaction, ["HEAD"])
    assert [
        "now AE title LUNG is not served. Run `dicom-adapter check` to see whether it is configured.",
        "now 2 instances wait until the AE title is served.",
    ] == sentences(story_of(adapter, STUDY))[1:]


# --- unknown names ----------------------------------------------------------------------------------------------------


def test_unknown_and_ambiguous_names_are_refused(adapter: Adapter, story_of: MakeStory) -> None:
    for name in ("1.2.3", "abcdef", "%"):
        with pytest.raises(Unknown, match="the ledger has no"):
            story_of(adapter, name)
    adapter.receive(*a_study(1), ae_title="LUNG")
    adapter.advance(6)
    adapter.receive(*a_study(1), ae_title="LUNG")
    adapter.advance(6)
    with pytest.raises(Refused, match="several job ids begin with ''; enter more characters"):
        story_of(adapter, "")


def test_every_outcome_and_end_of_an_association_has_a_text() -> None:
    assert set(InstanceOutcome) == set(OUTCOMES)
    assert {"released", "aborted", "lost"} == set(ENDED)


# --- the receiver's events --------------------------------------------------------------------------------------------


def test_an_association_without_a_c_store_is_not_recorded(adapter: Adapter) -> None:
    """A load balancer that sends a C-ECHO every second must not fill the ledger.

    Verified to fail when each association has an event.
    """
    receiver = Receiver(adapter.config, adapter.resources, None)
    request = AssociationRequest(called_ae_title="LUNG", calling_ae_title="CT1", peer_address="127.0.0.1")
    receiver.association_closed(
        ClosedAssociation(association_id="a" * 32, request=request, how="released", statuses={})
    )
    receiver.close()
    assert [] == adapter.events
