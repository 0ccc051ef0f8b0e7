"""Entries about instances that are stored, not yet entered in the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from attrs import evolve

from dicom_adapter.api.counts import counted
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.ledger.microseconds import to_datetime
from dicom_adapter.operations.story.values import Entry, Section, Story
from dicom_adapter.operations.story.words import clock, listed

KINDS = {  # kinds of subjects, by the column of the UID
    "study_instance_uid": "study",
    "series_instance_uid": "series",
    "sop_instance_uid": "sop-instance",
}
TITLES = {"study": "Study", "series": "Series", "sop-instance": "SOP instance"}


def instances_of(name: str, not_entered: Sequence[ReceivedInstance]) -> list[ReceivedInstance]:
    """Return the instances with this Study, Series or SOP Instance UID."""
    return [instance for instance in not_entered if any(instance.columns[column] == name for column in KINDS)]


def with_not_entered(story: Story, not_entered: Sequence[ReceivedInstance]) -> Story:
    """Return the story with these instances, which belong to its subject."""
    own: dict[str, list[ReceivedInstance]] = {}
    for instance in not_entered:
        own.setdefault(instance.ae_title, []).append(instance)
    sections = [
        evolve(section, entries=[*section.entries, *_entries(own.pop(section.ae_title, []), story.created_at)])
        for section in story.sections
    ]
    new = [Section(ae_title=name, entries=_entries(part, story.created_at)) for name, part in own.items()]
    return evolve(story, sections=[*sections, *new])


def story_without_rows(name: str, not_entered: Sequence[ReceivedInstance], now: datetime) -> Story:
    """Return the story of a subject of which no instance has a row."""
    kind = next(kind for column, kind in KINDS.items() if any(one.columns[column] == name for one in not_entered))
    studies = list(dict.fromkeys(instance.study_instance_uid for instance in not_entered))
    of_study = "" if kind == "study" else f" of study {listed(studies)}"
    how_many = "" if kind == "sop-instance" else f": {counted(len(not_entered), 'instance')}"
    title = f"{TITLES[kind]} {name}{of_study}{how_many}"
    story = Story(kind=kind, name=name, title=title, studies=studies, created_at=now, sections=[])
    return with_not_entered(story, not_entered)


def _entries(not_entered: Sequence[ReceivedInstance], now: datetime) -> list[Entry]:
    if not not_entered:
        return []
    first = to_datetime(min(instance.columns["received_at"] for instance in not_entered))
    senders = listed(dict.fromkeys(f"{one.calling_ae_title} ({one.peer_address})" for one in not_entered))
    are, it = ("is", "it") if len(not_entered) == 1 else ("are", "the first")
    text = (
        f"{counted(len(not_entered), 'instance')} from {senders} {are} stored, not yet entered in the ledger: {it} was "
        f"stored at {clock(first, now)}. The service enters the rows of stored instances, usually within milliseconds; "
        "`dicom-adapter status` shows why that takes longer."
    )
    return [Entry(kind="not_entered", at=None, text=text, fields={"instances": len(not_entered), "since": first})]
