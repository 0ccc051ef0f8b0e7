"""Which instances belong together, and when a group is complete. No clock and no host: times come with the instances.

- Instances with the same key form a group. Each arrival starts the wait anew: a group is due `quiet` after its last
  instance, but no later than `max_wait` after its first.
- An instance that arrives exactly when its group is due still belongs to it; a later one starts a new group.
- Instances stand in the order of their arrival. When a SOP instance comes again while its group is open, the newer one
  takes the place of the older one; when it comes again under another key (the sender has corrected the patient's ID,
  say), it goes over to that group, so that no job gets data that its sender has replaced.

`OpenGroups` keeps these rules one arrival at a time, at a cost that does not grow with the groups; `group_all` states
them for a whole list of arrivals, as plainly as possible. Both give the same groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import TypeAlias

from attrs import define, field, frozen

from dicom_adapter import InstanceStorageInfo

Key: TypeAlias = tuple[str, ...]  # what the instances of a group have in common; may be patient data
Arrival: TypeAlias = tuple[Key, InstanceStorageInfo]


@define(eq=False, kw_only=True)
class Group:
    """A group that still waits. It grows in place, because copying it for each arrival would be quadratic."""

    key: Key = field(repr=False)
    first_at: datetime  # UTC; when its first instance had arrived
    last_at: datetime  # UTC; when its last instance had arrived
    instances: dict[str, InstanceStorageInfo] = field(factory=dict, repr=False)  # by SOP instance UID, in order


@frozen(kw_only=True)
class FinishedGroup:
    """A group that waits no longer."""

    key: Key = field(repr=False)
    instances: tuple[InstanceStorageInfo, ...]  # empty when all of them went over to other groups
    due: datetime  # UTC


def due_at(group: Group, quiet: timedelta, max_wait: timedelta | None) -> datetime:
    """When `group` is complete, if nothing more arrives."""
    due = group.last_at + quiet
    return due if max_wait is None else min(due, group.first_at + max_wait)


@define(eq=False)
class OpenGroups:
    """The groups that wait, at most one for each key."""

    quiet: timedelta
    max_wait: timedelta | None
    _by_key: dict[Key, Group] = field(factory=dict, init=False)
    _holders: dict[str, Group] = field(factory=dict, init=False)  # SOP instance UID to the group that it is in

    def __iter__(self) -> Iterator[Group]:
        return iter(self._by_key.values())

    def due_at(self, group: Group) -> datetime:
        """When `group` is complete, if nothing more arrives."""
        return due_at(group, self.quiet, self.max_wait)

    def overdue(self, key: Key, at: datetime) -> Group | None:
        """The group of `key` if an instance that arrives `at` comes too late for it; it has to be closed first."""
        group = self._by_key.get(key)
        return group if group is not None and self.due_at(group) < at else None

    def add(self, key: Key, instance: InstanceStorageInfo) -> Group:
        """Put `instance` into the open group of `key`, or into a new one."""
        at = instance.received_at
        group = self._by_key.get(key)
        if group is None:
            group = self._by_key[key] = Group(key=key, first_at=at, last_at=at)
        # A clock that was set back must not make a group due earlier than it was before.
        group.last_at = max(group.last_at, at)
        if self._holders.get(instance.sop_instance_uid) is not group:
            self.withdraw(instance)
        group.instances[instance.sop_instance_uid] = instance
        self._holders[instance.sop_instance_uid] = group
        return group

    def withdraw(self, instance: InstanceStorageInfo) -> None:
        """Take what `instance` stands for out of its group, unless that was already complete when it arrived."""
        uid = instance.sop_instance_uid
        holder = self._holders.get(uid)
        if holder is not None and instance.received_at <= self.due_at(holder):
            del holder.instances[uid], self._holders[uid]

    def close(self, group: Group) -> FinishedGroup:
        """Take `group` out, with all that it holds now."""
        del self._by_key[group.key]
        for uid in group.instances:
            if self._holders.get(uid) is group:  # not when a newer arrival has gone to another group
                del self._holders[uid]
        return FinishedGroup(key=group.key, instances=tuple(group.instances.values()), due=self.due_at(group))


# --- the specification ----------------------------------------------------------------------------------------------


def group_all(arrivals: Iterable[Arrival], quiet: timedelta, max_wait: timedelta | None) -> list[FinishedGroup]:
    """All groups that `arrivals`, in the order of their time, end up in; sorted by the time at which they are due."""
    arrivals = list(arrivals)
    finished = []
    for key in dict.fromkeys(key for key, _ in arrivals):
        own = [instance for arrived_key, instance in arrivals if arrived_key == key]
        for run in _runs(own, quiet, max_wait):
            due = _due(run, quiet, max_wait)
            finished.append(FinishedGroup(key=key, instances=_members(run, due, arrivals), due=due))
    return sorted(finished, key=lambda group: group.due)


def _due(run: Sequence[InstanceStorageInfo], quiet: timedelta, max_wait: timedelta | None) -> datetime:
    after_last = run[-1].received_at + quiet
    return after_last if max_wait is None else min(after_last, run[0].received_at + max_wait)


def _runs(
    instances: Iterable[InstanceStorageInfo], quiet: timedelta, max_wait: timedelta | None
) -> Iterator[list[InstanceStorageInfo]]:
    """Cut the instances of one key where one arrives after those before it were due."""
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
    """What is left of `run` when it is due: the newest of each SOP instance, without those that went over."""
    in_run = {instance.instance_id for instance in run}
    members: dict[str, InstanceStorageInfo] = {}
    for _, instance in arrivals:
        if instance.instance_id in in_run:
            members[instance.sop_instance_uid] = instance
        elif instance.received_at <= due:
            members.pop(instance.sop_instance_uid, None)
    return tuple(members.values())
