"""The search for studies and jobs, and the story of one of them.

Viewers search by UIDs and job ids only: an answer to a Patient ID or Accession Number would be patient data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from attrs import frozen

from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.ledger import Transaction, jobs, series, studies
from dicom_adapter.ledger.filters import Filters
from dicom_adapter.ledger.series import ArrivedSeries
from dicom_adapter.ledger.studies import StudySummary
from dicom_adapter.operations.look_up import (
    JOB_ID,
    Matches,
    NotReceived,
    find_not_received,
    match_value,
    studies_without_rows,
)
from dicom_adapter.operations.not_entered import series_of
from dicom_adapter.operations.senders import describe, name_of
from dicom_adapter.operations.story import Entry, Story, Unknown, full_times, make_story

LONGEST_SEARCH = 256  # characters
NEWEST_STUDIES = 20
PATIENT_TITLES = {  # by field of ArrivedSeries
    "patient_id": "Patient ID",
    "accession_number": "Accession Number",
    "study_date": "Study Date",
    "study_description": "Study Description",
    "series_description": "Series Description",
}
GOOD = ("job_submitted", "job_succeeded", "results_collected", "instances_reclaimed")
WARN = ("quarantined", "incomplete", "attempt_failed", "unreleased", "duplicate", "cancel", "ignored")
BAD = ("failed", "faulted", "stopped", "full", "not_served")
BUSY = ("waiting", "not_entered", "job_unfinished", "released")


@frozen(kw_only=True)
class StudyLine:
    """A study in a list."""

    summary: StudySummary
    patient: Mapping[str, Sequence[str]]  # empty for viewers


@frozen(kw_only=True)
class SearchAnswer:
    """The answer to a search."""

    go_to: str = ""  # the address to open, if exactly one study or job matches
    lines: Sequence[StudyLine] = ()
    job: str = ""
    are_more: bool = False
    problem: str = ""
    not_received: NotReceived | None = None

    @property
    def rejections(self) -> list[str]:
        """The associations that were rejected lately, in words."""
        if self.not_received is None:
            return []
        return [
            f"{name_of(one.calling_ae_title, [one.peer_address] if one.peer_address else [])}: {describe(one)}"
            for one in self.not_received.rejected[:10]
        ]


@frozen(kw_only=True)
class StoryLine:
    """An entry of a story."""

    tone: str
    at: datetime | None
    text: str


@frozen(kw_only=True)
class StudyContent:
    """The story of a study, series, SOP instance or job."""

    title: str
    kind: str
    name: str
    at: datetime  # time of the story
    sections: Sequence[tuple[str, Sequence[StoryLine]]]  # AE title, entries
    jobs: Sequence[jobs.JobRow]
    studies: Sequence[str]
    patient: Mapping[str, Sequence[str]]

    @property
    def watched_jobs(self) -> str:
        """The ids of the jobs whose changes change the page, separated by backslashes."""
        return "\\".join(row.job.job_id for row in self.jobs)

    @property
    def watched_ae_titles(self) -> str:
        """The AE titles whose changes change the page, separated by backslashes."""
        return "\\".join(ae_title for ae_title, _entries in self.sections)


def search(
    transaction: Transaction, value: str, now: datetime, not_entered: Sequence[ReceivedInstance], *, shows_patient: bool
) -> SearchAnswer:
    """Return the studies and jobs that match a UID, a job id, an Accession Number or a Patient ID.

    `not_entered`: instances that are stored, not yet entered in the ledger.
    """
    value = value.strip()
    if not value or len(value) > LONGEST_SEARCH:
        return SearchAnswer(problem="Enter a UID, a job id, an Accession Number or a Patient ID.")
    try:
        match = match_value if shows_patient else _match_identifier
        found = match(transaction, value, not_entered)
    except Unknown as unknown:
        not_received = find_not_received(transaction, Filters(), now)
        return SearchAnswer(problem=f"Nothing found: {unknown}.", not_received=not_received)
    if found.subject:
        kind = "studies" if "." in found.subject else "jobs"
        return SearchAnswer(go_to=f"/{kind}/{found.subject}")
    lines = [view_study_line(study, shows_patient=shows_patient) for study in found.studies]
    return SearchAnswer(lines=lines, job=found.job, are_more=found.are_more)


def _match_identifier(transaction: Transaction, value: str, not_entered: Sequence[ReceivedInstance]) -> Matches:
    """Look for a UID, or a job id or its prefix. Raises Unknown."""
    by_uid = Filters(study_instance_uid=value), Filters(series_instance_uid=value), Filters(sop_instance_uid=value)
    if "." in value and any(
        studies.find(transaction, one, 1) or studies_without_rows(not_entered, one) for one in by_uid
    ):
        return Matches(subject=value)
    if JOB_ID.fullmatch(value) and jobs.with_prefix(transaction, value.lower(), 1):
        return Matches(subject=value.lower())
    raise Unknown("the ledger has no study, series, SOP instance or job with this id")


def newest_studies(
    transaction: Transaction, not_entered: Sequence[ReceivedInstance], *, shows_patient: bool
) -> list[StudyLine]:
    """Return the studies that arrived last. `not_entered`: instances that are stored, not yet entered in the ledger."""
    uids = series.newest_studies(transaction, NEWEST_STUDIES)
    found = {one.study_instance_uid: one for one in studies.summaries(transaction, uids)}
    new = [one for one in studies_without_rows(not_entered, Filters()) if one.study_instance_uid not in found]
    newest = [*reversed(new), *(found[uid] for uid in uids if uid in found)][:NEWEST_STUDIES]
    return [view_study_line(one, shows_patient=shows_patient) for one in newest]


def view_study_line(summary: StudySummary, *, shows_patient: bool) -> StudyLine:
    """Return a study as lists show it."""
    return StudyLine(summary=summary, patient=patient_of(summary.series) if shows_patient else {})


def patient_of(found: Sequence[ArrivedSeries]) -> dict[str, list[str]]:
    """Return the values of the attributes that identify a patient or study, each once, by title."""
    values = {
        title: [value for value in dict.fromkeys(getattr(one, name) for one in found) if value]
        for name, title in PATIENT_TITLES.items()
    }
    return {title: list(map(_printable, some)) for title, some in values.items() if some}


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def study_page(
    transaction: Transaction, name: str, now: datetime, not_entered: Sequence[ReceivedInstance], *, shows_patient: bool
) -> StudyContent:
    """Return the story of a UID. Raises Unknown if neither the ledger nor `not_entered` has it.

    `not_entered`: instances that are stored, not yet entered in the ledger.
    """
    with full_times():
        story = make_story(transaction, name, now, not_entered)
    found = jobs.of_studies(transaction, story.studies) if story.studies else []
    arrived = series_of(transaction, story.studies, not_entered) if shows_patient else []
    return view_study(story, found, arrived)


def view_study(story: Story, found: Sequence[jobs.JobRow], arrived: Sequence[ArrivedSeries]) -> StudyContent:
    """Return what the page of a study shows. `arrived`: empty if patient data is not shown."""
    return StudyContent(
        title=story.title,
        kind=story.kind,
        name=story.name,
        at=story.created_at,
        sections=[(section.ae_title, list(_lines(section.entries))) for section in story.sections],
        jobs=found,
        studies=story.studies,
        patient=patient_of(arrived),
    )


def _lines(entries: Sequence[Entry]) -> Iterator[StoryLine]:
    for entry in entries:
        yield StoryLine(tone=tone_of_entry(entry.kind), at=entry.at, text=entry.text)


def tone_of_entry(kind: str) -> str:
    """Return how a page colours an entry of a story."""
    for tone, words in (("bad", BAD), ("warn", WARN), ("busy", BUSY), ("good", GOOD)):
        if any(word in kind for word in words):
            return tone
    return "calm"
