"""The values of a story, and the facts from which a story is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from attrs import field, frozen

from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.health import PartHealth
from dicom_adapter.ledger.jobs import JobRow
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.ledger.selected_instances import SelectedInstance


@frozen(kw_only=True)
class Entry:
    """One event, which may have occurred several times in a row, or one current state."""

    kind: str  # stable name of the entry: the name of the log event, if there is a log event
    at: datetime | None  # time of the first occurrence in UTC; None: a current state
    text: str  # text in sentences, with times in the zone of `times_in`; a time without a date is on the day of `at`
    fields: Mapping[str, object] = field(factory=dict)  # the content of `text` as values


@frozen(kw_only=True)
class Section:
    """The entries of one AE title: events in the order of time, then the current states."""

    ae_title: str
    entries: Sequence[Entry]


@frozen(kw_only=True)
class Story:
    """Everything that the ledger has about one study, series, SOP instance or job."""

    kind: str  # "study", "series", "sop-instance" or "job"
    name: str  # UID or job id
    title: str
    studies: Sequence[str]  # UIDs of the studies of its instances
    created_at: datetime  # time in UTC at which the story was made
    sections: Sequence[Section]


@frozen(kw_only=True)
class StoryFacts:
    """The facts from the ledger about the subject at one AE title. Events are in the order of time."""

    now: datetime
    ae_title: str
    study: str  # the UID of the study if it is the subject of the story; otherwise ""
    arrivals: Sequence[SelectedInstance]  # received instances
    results: Sequence[SelectedInstance]
    sources: Mapping[int, str]  # ids of the jobs that have produced the results, by job number
    associations: Mapping[str, Event]  # event of the end of each association, by association id
    instance_events: Sequence[Event]
    ae_title_events: Sequence[Event]
    jobs: Sequence[tuple[JobRow, int]]  # jobs, each with the number of its instances among the arrivals
    # The jobs with entries: all jobs, or the job that is the subject and its delivery jobs.
    subject_jobs: Sequence[tuple[JobRow, int]]
    job_events: Mapping[str, Sequence[Event]]  # events of jobs, by job id
    uploaded: Mapping[str, int]  # for each job in upload, the number of uploaded files
    moved_to: Sequence[str]  # other studies, to which newer arrivals of these instances belong
    parts: Mapping[str, PartHealth] = field(factory=dict)  # health of the parts of the service
    lane: LaneReport | None  # None: no host has served this AE title yet
