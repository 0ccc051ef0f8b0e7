"""The interrupted groups among the open groups: reports about associations interrupt groups and end their waits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime

from attrs import define, field

from dicom_adapter import AssociationReport, AssociationStatus, InstanceStorageInfo
from dicom_adapter_aetitle.grouping import BEGINNING, Group, Key, OpenGroups
from dicom_adapter_aetitle.interruption import WAIT_ENDED, Interruption, WaitRules, interrupts


@define(eq=False)
class InterruptedGroups:
    """Finds the groups that a report concerns, and changes them. Not thread-safe: used by the lane thread only."""

    groups: OpenGroups
    rules: WaitRules
    groups_are_studies: bool  # True: each group has the instances of exactly one study
    _groups_of: dict[str, dict[Key, None]] = field(factory=dict, init=False)  # for each open association, by its id
    _failing: dict[str, AssociationReport] = field(factory=dict, init=False)  # open associations with failures, by id

    def note_arrival(self, group: Group, instance: InstanceStorageInfo) -> bool:
        """Note that `instance` was added to `group`. Return whether this has changed the due time of the group."""
        keys = self._groups_of.get(instance.association_id)
        if keys is None:
            self._groups_of[instance.association_id] = {group.key: None}
        else:
            keys[group.key] = None
        if not (group.interruptions or self._failing):
            return False
        before = group.not_before
        failing = self._failing.get(instance.association_id)
        if failing is not None and failing.association_id not in group.interruptions and _may_lack(group, failing):
            self._interrupt(group, failing)
        for interruption in group.interruptions.values():
            interruption.note_arrival(instance)
        _update(group, instance.received_at)
        return group.not_before != before

    def note_report(self, association: AssociationReport, now: datetime) -> list[Group]:
        """Interrupt groups, or end their waits, because of a report. Return the groups whose due time has changed."""
        earlier = self._failing.pop(association.association_id, None)
        if association.status is AssociationStatus.OPEN:
            self._failing[association.association_id] = association
        concerned = self._concerned(association)
        if association.status is not AssociationStatus.OPEN:
            self._groups_of.pop(association.association_id, None)
        before = [group.not_before for group in concerned]
        for group in concerned:
            if association.is_clean:
                _complete(group, association)
            elif interrupts(association) and not _has_same_failures(association, earlier):
                self._interrupt(group, association)
            _update(group, now)
        return [group for group, old in zip(concerned, before, strict=True) if group.not_before != old]

    def end_wait(self, studies: Collection[str], now: datetime) -> list[Group]:
        """End the waits of the groups with instances of these studies. Return these groups."""
        concerned = [group for group in self._with_studies(studies) if group.interruptions]
        for group in concerned:
            for interruption in group.interruptions.values():
                interruption.ended_by = WAIT_ENDED
            _update(group, now)
        return concerned

    def forget(self, key: Key, instances: Iterable[InstanceStorageInfo]) -> None:
        """Forget a group that was closed with these instances."""
        for association_id in {instance.association_id for instance in instances}:
            keys = self._groups_of.get(association_id, {})
            keys.pop(key, None)
            if not keys:
                self._groups_of.pop(association_id, None)

    def _concerned(self, association: AssociationReport) -> list[Group]:
        """Return the groups that the report concerns."""
        found = {group.key: group for group in self._with_studies(association.studies)}
        named = {study for group in found.values() for study in group.studies}
        # If a study has no group, its missing instances may belong to other groups, unless each group is one study.
        are_all_found = self.groups_are_studies or named.issuperset(association.studies)
        if not (association.is_incomplete and association.all_studies_known and association.studies and are_all_found):
            # Any group of the association may lack instances.
            found |= {group.key: group for group in self._of_association(association.association_id)}
        return list(found.values())

    def _of_association(self, association_id: str) -> Iterator[Group]:
        for key in self._groups_of.get(association_id, ()):
            group = self.groups.get(key)
            if group is not None:
                yield group

    def _with_studies(self, studies: Collection[str]) -> list[Group]:
        if not studies:
            return []
        if self.groups_are_studies:
            return [group for study in studies if (group := self.groups.get((study,))) is not None]
        return [group for group in self.groups if not group.studies.isdisjoint(studies)]

    def _interrupt(self, group: Group, association: AssociationReport) -> None:
        arrived = group.instances.values()
        studies = set(association.studies)
        if not (studies and association.all_studies_known):
            studies |= _studies_of(association, group)
        earlier = {instance.association_id for instance in arrived if instance.received_at <= association.at}
        interruption = Interruption(
            association=association,
            until=self.rules.until(association),
            earlier=frozenset({association.association_id, *earlier}),
            studies=frozenset(studies),
        )
        group.interruptions[association.association_id] = interruption
        for instance in arrived:  # the sender may have returned before the report arrived
            if interruption.note_arrival(instance):
                break


def _studies_of(association: AssociationReport, group: Group) -> set[str]:
    """Return the studies of the instances that the association has added to the group."""
    name = association.association_id
    return {one.study_instance_uid for one in group.instances.values() if one.association_id == name}


def _may_lack(group: Group, association: AssociationReport) -> bool:
    """Return whether the association may have failed to store an instance of the group."""
    return not (association.all_studies_known and association.studies and group.studies.isdisjoint(association.studies))


def _has_same_failures(association: AssociationReport, earlier: AssociationReport | None) -> bool:
    """Return whether the report contains only failures that the earlier report about the association contains."""
    if earlier is None or association.cut_off or not association.all_counted:
        return False
    return dict(earlier.failed) == dict(association.failed)


def _complete(group: Group, association: AssociationReport) -> None:
    """Remove the interruptions whose missing instances this clean association has sent."""
    if not group.interruptions:
        return
    studies = _studies_of(association, group).union(association.studies)
    done = [name for name, one in group.interruptions.items() if one.is_completed_by(association, studies)]
    for name in done:
        del group.interruptions[name]


def _update(group: Group, now: datetime) -> None:
    """Set the earliest due time of the group. If all of its waits have ended early, the group may be due at `now`."""
    waits = [one.until for one in group.interruptions.values() if not one.ended_by]
    if waits:
        group.not_before = max(waits)
    elif group.not_before != BEGINNING:
        group.not_before = min(group.not_before, now)
