"""Rules for grouping instances. The rules need no clock and no host, because each instance has its time of arrival.

- Instances with the same key form a group. Each arrival restarts the wait: a group is due `quiet` after its last
  instance, but no later than `max_wait` after its first.
- An instance that arrives exactly when its group is due still belongs to the group. A later instance starts a new
  group.
- A group lists its instances in the order of arrival. A duplicate that arrives while the group is open replaces
  the older instance in its position. A duplicate with another key (for example, after the sender corrected the Patient
  ID) moves to the group of that key, so that no job contains data that its sender has replaced.
- An interrupted group is due later: see the module `interruption`.

`OpenGroups` applies these rules to one arrival at a time; its cost does not grow with the number of groups.
`group_all` is the specification: it applies the rules, except the rule for interrupted groups, to a whole list of
arrivals. `OpenGroups` and `group_all` return the same groups.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from typing import TypeAlias

from attrs import define, field, frozen

from dicom_adapter import InstanceStorageInfo
from dicom_adapter_aetitle.interruption import NEVER, Interruption

BEGINNING = datetime.min.replace(tzinfo=timezone.utc)

Key: TypeAlias = tuple[str, ...]  # the values that the instances of a group share; may be patient data
Arrival: TypeAlias = tuple[Key, InstanceStorageInfo]


@define(eq=False, kw_only=True)
class Group:
    """A group that waits for more instances. Mutable, because a copy for each arrival would take quadratic time."""

    key: Key = field(repr=False)
    first_at: datetime  # UTC; arrival of its first instance
    last_at: datetime  # UTC; arrival of its last instance
    instances: dict[str, InstanceStorageInfo] = field(factory=dict, repr=False)  # by SOP instance UID, in order
    studies: set[str] = field(factory=set)  # Study Instance UIDs of all its instances
    interruptions: dict[str, Interruption] = field(factory=dict)  # by association id
    not_before: datetime = BEGINNING  # UTC; the group is not due before this time, because it is interrupted

    @property
    def is_held(self) -> bool:
        """Return whether the group waits without a time limit."""
        return self.not_before == NEVER


@frozen(kw_only=True)
class FinishedGroup:
    """A group that is closed and ready to be submitted."""

    key: Key = field(repr=False)
    instances: tuple[InstanceStorageInfo, ...]  # empty when all of them moved to other groups
    due: datetime  # UTC
    interrupted: str = ""  # the interruptions of the group, without patient data; "": none

    def digest(self, pipeline: str) -> str:
        """Return six hexadecimal digits for the name of the job that the group becomes for `pipeline`.

        Groups that are due in the same second have different digits, because the digits depend on the first instance,
        which belongs to no other group. Pipelines have different digits even if a platform changes their names to the
        same name, such as `a.b` and `A-B`.
        """
        first = self.instances[0]
        text = f"{first.sop_instance_uid} {first.received_at.isoformat()} {pipeline}"
        return hashlib.blake2b(text.encode(), digest_size=3).hexdigest()


def due_at(group: Group, quiet: timedelta, max_wait: timedelta | None) -> datetime:
    """Return the time at which `group` is due if no more instances arrive."""
    due = group.last_at + quiet
    return max(group.not_before, due if max_wait is None else min(due, group.first_at + max_wait))


@define(eq=False)
class OpenGroups:
    """The open groups, at most one for each key. Not thread-safe: used by the lane thread only."""

    quiet: timedelta
    max_wait: timedelta | None
    _by_key: dict[Key, Group] = field(factory=dict, init=False)
    _holders: dict[str, Group] = field(factory=dict, init=False)  # the group of each SOP instance UID

    def __iter__(self) -> Iterator[Group]:
        return iter(self._by_key.values())

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: Key) -> Group | None:
        """Return the open group of `key`, or None."""
        return self._by_key.get(key)

    def due_at(self, group: Group) -> datetime:
        """Return the time at which `group` is due if no more instances arrive; `NEVER` if it is held."""
        return due_at(group, self.quiet, self.max_wait)

    def overdue(self, key: Key, at: datetime) -> Group | None:
        """Return the open group of `key` if it was due before `at`. The caller closes it before adding an instance."""
        group = self._by_key.get(key)
        return group if group is not None and self.due_at(group) < at else None

    def add(self, key: Key, instance: InstanceStorageInfo) -> Group:
        """Add `instance` to the open group of `key`, or to a new group."""
        at = instance.received_at
        group = self._by_key.get(key)
        if group is None:
            group = self._by_key[key] = Group(key=key, first_at=at, last_at=at)
        # If the clock was set back, the group must not become due earlier than before.
        group.last_at = max(group.last_at, at)
        if self._holders.get(instance.sop_instance_uid) is not group:
            self.withdraw(instance)
        group.instances[instance.sop_instance_uid] = instance
        group.studies.add(instance.study_instance_uid)
        self._holders[instance.sop_instance_uid] = group
        return group

    def withdraw(self, instance: InstanceStorageInfo) -> None:
        """Remove the older instance with the same UID from its group, unless the group was due before this arrival."""
        uid = instance.sop_instance_uid
        holder = self._holders.get(uid)
        if holder is not None and instance.received_at <= self.due_at(holder):
            del holder.instances[uid], self._holders[uid]

    def close(self, group: Group) -> FinishedGroup:
        """Remove `group` from the open groups and return its current instances."""
        del self._by_key[group.key]
        for uid in group.instances:
            if self._holders.get(uid) is group:  # false when a newer arrival moved the instance to another group
                del self._holders[uid]
        return FinishedGroup(
            key=group.key,
            instances=tuple(group.instances.values()),
            due=self.due_at(group),
            interrupted="; ".join(map(str, group.interruptions.values())),
        )


# --- the specification ----------------------------------------------------------------------------------------------


def group_all(arrivals: Iterable[Arrival], quiet: timedelta, max_wait: timedelta | None) -> list[FinishedGroup]:
    """Return all groups of `arrivals`, sorted by due time. `arrivals` must be in the order of their times."""
    arrivals = list(arrivals)
    finished = []
    for key in dict.fromkeys(key for key, _ in arrivals):
        same_key = [instance for arrived_key, instance in arrivals if arrived_key == key]
        for run in _runs(same_key, quiet, max_wait):
            due = _due(run, quiet, max_wait)
            finished.append(FinishedGroup(key=key, instances=_members(run, due, arrivals), due=due))
    return sorted(finished, key=lambda group: group.due)


def _due(run: Sequence[InstanceStorageInfo], quiet: timedelta, max_wait: timedelta | None) -> datetime:
    after_last = run[-1].received_at + quiet
    return after_last if max_wait is None else min(after_last, run[0].received_at + max_wait)


def _runs(
    instances: Iterable[InstanceStorageInfo], quiet: timedelta, max_wait: timedelta | None
) -> Iterator[list[InstanceStorageInfo]]:
    """Split the instances of one key wherever an instance arrives after the due time of those before it."""
    run: list[InstanceStorageInfo] = []
    for instance in instances:
        if run and instance.received_at > _due(run, quiet, max_wait):
            yield run
            run = []
        run.append(instance)
    if run:
        yield run


def _members(
    run: list[InstanceStorageInfo], due: datetime, arrivals: Iterable[Arrival]
) -> tuple[InstanceStorageInfo, ...]:
    """Return the instances of `run` when it is due: the newest of each UID, without those moved to another group."""
    in_run = {instance.instance_id for instance in run}
    members: dict[str, InstanceStorageInfo] = {}
    for _, instance in arrivals:
        if instance.instance_id in in_run:
            members[instance.sop_instance_uid] = instance
        elif instance.received_at <= due:
            members.pop(instance.sop_instance_uid, None)
    return tuple(members.values())
