"""Read the rows about a study, series, SOP instance or job from the ledger, and create its story."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from attrs import frozen

from dicom_adapter.api.counts import counted
from dicom_adapter.api.errors import Refused
from dicom_adapter.api.values import SOURCE_JOB, JobState
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.ledger import Transaction, health, lanes, selected_instances
from dicom_adapter.ledger import jobs as ledger_jobs
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.jobs import JobRow
from dicom_adapter.ledger.schema import InstanceState
from dicom_adapter.ledger.selected_instances import InstanceSelection, SelectedInstance
from dicom_adapter.operations.story import arriving, jobs, results, waiting
from dicom_adapter.operations.story.not_entered import instances_of, story_without_rows, with_not_entered
from dicom_adapter.operations.story.values import Entry, Section, Story, StoryFacts
from dicom_adapter.operations.story.words import listed


class Unknown(Refused):
    """The ledger does not have the study, series, SOP instance or job."""


@frozen(kw_only=True)
class Subject:
    """The study, series, SOP instance or job that a story describes."""

    kind: str  # "study", "series", "sop-instance" or "job"
    name: str  # UID or job id
    which: InstanceSelection  # selects its instances
    job: JobRow | None = None  # None if the subject is not a job


def make_story(
    transaction: Transaction, name: str, now: datetime, not_entered: Sequence[ReceivedInstance] = ()
) -> Story:
    """Return the story of a Study, Series or SOP Instance UID, or of a job id or its prefix.

    `not_entered`: the instances that are stored, not yet entered in the ledger. Raises Unknown if neither they nor the
    ledger have it, and Refused if several job ids begin with `name`.
    """
    own = instances_of(name, not_entered)
    try:
        subject, arrivals = _find(transaction, name)
    except Unknown:
        if not own:
            raise
        return story_without_rows(name, own, now)
    facts = _gather(transaction, subject, arrivals, now)
    sections = [Section(ae_title=one.ae_title, entries=_entries(one)) for one in facts]
    story = Story(
        kind=subject.kind,
        name=subject.name,
        title=_title(subject, arrivals),
        studies=list(dict.fromkeys(arrival.study_instance_uid for arrival in arrivals if arrival.study_instance_uid)),
        created_at=now,
        sections=sections,
    )
    return with_not_entered(story, own)


def _find(transaction: Transaction, name: str) -> tuple[Subject, list[SelectedInstance]]:
    if "." not in name:
        return _find_job(transaction, name)
    selections = {
        "study": selected_instances.of_study,
        "sop-instance": selected_instances.of_sop_instance,
        "series": selected_instances.of_series,
    }
    for kind, select in selections.items():
        which = select(name)
        arrivals = selected_instances.arrivals(transaction, which)
        if arrivals:
            return Subject(kind=kind, name=name, which=which), arrivals
    raise Unknown(f"the ledger has no study, series or SOP instance with the UID {name}")


def _find_job(transaction: Transaction, name: str) -> tuple[Subject, list[SelectedInstance]]:
    found = ledger_jobs.with_prefix(transaction, name.lower(), 2)
    if not found:
        raise Unknown(f"the ledger has no job whose id begins with {name!r}")
    if len(found) > 1:
        raise Refused(f"several job ids begin with {name!r}; enter more characters")
    subject = Subject(
        kind="job", name=found[0].job.job_id, which=selected_instances.of_job(found[0].number), job=found[0]
    )
    return subject, selected_instances.arrivals(transaction, subject.which)


def _title(subject: Subject, arrivals: Sequence[SelectedInstance]) -> str:
    received = [arrival for arrival in arrivals if arrival.source_job is None]
    instances = counted(len({arrival.sop_instance_uid for arrival in received or arrivals}), "instance")
    studies = list(dict.fromkeys(arrival.study_instance_uid for arrival in arrivals if arrival.study_instance_uid))
    if subject.job is not None:
        text = f"study {studies[0]}" if len(studies) == 1 else counted(len(studies), "study")
        return f"Job {subject.name} ({subject.job.job.name}): {instances} of {text}"
    if subject.kind == "sop-instance":
        return f"SOP instance {subject.name} of study {listed(studies)}"
    if subject.kind == "series":
        return f"Series {subject.name} of study {listed(studies)}: {instances}"
    series = len({arrival.series_instance_uid for arrival in received or arrivals})
    return f"Study {subject.name}: {instances} in {series} series"


# --- facts ------------------------------------------------------------------------------------------------------------


def _gather(
    transaction: Transaction, subject: Subject, arrivals: Sequence[SelectedInstance], now: datetime
) -> list[StoryFacts]:
    """Return the facts of each AE title, in the order of the first arrivals."""
    which = subject.which
    found = selected_instances.jobs_with(transaction, which)
    by_job: dict[str, list[Event]] = {}
    for event in selected_instances.job_events(transaction, which):
        by_job.setdefault(str(event.job_id), []).append(event)
    instance_events = selected_instances.instance_events(transaction, which)
    associations = {str(end.association_id): end for end in selected_instances.association_ends(transaction, which)}
    moved = selected_instances.studies_of_newer(transaction, which)
    lane_reports, parts = lanes.load(transaction), health.load(transaction)
    sources = selected_instances.job_ids(
        transaction, {one.source_job for one in arrivals if one.source_job is not None}
    )
    facts = []
    for ae_title in dict.fromkeys(arrival.ae_title for arrival in arrivals):
        all_own = [arrival for arrival in arrivals if arrival.ae_title == ae_title]
        own = [arrival for arrival in all_own if arrival.source_job is None]
        own_jobs = [entry for entry in found if entry[0].job.ae_title == ae_title]
        one = StoryFacts(
            now=now,
            ae_title=ae_title,
            study=subject.name if subject.kind == "study" else "",
            arrivals=own,
            results=[arrival for arrival in all_own if arrival.source_job is not None],
            sources=sources,
            associations=associations,
            instance_events=[event for event in instance_events if event.ae_title == ae_title],
            ae_title_events=selected_instances.ae_title_events(
                transaction, ae_title, all_own[0].received_at, _end(all_own, now)
            ),
            jobs=own_jobs,
            subject_jobs=[entry for entry in own_jobs if _is_of(entry[0], subject)],
            job_events=by_job,
            uploaded=_uploaded(transaction, own_jobs),
            moved_to=[study for moved_at, study in moved if moved_at == ae_title],
            lane=lane_reports.get(ae_title),
            parts=parts,
        )
        facts.append(one)
    return facts


def _is_of(row: JobRow, subject: Subject) -> bool:
    """Return whether a job has entries: all jobs, or only the subject and the deliveries of its results."""
    if subject.job is None or row.number == subject.job.number:
        return True
    return row.job.metadata.get(SOURCE_JOB) == subject.job.job.job_id


def _end(arrivals: Sequence[SelectedInstance], now: datetime) -> datetime:
    """Return the end of the time in which events of the AE title concern these arrivals: the last release."""
    open_ones = any(one.state in (InstanceState.PENDING.value, InstanceState.QUARANTINED.value) for one in arrivals)
    return now if open_ones else max(arrival.changed_at for arrival in arrivals)


def _uploaded(transaction: Transaction, found: Sequence[tuple[JobRow, int]]) -> Mapping[str, int]:
    uploading = [row for row, _count in found if row.job.state is JobState.METADATA_SENT]
    return {row.job.job_id: selected_instances.uploaded(transaction, row.number) for row in uploading}


# --- entries ----------------------------------------------------------------------------------------------------------


def _entries(facts: StoryFacts) -> list[Entry]:
    past = [
        *arriving.stored(facts),
        *arriving.duplicated(facts),
        *arriving.interventions(facts),
        *waiting.happened(facts),
        *results.happened(facts),  # before the deliveries of the same moment
        *jobs.happened(facts),
        *arriving.reclaimed(facts),
    ]
    # The sort is stable: entries with the same time keep their order.
    past.sort(key=lambda entry: entry.at or facts.now)
    return [*past, *waiting.standing(facts), *jobs.standing(facts), *results.standing(facts)]
