"""Replay a schedule of arrivals through a simulated adapter with the configured processors, and record the events.

Storage, ledger and platform are simulated: nothing is sent, and the data of the service is not changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from itertools import count, groupby
from pathlib import Path
from typing import Any

from attrs import define, evolve, field, frozen
from pydicom.dataset import Dataset

from dicom_adapter.api.counts import counted
from dicom_adapter.api.declare import NoSettings
from dicom_adapter.api.errors import Refused
from dicom_adapter.api.settings import ByteSize
from dicom_adapter.api.values import AssociationStatus, Job, Waiting
from dicom_adapter.config.model import Config, Durability, LedgerConfig, StorageConfig, SubmitterConfig
from dicom_adapter.dicom.synthetic import make_instance, make_uid
from dicom_adapter.ledger.events import Event
from dicom_adapter.net.codes import CStoreStatus
from dicom_adapter.plugins.registry import discover
from dicom_adapter.simulation.adapter import Plugin, SimulatedAdapter
from dicom_adapter.simulation.clock import VirtualClock
from dicom_adapter.simulation.platform import MemoryPlugin, MemorySettings
from dicom_adapter.simulation.schedule import CUT_OFF, ENDS, Schedule, ScheduledArrival
from dicom_adapter.simulation.timeline import Timeline, TimelineEntry, clock

PIXELS = 4  # number of rows and columns of an image: processors read only headers
DIGEST = re.compile(r"#[0-9a-f]{6,}")  # digest of a patient in a label, which differs in each run
# Events of the ledger that are shown, and their kinds in the timeline
EVENT_KINDS = {"instance_quarantined": "quarantined", "processor_failed": "failed", "lane_stopped": "stopped"}
YEAR = timedelta(days=366)  # a simulation does not wait for groups that become due later than this


@frozen
class Instance:
    """One instance of an arrival."""

    at: datetime
    association: str
    arrival: ScheduledArrival
    is_last: bool  # it is the last instance of its arrival
    data_set: Dataset = field(repr=False)


@define
class Names:
    """The names that replace UIDs and digests in labels."""

    by_uid: dict[str, str] = field(factory=dict)  # names of studies and series in the schedule
    by_digest: dict[str, str] = field(factory=dict)  # "#1", "#2" and so on, in the order of appearance

    def label(self, label: str) -> str:
        """Replace UIDs and digests in a label by names, so that the label is the same in each run."""
        replaced = " ".join(self.by_uid.get(word, word) for word in label.split(" "))
        return DIGEST.sub(lambda match: self.by_digest.setdefault(match[0], f"#{len(self.by_digest) + 1}"), replaced)


def rehearse(config: Config, schedule: Schedule, folder: Path, time_after: timedelta) -> Timeline:
    """Replay the schedule, then advance the clock by `time_after`, or further while a group still waits.

    `folder` is an empty folder for the simulation. Raises Refused if an AE title cannot be served.
    """
    memory = MemoryPlugin()
    plugins = discover(Plugin(memory, name="simulated"), disable=config.plugins.disable)
    adapter = SimulatedAdapter(_simulated(config, memory, folder), plugins, VirtualClock(schedule.start))
    try:
        if adapter.host.refused:
            raise Refused("; ".join(f"AE title '{name}': {why}" for name, why in adapter.host.refused.items()))
        return _Rehearsal(adapter, schedule).play(time_after)
    finally:
        adapter.close()


def _simulated(config: Config, memory: MemoryPlugin, folder: Path) -> Config:
    """Return a configuration with the same AE titles and processors, and simulated storage, ledger and submitters."""
    storage = StorageConfig(
        backend=memory.storage.name,
        path=folder,
        watermark_percent=100,
        reserve=ByteSize(0),
        durability=Durability.PROCESS,
        settings=NoSettings(),
    )
    submitter = SubmitterConfig(type=memory.submitter.name, settings=MemorySettings())
    submitters = dict.fromkeys(config.submitters, submitter)
    return evolve(config, storage=storage, ledger=LedgerConfig(), submitters=submitters)


class _Rehearsal:
    def __init__(self, adapter: SimulatedAdapter, schedule: Schedule) -> None:
        self._adapter = adapter
        self._start = schedule.start
        self._names = Names()
        self._instances = list(_instances(schedule, self._names))
        self._studies = {
            str(i.data_set.SOPInstanceUID): f"{i.arrival.patient}/{i.arrival.study}" for i in self._instances
        }
        self._seen: dict[tuple[str, str], Waiting] = {}  # last recorded state of each group, by AE title and label
        self._entries: list[TimelineEntry] = []

    def play(self, time_after: timedelta) -> Timeline:
        last = {instance.association: instance for instance in self._instances}
        for (at, association), instances in groupby(self._instances, key=lambda it: (it.at, it.association)):
            batch = list(instances)
            self._receive(at, association, batch, is_end=batch[-1] is last[association])
        self._finish(time_after)
        self._entries += [self._job_entry(job) for job in self._adapter.jobs]
        self._entries += [_event_entry(event) for event in self._adapter.events if event.event in EVENT_KINDS]
        return Timeline(
            start=self._start,
            end=self._adapter.clock.now(),
            entries=sorted(self._entries, key=lambda entry: entry.at),
            waiting=[self._waiting_entry(ae_title, group) for ae_title, group in self._waiting()],
            states=self._adapter.states,
        )

    def _receive(self, at: datetime, association: str, batch: list[Instance], *, is_end: bool) -> None:
        arrival, last = batch[0].arrival, batch[-1]
        # The instances after which further instances of their arrivals are refused
        before_refused = [instance for instance in batch if instance.is_last and instance.arrival.refused]
        refused = sum(instance.arrival.refused for instance in before_refused)
        is_cut_off = is_end and last.arrival.end == CUT_OFF
        of_incomplete_studies = [*before_refused, last] if is_cut_off else before_refused
        self._adapter.advance_to(at)
        self._record_groups()
        self._entries += [_arrival_entry(at, instances) for instances in _by_arrival(batch)]
        self._adapter.receive_association(
            *(instance.data_set for instance in batch),
            ae_title=arrival.ae_title,
            calling_ae_title=arrival.calling_ae_title,
            association_id=association,
            status=ENDS[last.arrival.end] if is_end else AssociationStatus.OPEN,
            failed={CStoreStatus.OUT_OF_RESOURCES.name: refused} if refused else {},
            cut_off=int(is_cut_off),
            studies={str(instance.data_set.StudyInstanceUID) for instance in of_incomplete_studies},
        )
        self._record_groups()

    def _finish(self, time_after: timedelta) -> None:
        end = self._adapter.clock.now() + time_after
        latest = self._adapter.clock.now() + YEAR
        while True:
            self._adapter.advance_to(end)
            self._record_groups()
            due = [group.until for _ae_title, group in self._waiting() if group.until and group.until < latest]
            if not due or max(due) <= end:
                return
            end = max(due)

    def _waiting(self) -> list[tuple[str, Waiting]]:
        return [(lane.ae_title, group) for lane in self._adapter.host.describe_lanes() for group in lane.waiting]

    def _record_groups(self) -> None:
        """Record groups that are new, have new instances, or have another due time."""
        current = {(ae_title, group.label): group for ae_title, group in self._waiting()}
        for (ae_title, label), group in current.items():
            if self._seen.get((ae_title, label)) != group:
                self._entries.append(self._waiting_entry(ae_title, group))
        self._seen.update(current)  # keep earlier groups: a lane reports only some of its groups

    def _waiting_entry(self, ae_title: str, group: Waiting) -> TimelineEntry:
        label, until = self._names.label(group.label), group.until
        text = f"{label}: {counted(group.instance_count, 'instance')}"
        text += "" if until is None else f", until {clock(until - self._start)}"
        seconds = None if until is None else round((until - self._start).total_seconds(), 6)
        fields: dict[str, object] = {"group": label, "instances": group.instance_count, "untilSeconds": seconds}
        if group.problem:
            text, fields["problem"] = f"{text} ({group.problem})", group.problem
        return TimelineEntry(at=self._adapter.clock.now(), kind="waits", ae_title=ae_title, text=text, fields=fields)

    def _job_entry(self, job: Job) -> TimelineEntry:
        uids = [instance.sop_instance_uid for instance in self._adapter.instances_of(job)]
        studies = list(dict.fromkeys(self._studies[uid] for uid in uids))
        size = counted(len(uids), "instance")
        text = f"{job.name} for pipeline {job.pipeline_id}, priority {job.priority.value}, {size}: {', '.join(studies)}"
        fields = {
            "name": job.name,
            "pipelineId": job.pipeline_id,
            "priority": job.priority.value,
            "submitter": job.submitter,
            "instances": len(uids),
            "studies": studies,
        }
        return TimelineEntry(at=job.created_at, kind="job", ae_title=job.ae_title, text=text, fields=fields)


def _instances(schedule: Schedule, names: Names) -> Iterator[Instance]:
    """Yield all instances of the schedule, in the order of time."""
    numbers: dict[tuple[str, str, str], Iterator[int]] = {}
    instances = []
    for place, arrival in enumerate(schedule.arrivals):
        number = numbers.setdefault((arrival.patient, arrival.study, arrival.series), count(1))
        step = arrival.over / (arrival.count - 1) if arrival.count > 1 else 0.0
        for index in range(arrival.count):
            at = schedule.start + timedelta(seconds=arrival.time + index * step)
            association = arrival.association or f"#{place + 1}"
            data_set = _data_set(arrival, next(number), names)
            instances.append(Instance(at, association, arrival, index == arrival.count - 1, data_set))
    yield from sorted(instances, key=lambda instance: instance.at)


def _data_set(arrival: ScheduledArrival, number: int, names: Names) -> Dataset:
    study, series = f"{arrival.patient}/{arrival.study}", f"{arrival.patient}/{arrival.study}/{arrival.series}"
    study_uid, series_uid = make_uid("simulate", study), make_uid("simulate", series)
    names.by_uid.update({str(study_uid): study, str(series_uid): series})
    return make_instance(
        modality=arrival.modality,
        patient_id=arrival.patient,
        study_uid=study_uid,
        series_uid=series_uid,
        sop_uid=make_uid("simulate", f"{series}/{number}"),
        instance_number=number,
        rows=PIXELS,
        columns=PIXELS,
        **dict[str, Any](arrival.attributes),
    )


def _by_arrival(batch: list[Instance]) -> list[list[Instance]]:
    found: dict[int, list[Instance]] = {}
    for instance in batch:
        found.setdefault(id(instance.arrival), []).append(instance)
    return list(found.values())


def _arrival_entry(at: datetime, instances: list[Instance]) -> TimelineEntry:
    arrival = instances[0].arrival
    text = f"{arrival.patient}/{arrival.study}, series {arrival.series}: {len(instances)} {arrival.modality}"
    fields: Mapping[str, object] = {
        "patient": arrival.patient,
        "study": arrival.study,
        "series": arrival.series,
        "modality": arrival.modality,
        "instances": len(instances),
    }
    refused = arrival.refused if instances[-1].is_last else 0
    if refused:
        text, fields = f"{text}, {refused} refused", {**fields, "refused": refused}
    return TimelineEntry(at=at, kind="arrived", ae_title=arrival.ae_title, text=text, fields=fields)


def _event_entry(event: Event) -> TimelineEntry:
    reason = str(event.detail.get("reason") or event.detail.get("error"))
    return TimelineEntry(
        at=event.at, kind=EVENT_KINDS[event.event], ae_title=event.ae_title, text=reason, fields={"reason": reason}
    )
