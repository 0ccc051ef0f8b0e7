"""The parts of a story, and the facts that it is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from attrs import field, frozen

from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.jobs import JobRow
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.ledger.traces import InstanceTrace


@frozen(kw_only=True)
class Entry:
    """One event, once or several times in a row, or one current state."""

    kind: str  # a stable name: that of the log event if there is one
    at: datetime | None  # UTC; the first time; None: a current state
    text: str  # sentences; times are UTC, and on the day of `at` if they show no date
    fields: Mapping[str, object] = field(factory=dict)  # the content of `text` as values


@frozen(kw_only=True)
class Section:
    """The entries of one AE title: events in the order of time, then the current states."""

    ae_title: str
    entries: Sequence[Entry]


@frozen(kw_only=True)
class Story:
    """All that the ledger has on one study, SOP instance or job."""

    kind: str  # "study", "sop-instance" or "job"
    name: str  # its UID or id
    title: str
    told_at: datetime  # UTC
    sections: Sequence[Section]


@frozen(kw_only=True)
class StoryFacts:
    """What the ledger has on the subject at one AE title. Events are in the order of time."""

    now: datetime
    ae_title: str
    study: str  # the UID of the study if it is the subject of the story; otherwise ""
    arrivals: Sequence[InstanceTrace]
    associations: Mapping[str, Event]  # their closing events, by association id
    instance_events: Sequence[Event]
    ae_title_events: Sequence[Event]
    jobs: Sequence[tuple[JobRow, int]]  # each with the number of its instances among the arrivals
    subject_jobs: Sequence[tuple[JobRow, int]]  # those that get entries: all, or the one that is the subject
    job_events: Mapping[str, Sequence[Event]]  # by job id
    uploaded: Mapping[str, int]  # files that the platform has, of jobs that are being uploaded
    moved_to: Sequence[str]  # other studies, to which newer arrivals of these instances belong
    lane: LaneReport | None  # None: no host has served this AE title yet
