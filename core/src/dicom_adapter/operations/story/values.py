"""What a story consists of, and what it is told from."""

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
    """One thing that happened, once or many times in a row, or how something stands."""

    kind: str  # a stable name; that of the log's event where there is one
    at: datetime | None  # UTC; when it first happened; None: this is how it stands now
    text: str  # sentences; their times are UTC, of the day of `at` where they show no date
    fields: Mapping[str, object] = field(factory=dict)  # the same as values


@frozen(kw_only=True)
class Section:
    """What happened at one AE title: in the order of time, then how it stands now."""

    ae_title: str
    entries: Sequence[Entry]


@frozen(kw_only=True)
class Story:
    """All that the ledger tells of one thing."""

    kind: str  # "study", "sop-instance" or "job"
    name: str  # its UID or id
    title: str
    told_at: datetime  # UTC
    sections: Sequence[Section]


@frozen(kw_only=True)
class StoryFacts:
    """What the ledger has on it at one AE title. Events are in the order of time."""

    now: datetime
    ae_title: str
    study: str  # the UID of the study that the story is of; "" when it is of an instance or a job
    arrivals: Sequence[InstanceTrace]
    associations: Mapping[str, Event]  # how they ended, by their ids
    instance_events: Sequence[Event]
    ae_title_events: Sequence[Event]
    jobs: Sequence[tuple[JobRow, int]]  # with how many of the arrivals each has
    told_jobs: Sequence[tuple[JobRow, int]]  # those of them that the story is about
    job_events: Mapping[str, Sequence[Event]]  # by job id
    uploaded: Mapping[str, int]  # files that the platform has, of jobs that are at it
    moved_to: Sequence[str]  # studies of newer arrivals that stand for some of these, and are not among them
    lane: LaneReport | None  # None: no host has served this AE title yet
