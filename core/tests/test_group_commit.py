"""Groups form while one is committed, and nobody waits for more than that."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from dicom_adapter.flow.store import Answer, Arrival, Status, Store, StoreRequest
from dicom_adapter.group_commit import MOST, GroupCommit
from dicom_adapter.identity import Identity
from dicom_adapter.ledger import instances
from dicom_adapter.synthetic import make_instance
from dicom_adapter.testing import Adapter
from dicom_adapter.testing.adapter import encode, request_of

SECONDS = 30  # that a test waits for a thread


def arrival(number: int) -> Arrival:
    uid = f"1.2.{number}"
    return Arrival(
        request=StoreRequest(
            ae_title="A",
            calling_ae_title="CT1",
            peer_address="127.0.0.1",
            association_id="0" * 32,
            sop_class_uid="1.2.3",
            sop_instance_uid=uid,
            transfer_syntax_uid="1.2.840.10008.1.2",
        ),
        identity=Identity(
            sop_class_uid="1.2.3",
            sop_instance_uid=uid,
            study_instance_uid="1.2",
            series_instance_uid="1.2.1",
            patient_id="",
            issuer_of_patient_id="",
        ),
        storage_key=str(number),
        size_bytes=1,
        checksum=0,
    )


class Ledger:
    """Commits when it may, and keeps what was committed together."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.answered: list[tuple[Any, str]] = []
        self.may_go_on = threading.Event()
        self.begun = threading.Semaphore(0)

    def commit(self, arrivals: Sequence[Arrival]) -> list[Answer]:
        self.groups.append([one.storage_key for one in arrivals])
        self.begun.release()
        assert self.may_go_on.wait(SECONDS)
        return [Answer(status=Status.SUCCESS, why=one.storage_key) for one in arrivals]

    def deliver(self, answers: Sequence[tuple[Any, Answer]]) -> None:
        self.answered += [(ticket, answer.why) for ticket, answer in answers]


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def commits(ledger: Ledger) -> Iterator[GroupCommit]:
    commits = GroupCommit(ledger.commit, ledger.deliver)
    yield commits
    ledger.may_go_on.set()
    commits.close()


def test_what_comes_while_a_group_is_committed_is_the_next_one(ledger: Ledger, commits: GroupCommit) -> None:
    """The first goes alone, without waiting for others; each answer comes with its own ticket, in their order."""
    commits.put(arrival(0), "ticket 0")
    assert ledger.begun.acquire(timeout=SECONDS)
    for number in range(1, 6):
        commits.put(arrival(number), f"ticket {number}")
    ledger.may_go_on.set()
    commits.close()

    assert [["0"], ["1", "2", "3", "4", "5"]] == ledger.groups
    assert [(f"ticket {number}", str(number)) for number in range(6)] == ledger.answered


def test_a_group_has_its_limit(ledger: Ledger, commits: GroupCommit) -> None:
    """The first of it must not wait for all that follow."""
    commits.put(arrival(0), None)
    assert ledger.begun.acquire(timeout=SECONDS)
    for number in range(1, MOST + 4):
        commits.put(arrival(number), None)
    ledger.may_go_on.set()
    commits.close()

    assert [1, MOST, 3] == list(map(len, ledger.groups))


def test_closing_commits_what_waits(ledger: Ledger, commits: GroupCommit) -> None:
    """And returns when that is answered; the thread has ended then."""
    commits.put(arrival(0), None)
    assert ledger.begun.acquire(timeout=SECONDS)
    commits.put(arrival(1), None)
    assert commits.is_alive
    closing = threading.Thread(target=commits.close)
    closing.start()
    ledger.may_go_on.set()
    closing.join(SECONDS)

    assert (["0", "1"], False) == ([why for _ticket, why in ledger.answered], commits.is_alive)


def test_from_many_threads_everything_is_answered_once(ledger: Ledger, commits: GroupCommit) -> None:
    """Each sender's in its order."""
    ledger.may_go_on.set()

    def send(sender: int) -> None:
        for number in range(100):
            commits.put(arrival(number), (sender, number))

    senders = [threading.Thread(target=send, args=(sender,)) for sender in range(4)]
    for thread in senders:
        thread.start()
    for thread in senders:
        thread.join(SECONDS)
    commits.close()

    for sender in range(4):
        own = [(ticket[1], why) for ticket, why in ledger.answered if ticket[0] == sender]
        assert [(number, str(number)) for number in range(100)] == own


# --- what a group has in common, and what not -------------------------------------------------------------------------

CONFIGURATION = """
[submitters.platform]
type = "fake"
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
    """Arrivals that are committed together."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.store = Store(adapter.config, adapter.storage, adapter.ledger, adapter.clock)

    def arrive(self, ae_title: str = "A", **attributes: Any) -> Arrival:
        data_set = make_instance(rows=2, columns=2, **attributes)
        incoming = self.store.begin(request_of(data_set, ae_title, "CT1", "0" * 32))
        incoming.write([encode(data_set)])
        found = incoming.end()
        assert isinstance(found, Arrival)
        return found

    @property
    def stored(self) -> set[str]:
        return set(self.adapter.storage.keys())

    @property
    def rows(self) -> list[str]:
        """Storage keys of what is pending, in the order of their numbers."""
        with self.adapter.ledger.read() as transaction:
            found = [
                row for ae_title in ("A", "OVER") for row in instances.pending_after(transaction, 0, 1000, ae_title)
            ]
        return [row.storage_key for row in sorted(found, key=lambda row: row.instance_id)]


@pytest.fixture
def group(make_adapter: Callable[..., Adapter]) -> Group:
    return Group(make_adapter(CONFIGURATION))


def test_a_group_gets_its_rows_in_its_order(group: Group) -> None:
    """Whatever AE titles they are for."""
    arrivals = [group.arrive("A" if number % 3 else "OVER", seed=str(number)) for number in range(20)]
    answers = group.store.commit(arrivals)

    assert [Status.SUCCESS] * 20 == [answer.status for answer in answers]
    keys = [one.storage_key for one in arrivals]
    assert keys == [answer.instance.storage_key for answer in answers if answer.instance is not None]
    assert keys == group.rows
    assert set(keys) == group.stored


@pytest.mark.parametrize(("ae_title", "kept"), [("A", 0), ("OVER", 1)])
def test_who_comes_twice_in_a_group_is_there_once(group: Group, ae_title: str, kept: int) -> None:
    """As if one had come after the other: the first stays, or the second takes its place."""
    arrivals = [group.arrive(ae_title, seed="same") for _time in range(2)]
    other = group.arrive(seed="other")
    answers = group.store.commit([*arrivals, other])

    assert [Status.SUCCESS] * 3 == [answer.status for answer in answers]
    assert {arrivals[kept].storage_key, other.storage_key} == set(group.rows)
    if ae_title == "A":
        assert (None, answers[0].instance.instance_id) == (answers[1].instance, answers[1].repeats)  # type: ignore[union-attr] # it was kept
        assert set(group.rows) == group.stored


def test_one_that_cannot_be_entered_does_not_fail_the_others(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sender is told, and its object goes; the others are kept. Tried: without a second try, all fail."""
    insert_all = instances.insert_all
    arrivals = [group.arrive(seed=str(number)) for number in range(4)]
    bad = arrivals[2].storage_key

    def refuse_one(transaction: Any, arrived: Sequence[Any]) -> Any:
        if any(one.storage_key == bad for one in arrived):
            raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
        return insert_all(transaction, arrived)

    monkeypatch.setattr(instances, "insert_all", refuse_one)
    answers = group.store.commit(arrivals)

    assert [0x0000, 0x0000, 0x0110, 0x0000] == [answer.status for answer in answers]
    assert [one.storage_key for one in arrivals if one.storage_key != bad] == group.rows
    assert set(group.rows) == group.stored


def test_a_sync_that_fails_fails_all_that_wait_for_it(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the group is durable; nothing of it is left."""

    def fail(_keys: Sequence[str]) -> None:
        raise OSError(5, "Input/output error")

    arrivals = [group.arrive(seed=str(number)) for number in range(3)]
    monkeypatch.setattr(group.adapter.storage, "sync", fail)

    assert [0x0110] * 3 == [answer.status for answer in group.store.commit(arrivals)]
    assert ([], set()) == (group.rows, group.stored)
