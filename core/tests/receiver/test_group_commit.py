"""Groups are collected while a group is committed; an instance waits only for that commit, never for more instances."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import pytest

from dicom_adapter.api.receiving import StoreOutcome, StoreResult
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.flow.store.commit import Store
from dicom_adapter.ledger import arrivals, instances
from dicom_adapter.receiver.group_commit import ALONE_SECONDS, GROUP_SECONDS, INLINE_BYTES, GroupCommit
from dicom_adapter.simulation.adapter import encode, make_request
from dicom_adapter.testing import Adapter

SECONDS = 30  # limit of a wait for a thread
SMALL = 1000  # bytes


def received(number: int, size: int = SMALL) -> ReceivedInstance:
    return ReceivedInstance(columns={"storage_key": str(number), "size_bytes": size})


class Committer:
    """Committer that commits when the test allows it, and records which instances were committed together."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.answered: list[tuple[Any, str]] = []
        self.may_go_on = threading.Event()
        self.loop = asyncio.new_event_loop()
        self.is_alone = False
        self.commits_inline = False  # False: an inline commit would take long
        self.limits: set[float] = set()  # seconds that the commit before an inline commit may have taken
        self.inline: list[list[str]] = []  # groups that were committed inline
        self.commits = GroupCommit(
            self.loop,
            self._commit,
            self._deliver,
            self._commit_inline,
            may_commit_inline=lambda: self.is_alone,
        )

    def _commit(self, group: Sequence[ReceivedInstance]) -> list[StoreResult]:
        self.groups.append([instance.storage_key for instance in group])
        self.loop.call_soon_threadsafe(self.begun.set)
        assert self.may_go_on.wait(SECONDS)
        return [StoreResult(outcome=StoreOutcome.STORED, reason=instance.storage_key) for instance in group]

    def _commit_inline(self, group: Sequence[ReceivedInstance], seconds: float) -> list[StoreResult] | None:
        self.limits.add(seconds)
        if not self.commits_inline:
            return None
        self.inline.append([instance.storage_key for instance in group])
        return [StoreResult(outcome=StoreOutcome.STORED, reason=instance.storage_key) for instance in group]

    def _deliver(self, answers: Sequence[tuple[Any, StoreResult]]) -> None:
        self.answered += [(ticket, answer.reason) for ticket, answer in answers]
        self.delivered.set()

    def run(self, scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a scene in the event loop."""
        self.begun, self.delivered = asyncio.Event(), asyncio.Event()
        self.loop.run_until_complete(asyncio.wait_for(scene(), SECONDS))

    async def until_answered(self, count: int) -> None:
        while len(self.answered) < count:
            self.delivered.clear()
            await self.delivered.wait()

    def close(self) -> None:
        self.may_go_on.set()
        self.commits.close()
        self.loop.close()


@pytest.fixture
def committer() -> Iterator[Committer]:
    committer = Committer()
    yield committer
    committer.close()


def test_instances_that_wait_together_are_committed_together(committer: Committer) -> None:
    """There is no delay. Each result is delivered with its ticket, in order."""

    async def scene() -> None:
        for number in range(2):
            committer.commits.put(received(number), f"ticket {number}")
        await committer.begun.wait()
        for number in range(2, 6):
            committer.commits.put(received(number), f"ticket {number}")
        committer.may_go_on.set()
        await committer.until_answered(6)

    committer.run(scene)
    assert [["0", "1"], ["2", "3", "4", "5"]] == committer.groups
    assert [(f"ticket {number}", str(number)) for number in range(6)] == committer.answered


def test_the_next_instance_after_a_pause_is_committed_at_once(committer: Committer) -> None:
    """The instance does not wait for another instance."""
    committer.may_go_on.set()

    async def scene() -> None:
        for number in range(3):
            committer.commits.put(received(number), number)
            await committer.until_answered(number + 1)

    committer.run(scene)
    assert [["0"], ["1"], ["2"]] == committer.groups


def test_a_lone_instance_is_committed_inline_unless_it_has_to_wait(committer: Committer) -> None:
    """Then it joins a group, as do the instances that arrive before the group is committed."""
    returned = []

    async def scene() -> None:
        committer.is_alone = True
        returned.append(committer.commits.put(received(0), 0))  # the ledger is locked
        returned.append(committer.commits.put(received(1), 1))
        committer.may_go_on.set()
        await committer.until_answered(2)
        committer.commits_inline = True
        returned.append(committer.commits.put(received(2, INLINE_BYTES + 1), 2))

    committer.run(scene)
    assert [None, None, "2"] == [result and result.reason for result in returned]
    assert ([["0", "1"]], [["2"]]) == (committer.groups, committer.inline)
    assert ALONE_SECONDS in committer.limits


def test_a_group_of_small_instances_is_committed_inline_after_the_received_data(committer: Committer) -> None:
    """The results are delivered. Functions for after the commit are called after it.

    Verified to fail when the group is committed with its first instance.
    """
    called: list[int] = []
    committer.commits_inline = True

    async def scene() -> None:
        for first in (0, 3):
            for number in range(first, first + 3):
                assert committer.commits.put(received(number), number) is None
            committer.commits.call_after(lambda: called.append(len(committer.inline)))
            await committer.until_answered(first + 3)

    committer.run(scene)
    assert ([["0", "1", "2"], ["3", "4", "5"]], [1, 2]) == (committer.inline, called)
    assert [(number, str(number)) for number in range(6)] == committer.answered
    assert ([], {GROUP_SECONDS}) == (committer.groups, committer.limits)


def test_a_group_of_large_instances_is_committed_on_the_commit_thread(committer: Committer) -> None:
    """The loop receives the next instances meanwhile. A small group that follows is committed inline again.

    Verified to fail when the size of a group is not limited.
    """
    committer.commits_inline = True

    async def scene() -> None:
        committer.commits.put(received(0), 0)
        committer.commits.put(received(1, INLINE_BYTES), 1)
        await committer.begun.wait()
        committer.commits.put(received(2), 2)
        committer.may_go_on.set()
        await committer.until_answered(3)

    committer.run(scene)
    assert ([["0", "1"]], [["2"]]) == (committer.groups, committer.inline)


def test_close_waits_for_the_current_group(committer: Committer) -> None:
    """After `close` the thread has ended, even if the loop for the results is closed."""

    async def scene() -> None:
        committer.commits.put(received(0), None)
        await committer.begun.wait()

    committer.run(scene)
    committer.loop.close()
    assert committer.commits.is_alive
    closing = threading.Thread(target=committer.commits.close)
    closing.start()
    committer.may_go_on.set()
    closing.join(SECONDS)
    assert ([["0"]], False) == (committer.groups, committer.commits.is_alive)


# --- the instances of a group -------------------------------------------------------------------------

CONFIGURATION = """
[submitters.platform]
type = "memory"
[ae-titles.A.settings]
timeout = 1000
pipeline-one = "p1"
[ae-titles.OVER]
overwrite-same-instance = true
[ae-titles.OVER.settings]
timeout = 1000
pipeline-one = "p1"
"""


class Group:
    """Received instances that are committed together."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.store = Store(adapter.config, adapter.resources)

    def arrive(self, ae_title: str = "A", **attributes: Any) -> ReceivedInstance:
        data_set = make_instance(rows=2, columns=2, **attributes)
        incoming = self.store.begin(make_request(data_set, ae_title, "CT1", "0" * 32))
        incoming.write([encode(data_set)])
        received = incoming.end()
        assert isinstance(received, ReceivedInstance)
        return received

    @property
    def stored(self) -> set[str]:
        return set(self.adapter.storage.keys())

    @property
    def rows(self) -> list[str]:
        """Return the storage keys of pending instances, in the order of their ids."""
        with self.adapter.ledger.read() as transaction:
            selected = [
                row for ae_title in ("A", "OVER") for row in instances.pending_after(transaction, 0, 1000, ae_title)
            ]
        return [row.storage_key for row in sorted(selected, key=lambda row: row.instance_id)]


@pytest.fixture
def group(make_adapter: Callable[..., Adapter]) -> Group:
    return Group(make_adapter(CONFIGURATION))


def test_a_group_is_committed_in_its_order(group: Group) -> None:
    """The rows of all AE titles are in the order of arrival."""
    waiting = [group.arrive("A" if number % 3 else "OVER", seed=str(number)) for number in range(20)]
    answers = group.store.commit(waiting)

    assert [StoreOutcome.STORED] * 20 == [answer.outcome for answer in answers]
    keys = [instance.storage_key for instance in waiting]
    assert keys == [answer.instance.storage_key for answer in answers if answer.instance is not None]
    assert keys == group.rows
    assert set(keys) == group.stored


@pytest.mark.parametrize("ae_title", ["A", "OVER"])
def test_an_identical_duplicate_in_a_group_is_dropped(group: Group, ae_title: str) -> None:
    """The result is that of two groups with one instance each: the first is kept."""
    same = [group.arrive(ae_title, seed="same") for _time in range(2)]
    other = group.arrive(seed="other")
    answers = group.store.commit([*same, other])

    assert [StoreOutcome.STORED, StoreOutcome.ALREADY_STORED, StoreOutcome.STORED] == [
        answer.outcome for answer in answers
    ]
    assert answers[0].instance is not None
    assert (None, answers[0].instance.instance_id) == (answers[1].instance, answers[1].duplicate_of)
    assert {same[0].storage_key, other.storage_key} == set(group.rows) == group.stored


@pytest.mark.parametrize(("ae_title", "kept"), [("A", 0), ("OVER", 1)])
def test_a_different_duplicate_in_a_group_replaces_or_is_quarantined(group: Group, ae_title: str, kept: int) -> None:
    """The result is that of two groups with one instance each. No stored object is deleted."""
    different = [group.arrive(ae_title, seed="same", patient_name=name) for name in ("A", "B")]
    answers = group.store.commit(different)

    assert [StoreOutcome.STORED, StoreOutcome.STORED] == [answer.outcome for answer in answers]
    assert [different[kept].storage_key] == group.rows
    assert {instance.storage_key for instance in different} == group.stored
    assert {"A": {"pending": 1, "quarantined": 1}, "OVER": {"pending": 1, "released": 1}}[
        ae_title
    ] == group.adapter.states


def test_an_instance_that_cannot_be_committed_does_not_fail_the_others(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender of this instance receives a failure, and the object is deleted.

    Verified to fail when the other instances are not committed again without it.
    """
    enter = arrivals.enter
    waiting = [group.arrive(seed=str(number)) for number in range(4)]
    bad = waiting[2].storage_key

    def refuse_one(transaction: Any, rows: Sequence[Any], reasons: Sequence[str], at: int) -> Any:
        if any(bad in row for row in rows):
            raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
        return enter(transaction, rows, reasons, at)

    monkeypatch.setattr(arrivals, "enter", refuse_one)
    answers = group.store.commit(waiting)

    assert [StoreOutcome.STORED, StoreOutcome.STORED, StoreOutcome.FAILED, StoreOutcome.STORED] == [
        answer.outcome for answer in answers
    ]
    assert [instance.storage_key for instance in waiting if instance.storage_key != bad] == group.rows
    assert set(group.rows) == group.stored


def test_a_failed_sync_fails_the_whole_group(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """No instance of the group is durable, and all objects are deleted."""

    def fail(_keys: Sequence[str]) -> None:
        raise OSError(5, "Input/output error")

    waiting = [group.arrive(seed=str(number)) for number in range(3)]
    monkeypatch.setattr(group.adapter.storage, "sync", fail)

    assert [StoreOutcome.FAILED] * 3 == [answer.outcome for answer in group.store.commit(waiting)]
    assert ([], set()) == (group.rows, group.stored)


def test_function_is_called_after_the_commit_of_the_instances_before_it(committer: Committer) -> None:
    """At once if no instance waits, otherwise after the next commit, which may have no instances."""
    called: list[int] = []

    async def scene() -> None:
        committer.commits.call_after(lambda: called.append(0))
        assert [0] == called
        committer.commits.put(received(0), 0)
        await committer.begun.wait()
        committer.commits.call_after(lambda: called.append(len(committer.groups)))
        committer.commits.put(received(1), 1)
        committer.commits.call_after(lambda: called.append(len(committer.groups)))
        assert [0] == called
        committer.may_go_on.set()
        await committer.until_answered(2)

    committer.run(scene)
    committer.close()
    assert [0, 2, 2] == called
