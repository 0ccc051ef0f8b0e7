"""Interruptions of groups: what is known about instances that did not arrive, and how long a group waits for them.

- *Evidence* that something is missing is a C-STORE that failed, a data set that was cut off, or a crash of the adapter
  during the association. The group waits for `interrupted-wait`, or for an operator.
- An association that was aborted or lost without evidence interrupts its groups for a minute at most, because some
  modalities end every association in this way. If the sender has ended ten associations in a row in this way, the
  tenth and later ones do not interrupt their groups.
- The wait ends when the sender returns: an instance of the group arrives in another association. The group still
  reports its interruption.
- A clean association (released, nothing failed) of the sender, or with the same studies, completes the group if it
  began after the interruption: the wait ends, and the group does not report the interruption any longer.

All functions and methods are pure or change only their own objects; they need no clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone

from attrs import define, field, frozen

from dicom_adapter import AssociationReport, AssociationStatus, InstanceStorageInfo
from dicom_adapter_aetitle.settings import InterruptedRule

NEVER = datetime.max.replace(tzinfo=timezone.utc)  # the wait ends only when the sender returns or an operator ends it
WAIT_WITHOUT_EVIDENCE = timedelta(seconds=60)  # longest wait after an association that ended without evidence
USUAL_ENDS = 10  # a sender with so many unreleased associations in a row usually does not release them

ENDS = {
    AssociationStatus.OPEN: "is open",
    AssociationStatus.RELEASED: "was released",
    AssociationStatus.ABORTED: "was aborted",
    AssociationStatus.LOST: "was lost",
}
MORE_SINCE = "the sender has sent more instances since then"
WAIT_ENDED = "an operator has ended the wait"


@frozen(kw_only=True)
class WaitRules:
    """How long interrupted groups wait."""

    interrupted: InterruptedRule
    longest: timedelta  # `interrupted-wait`

    def until(self, association: AssociationReport) -> datetime:
        """Return the end of the wait of a group that this association has interrupted."""
        if self.interrupted is InterruptedRule.SUBMIT:
            return association.at
        if not association.is_incomplete:
            return association.at + min(self.longest, WAIT_WITHOUT_EVIDENCE)
        return NEVER if self.interrupted is InterruptedRule.HOLD else association.at + self.longest


def interrupts(association: AssociationReport) -> bool:
    """Return whether the association interrupts its groups."""
    if association.is_incomplete:
        return True
    is_broken = association.status in (AssociationStatus.ABORTED, AssociationStatus.LOST)
    return is_broken and association.unreleased_in_a_row < USUAL_ENDS


@define(eq=False, kw_only=True)
class Interruption:
    """An association that has interrupted a group."""

    association: AssociationReport
    until: datetime  # UTC; end of the wait
    # Ids of the associations that had already sent instances of the group: later instances in these associations do not
    # mean that the sender has returned.
    earlier: frozenset[str]
    studies: frozenset[str]  # studies of the instances that may be missing
    ended_by: str = field(default="")  # why the wait has ended early; "": it has not

    def note_arrival(self, instance: InstanceStorageInfo) -> bool:
        """End the wait if the sender has returned with this instance of the group. Return whether it has returned."""
        is_return = (
            not self.ended_by
            and instance.association_id not in self.earlier
            and instance.received_at > self.association.at
            and self._concerns(instance.calling_ae_title, (instance.study_instance_uid,))
        )
        if is_return:
            self.ended_by = MORE_SINCE
        return is_return

    def is_completed_by(self, association: AssociationReport, studies: Iterable[str]) -> bool:
        """Return whether this clean association began after the interruption, with instances of these studies."""
        return association.began_at >= self.association.at and self._concerns(association.calling_ae_title, studies)

    def _concerns(self, calling_ae_title: str, studies: Iterable[str]) -> bool:
        """Return whether instances of these studies from this sender may include missing ones."""
        return calling_ae_title == self.association.calling_ae_title or not self.studies.isdisjoint(studies)

    def __str__(self) -> str:
        report = self.association
        facts = [*_failures(report)] or ["no C-STORE failed"]
        text = (
            f"association {report.association_id[:8]} of {report.calling_ae_title} {ENDS[report.status]} "
            f"at {report.at:%Y-%m-%d %H:%M:%S} UTC, {', '.join(facts)}"
        )
        return f"{text}; {self.ended_by}" if self.ended_by else text


def _failures(association: AssociationReport) -> Iterable[str]:
    if association.failed:
        by_status = Counter(association.failed)
        statuses = ", ".join(f"{count} {status}" for status, count in sorted(by_status.items()))
        yield f"{_counted(by_status.total(), 'C-STORE')} failed ({statuses})"
    if association.cut_off:
        yield f"{_counted(association.cut_off, 'data set')} cut off"
    if not association.all_counted:
        yield "dicom-adapter crashed during the association: more instances may be missing"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
