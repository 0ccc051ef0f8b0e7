"""The AE Title Job Processor: one open group per key, one timer per open group, one turn per due group."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from heapq import nsmallest

from dicom_adapter import (
    INTERRUPTED,
    AssociationReport,
    InstanceStorageInfo,
    JobProcessorBase,
    ProcessorContext,
    Timer,
    Unprocessable,
    Waiting,
)
from dicom_adapter_aetitle.attribute import PADDING, read_values
from dicom_adapter_aetitle.grouping import FinishedGroup, Group, Key, OpenGroups
from dicom_adapter_aetitle.interrupted_groups import InterruptedGroups
from dicom_adapter_aetitle.interruption import WaitRules
from dicom_adapter_aetitle.settings import AeTitleSettings, InterruptedRule

_DESCRIPTION_END = {  # last part of the description of the settings
    InterruptedRule.WAIT: "",
    InterruptedRule.SUBMIT: ", does not wait for missing instances",
    InterruptedRule.HOLD: ", holds groups with missing instances",
}


class AeTitleJobProcessor(JobProcessorBase[AeTitleSettings]):
    """Job processor that groups by study, patient, series or another attribute, with one job per group and pipeline."""

    name = "aetitle"

    def __init__(self, settings: AeTitleSettings, context: ProcessorContext) -> None:
        super().__init__(settings, context)
        self._group_by = settings.effective_group_by
        self._attribute = settings.attribute
        max_wait = None if settings.max_wait is None else timedelta(seconds=settings.max_wait)
        self._groups = OpenGroups(timedelta(seconds=settings.quiet_seconds), max_wait)
        rules = WaitRules(interrupted=settings.interrupted, longest=timedelta(seconds=settings.interrupted_wait))
        self._interrupted = InterruptedGroups(self._groups, rules, groups_are_studies=self._group_by == "study")
        self._timers: dict[Key, Timer] = {}  # exactly one for each open group that is not held
        # Patient IDs are guessable: without a secret key, hashing every possible ID would identify the patient.
        self._label_secret = secrets.token_bytes(16)

    @classmethod
    def describe(cls, settings: AeTitleSettings) -> str:
        names = [
            name if one.submitter is None else f"{name} on {one.submitter}" for name, one in settings.pipelines.items()
        ]
        at_most = "" if settings.max_wait is None else f" (at most {settings.max_wait:.10g} s after the first)"
        return (
            f"groups by {settings.effective_group_by}, "
            f"ready {settings.quiet_seconds:.10g} s after the last instance{at_most}, "
            f"{len(names)} pipeline{'' if len(names) == 1 else 's'} ({', '.join(names)}), "
            f"priority {settings.priority.value}{_DESCRIPTION_END[settings.interrupted]}"
        )

    @classmethod
    def notices(cls, settings: AeTitleSettings) -> Sequence[str]:
        if settings.timeout is None or settings.group_by is not None:
            return ()
        return (
            "instances are grouped by patient, because timeout is set and group-by is not: all studies of a patient "
            'become one job; set group-by = "study" for one job for each study, or group-by = "patient" to keep this '
            "grouping without this notice",
        )

    def handle_instance(self, instance: InstanceStorageInfo) -> None:
        try:
            key = self._key_of(instance)
        except Unprocessable:
            self._groups.withdraw(instance)  # the older instance is no longer pending and cannot become a job
            raise
        overdue = self._groups.overdue(key, instance.received_at)
        if overdue is not None:  # the host delivered this instance before it ran the group's timer
            self._finish(overdue)
        group = self._groups.add(key, instance)
        if self._interrupted.note_arrival(group, instance) or key not in self._timers:
            self._start_timer(group)

    def association_changed(self, association: AssociationReport) -> None:
        for group in self._interrupted.note_report(association, self.now()):
            self._start_timer(group)

    def end_wait(self, study_instance_uids: Collection[str]) -> None:
        for group in self._interrupted.end_wait(study_instance_uids, self.now()):
            self._start_timer(group)

    def waiting(self) -> Iterable[Waiting]:
        return [self._waiting(group) for group in self._groups]

    def waiting_soonest(self, limit: int) -> tuple[int, Sequence[Waiting]]:
        # Only the chosen groups are described: an AE title may have ten thousand.
        chosen = nsmallest(limit, self._groups, key=self._urgency)
        return len(self._groups), [self._waiting(group) for group in chosen]

    def _urgency(self, group: Group) -> tuple[bool, datetime]:
        return not group.interruptions, self._groups.due_at(group)

    def _waiting(self, group: Group) -> Waiting:
        return Waiting(
            label=self._label(group.key),
            instance_count=len(group.instances),
            until=None if group.is_held else self._groups.due_at(group),
            problem="; ".join(map(str, group.interruptions.values())),
        )

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()

    # --- from a due group to jobs -----------------------------------------------------------------------------------

    def _start_timer(self, group: Group) -> None:
        """Start the timer of the group, and cancel an earlier one. A held group has no timer."""
        self._cancel_timer(group)
        if not group.is_held:
            self._timers[group.key] = self.call_at(self._groups.due_at(group), partial(self._handle_timer, group))

    def _cancel_timer(self, group: Group) -> None:
        timer = self._timers.pop(group.key, None)
        if timer is not None:
            timer.cancel()

    def _handle_timer(self, group: Group) -> None:
        """Finish the group if it is due; otherwise start the timer again.

        An arrival does not restart the timer: a new timer for each instance would be expensive.
        """
        if self.now() < self._groups.due_at(group):
            self._start_timer(group)
        else:
            self._finish(group)

    def _finish(self, group: Group) -> None:
        self._cancel_timer(group)
        finished = self._groups.close(group)
        self._interrupted.forget(finished.key, finished.instances)
        if finished.instances:
            self._submit(finished)
            self.remove_instances(finished.instances)

    def _submit(self, finished: FinishedGroup) -> None:
        # This turn usually runs at the due time, but later if a late instance finished the group. Job names contain
        # the due time, so that they are the same in both cases.
        metadata = {INTERRUPTED: finished.interrupted} if finished.interrupted else {}
        for name, pipeline in self.settings.pipelines.items():
            job_name = f"{self.ae_title}-{name}-{finished.due:%Y%m%d%H%M%S}-{finished.digest(name)}"
            self.submit_pipeline_job(
                job_name,
                pipeline.id,
                self.settings.priority,
                finished.instances,
                metadata=metadata,
                submitter=pipeline.submitter,
            )

    # --- keys and their labels --------------------------------------------------------------------------------------

    def _key_of(self, instance: InstanceStorageInfo) -> Key:
        """Return the key of `instance`. Raises Unprocessable, without patient data, if the attribute is missing."""
        if self._attribute is not None:
            return self._required(read_values(self._attribute, self.read_header(instance)), str(self._attribute))
        if self._group_by == "patient":
            patient_id = self._required_text(instance.patient_id, "PatientID (0010,0020)")
            return (patient_id, instance.issuer_of_patient_id.strip(PADDING))
        if self._group_by == "series":
            return (self._required_text(instance.series_instance_uid, "SeriesInstanceUID (0020,000E)"),)
        return (self._required_text(instance.study_instance_uid, "StudyInstanceUID (0020,000D)"),)

    def _required_text(self, value: str, attribute: str) -> str:
        text = value.strip(PADDING)
        self._required((text,) if text else (), attribute)
        return text

    def _required(self, key: Key, attribute: str) -> Key:
        if not key:
            raise Unprocessable(
                f"AE title '{self.ae_title}' groups by {attribute}, which is missing or empty: "
                "send the instance again with a value, or group by something else"
            )
        return key

    def _label(self, key: Key) -> str:
        if self._group_by in ("study", "series"):
            return f"{self._group_by} {key[0]}"
        text = "\0".join(key).encode("utf-8", "surrogatepass")  # a Patient ID may contain bytes that are not valid text
        return f"{self._group_by} #{hashlib.blake2b(text, key=self._label_secret, digest_size=4).hexdigest()}"
