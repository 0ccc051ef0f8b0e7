"""Quarantined instances on a simulated clock: requeue, discard, export, and the quota."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from dicom_adapter import InstanceStorageInfo as Instance
from dicom_adapter import (
    JobPriority,
    JobProcessorBase,
    JobState,
    NoSettings,
    Permanent,
    StoredObjectMissing,
    Unprocessable,
    hookimpl,
)
from dicom_adapter.api.errors import LedgerUnavailable
from dicom_adapter.api.receiving import AssociationRequest, Rejection
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.acceptance import Space
from dicom_adapter.flow.association import Load, judge
from dicom_adapter.flow.process import quarantine
from dicom_adapter.flow.process.quarantine import Intervention
from dicom_adapter.flow.reclaim.quota import reaches_quota
from dicom_adapter.flow.submit import operators
from dicom_adapter.flow.verified_reader import StoredObjectChanged
from dicom_adapter.ledger import events, instance_rows, jobs, lanes
from dicom_adapter.ledger.held import count_held_bytes
from dicom_adapter.ledger.schema import LaneState
from dicom_adapter.operations.export import export
from dicom_adapter.testing import Adapter, Plugin

QUOTA = 10_000
STORAGE = f"""
[storage]
path = "data"
backend = "files"
watermark-percent = 100
reserve = 0
durability = "process"
quarantine-quota = {QUOTA}
"""
B_ALONE = STORAGE + '[ae-titles.B]\nprocessor = "picky"\n'
CONFIGURATION = B_ALONE + '[ae-titles.A]\nprocessor = "picky"\noverwrite-same-instance = true\n'
SERVED = ("A", "B")
WHY = (
    "{0} arrival of the same SOP instance is pending: instance {1}; "
    "requeue again when instance {1} is no longer pending"
)


class Picky:
    """A plugin whose processor refuses each instance, or submits it as a job: the attributes select the behaviour."""

    def __init__(self) -> None:
        self.accepted: list[tuple[int, float]] = []  # id of each accepted instance, and `now()` of its turn
        self.refusing = True
        self.holding = False  # accept instances without submitting jobs
        self.failure: BaseException | None = None

    @hookimpl
    def dicom_adapter_processors(self) -> list[type[JobProcessorBase[Any]]]:
        picky = self

        class Processor(JobProcessorBase[NoSettings]):
            name = "picky"

            def handle_instance(self, instance: Instance) -> None:
                if picky.failure is not None:
                    raise picky.failure
                if picky.refusing:
                    raise Unprocessable("it has no accession number")
                picky.accepted.append((instance.instance_id, self.now().timestamp()))
                if not picky.holding:
                    self.submit_pipeline_job("job", "p1", JobPriority.NORMAL, [instance])
                    self.remove_instances([instance])

        return [Processor]


@pytest.fixture
def picky() -> Picky:
    return Picky()


@pytest.fixture
def adapter(make_adapter: Callable[..., Adapter], picky: Picky) -> Adapter:
    """An adapter whose platform refuses the first two jobs."""
    adapter = make_adapter(CONFIGURATION, Plugin(picky))
    adapter.platform.fail("create_job", Permanent("refused"), times=2)
    return adapter


def send(adapter: Adapter, ae_title: str = "A", **options: Any) -> Instance:
    [answer] = adapter.receive(make_instance(rows=2, columns=2, **options), ae_title=ae_title)
    assert answer.instance is not None
    return answer.instance


def requeue(adapter: Adapter, *numbers: int) -> Intervention:
    done = quarantine.requeue(adapter.ledger, adapter.clock, numbers, "operator")
    adapter.host.run_until_idle()
    return done


def discard(adapter: Adapter, *numbers: int, served: Collection[str] = SERVED) -> Intervention:
    done = quarantine.discard(adapter.ledger, adapter.clock, numbers, "operator", served)
    adapter.host.run_until_idle()
    return done


def recorded_events(adapter: Adapter, *names: str) -> list[tuple[str, int | None, str]]:
    return [
        (event.event, event.instance_id, str(event.detail.get("by", "")))
        for event in adapter.events
        if event.event in names
    ]


# --- requeue ----------------------------------------------------------------------------------------------------------


def test_a_requeued_instance_is_delivered_in_its_original_order(adapter: Adapter, picky: Picky) -> None:
    """The instance is delivered among the pending instances, in the order of the times of arrival.

    Verified to fail when a requeue does not restart the lane (then the instance is never delivered).
    """
    first = send(adapter)
    adapter.advance(60)
    picky.refusing, picky.holding = False, True
    second = send(adapter)
    picky.accepted.clear()
    assert Intervention([first.instance_id], {}) == requeue(adapter, first.instance_id)

    assert [(instance.instance_id, instance.received_at.timestamp()) for instance in (first, second)] == picky.accepted
    assert {"pending": 2} == adapter.states
    assert [("instance_requeued", 1, "operator")] == recorded_events(adapter, "instance_requeued")
    picky.holding = False
    adapter.restart()
    assert 2 == len(adapter.jobs)


def test_an_instance_requeued_while_the_service_is_stopped_is_delivered_at_the_next_start(
    adapter: Adapter, picky: Picky
) -> None:
    first = send(adapter)
    picky.refusing = False
    quarantine.requeue(adapter.ledger, adapter.clock, [first.instance_id], "operator")
    adapter.restart()
    assert [first.instance_id] == [number for number, _at in picky.accepted]


def test_an_instance_is_not_requeued_while_a_newer_duplicate_is_pending(adapter: Adapter, picky: Picky) -> None:
    """Only one of the two duplicates can be pending.

    Verified to fail when the command does not check this (then a constraint of the ledger fails the whole command).
    """
    older, other = send(adapter, seed="same"), send(adapter)
    picky.refusing, picky.holding = False, True
    newer = send(adapter, seed="same")
    done = requeue(adapter, older.instance_id, other.instance_id)

    why = WHY.format("a newer", newer.instance_id)
    assert Intervention([other.instance_id], {older.instance_id: why}) == done
    assert {"quarantined": 1, "pending": 2} == adapter.states


def test_the_newest_of_several_quarantined_duplicates_is_requeued(adapter: Adapter, picky: Picky) -> None:
    """The same SOP instance at another AE title does not matter."""
    first, second = send(adapter, seed="same"), send(adapter, seed="same")
    elsewhere = send(adapter, ae_title="B", seed="same")
    picky.refusing, picky.holding = False, True
    done = requeue(adapter, first.instance_id, second.instance_id, elsewhere.instance_id)

    assert ({second.instance_id, elsewhere.instance_id}, {first.instance_id}) == (set(done.done), set(done.refused))
    assert {"quarantined": 1, "pending": 2} == adapter.states


def test_the_refusal_of_a_requeue_names_the_pending_duplicate(adapter: Adapter, picky: Picky) -> None:
    first, second = send(adapter, seed="same"), send(adapter, seed="same")
    picky.refusing, picky.holding = False, True
    requeue(adapter, first.instance_id)
    why = WHY.format("an earlier", first.instance_id)
    assert {second.instance_id: why} == requeue(adapter, second.instance_id).refused


def test_a_quarantined_duplicate_can_be_requeued_when_the_first_is_no_longer_pending(
    adapter: Adapter, picky: Picky
) -> None:
    """Without overwriting, a duplicate with another data set is quarantined. Requeued, it becomes another job."""
    picky.refusing, picky.holding = False, True
    first = send(adapter, ae_title="B", seed="same")
    duplicate = send(adapter, ae_title="B", seed="same", accession_number="other")
    assert {"pending": 1, "quarantined": 1} == adapter.states
    why = WHY.format("an earlier", first.instance_id)
    assert {duplicate.instance_id: why} == requeue(adapter, duplicate.instance_id).refused

    picky.holding = False
    adapter.restart()  # the processor submits and removes the first
    assert "pending" not in adapter.states
    assert [duplicate.instance_id] == requeue(adapter, duplicate.instance_id).done
    assert [[first.instance_id], [duplicate.instance_id]] == [
        [instance.instance_id for instance in adapter.instances_of(job)] for job in adapter.jobs
    ]


def test_only_quarantined_instances_can_be_requeued(adapter: Adapter, picky: Picky) -> None:
    """Other instances are refused with their state, and not changed."""
    picky.refusing, picky.holding = False, True
    pending = send(adapter)
    picky.holding = False
    done = send(adapter)
    adapter.advance(60)
    states = adapter.states
    assert {
        pending.instance_id: "it is pending: only quarantined instances can be requeued",
        done.instance_id: "it is released: only quarantined instances can be requeued",
        99: "there is no such instance",
    } == requeue(adapter, pending.instance_id, done.instance_id, 99).refused
    assert states == adapter.states
    assert [] == recorded_events(adapter, "instance_requeued", "lane_restarted")


# --- lanes ------------------------------------------------------------------------------------------------------------


def stop_lane(adapter: Adapter, picky: Picky, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the lane of A fail until it is stopped, with one pending instance."""
    monkeypatch.setattr("dicom_adapter.flow.process.lane.TRIES_FOR_ONE_INSTANCE", 99)
    picky.refusing, picky.failure = False, ValueError()
    send(adapter)
    adapter.advance(1 + 2 + 4 + 8)  # the pauses after four failures
    assert LaneState.STOPPED is adapter.lanes["A"].state


def restart_lane(adapter: Adapter, ae_title: str = "A") -> None:
    with adapter.ledger.write() as transaction:
        lanes.request_restart(transaction, ae_title)
    adapter.host.run_until_idle()


def test_an_operator_can_restart_a_stopped_lane(
    adapter: Adapter, picky: Picky, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pending instance is delivered. The stop and the restart are recorded as events.

    Verified to fail when failures from before the restart are counted (then the next failure stops the lane).
    """
    stop_lane(adapter, picky, monkeypatch)
    restart_lane(adapter)
    assert (LaneState.RUNNING, "") == (adapter.lanes["A"].state, adapter.lanes["A"].reason)
    adapter.advance(1)
    assert LaneState.RUNNING is adapter.lanes["A"].state  # failed twice since the restart; it stops after five failures
    picky.failure = None
    adapter.advance(60)
    assert 1 == len(adapter.jobs)
    lane_events = [event for event in adapter.events if event.event.startswith("lane_")]
    assert [("lane_stopped", "A"), ("lane_restarted", "A")] == [(event.event, event.ae_title) for event in lane_events]
    assert str(lane_events[0].detail["reason"]).startswith("its processor failed 5 times in a row: ValueError")


def test_a_running_lane_is_restarted_once_for_each_request(adapter: Adapter, picky: Picky) -> None:
    """No other lane is restarted.

    Verified to fail when the number of requests is compared with 0 instead of the number of restarts (then the lane
    restarts every second).
    """
    picky.refusing, picky.holding = False, True
    send(adapter)
    send(adapter, ae_title="B")
    restart_lane(adapter)
    adapter.advance(5)
    assert [1, 2, 1] == [number for number, _at in picky.accepted]
    adapter.restart()
    adapter.advance(5)
    assert [1, 2] == sorted(number for number, _at in picky.accepted[3:])


def test_a_lane_stops_only_when_the_ledger_has_recorded_the_stop(
    adapter: Adapter, picky: Picky, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the ledger fails, the lane tries again.

    Verified to fail when the error is not handled (then the lane stays between two states).
    """
    failures = [LedgerUnavailable("disk I/O error")]
    record = events.record

    def recorded(transaction: Any, happened: Any) -> None:
        if any(event.event == "lane_stopped" for event in happened) and failures:
            raise failures.pop()
        record(transaction, happened)

    monkeypatch.setattr(events, "record", recorded)
    with pytest.raises(AssertionError):  # the last statement of `stop_lane`: the lane is not stopped yet
        stop_lane(adapter, picky, monkeypatch)
    assert [] == failures
    adapter.advance(1)
    assert LaneState.STOPPED is adapter.lanes["A"].state


# --- discard ----------------------------------------------------------------------------------------------------------


def test_a_discarded_instance_is_reclaimed(adapter: Adapter) -> None:
    """The file is deleted. The row has the reason, the event has the operator."""
    quarantined = send(adapter)
    assert Intervention([quarantined.instance_id], {}) == discard(adapter, quarantined.instance_id)
    adapter.advance(60)
    assert ({"reclaimed": 1}, []) == (adapter.states, list(adapter.storage.keys()))
    with adapter.ledger.read() as transaction:
        [row] = instance_rows.find(transaction, [quarantined.instance_id])
    assert ("discarded", "it has no accession number") == (row.outcome, row.reason)
    assert [("instance_discarded", 1, "operator")] == recorded_events(adapter, "instance_discarded")
    assert {1: "it is reclaimed: only quarantined instances can be discarded"} == discard(adapter, 1).refused


@pytest.mark.parametrize(
    ("served", "why"),
    [
        (SERVED, "which is served: only quarantined instances can be discarded"),
        ((), "which the running service serves: restart the service first"),
    ],
)
def test_a_pending_instance_of_a_served_ae_title_is_not_discarded(
    adapter: Adapter, picky: Picky, served: Collection[str], why: str
) -> None:
    """The configuration file and the configuration of the running service are both checked.

    Verified to fail when the command does not check this (then the turn that submits the instance fails).
    """
    picky.refusing, picky.holding = False, True
    pending = send(adapter)
    assert {1: f"it is pending at AE title 'A', {why}"} == discard(adapter, pending.instance_id, served=served).refused
    assert {"pending": 1} == adapter.states


# --- AE titles that are no longer configured --------------------------------------------------------------------------


def test_instances_of_a_removed_ae_title_are_held_with_the_reason(adapter: Adapter, picky: Picky) -> None:
    """The instances are held until they are discarded, or the AE title is configured again.

    Verified to fail when a start deletes the row of the lane (then it is not known since when they are held).
    """
    quarantined = send(adapter)
    picky.refusing, picky.holding = False, True
    pending, other = send(adapter), send(adapter)
    adapter.restart(B_ALONE)
    lane = adapter.lanes["A"]
    assert LaneState.STOPPED is lane.state
    assert lane.reason.startswith("it is not configured; 2 pending and 1 quarantined instances are held: ")
    adapter.advance(60)
    adapter.restart(B_ALONE)
    assert lane == adapter.lanes["A"]

    requeue(adapter, quarantined.instance_id)
    discard(adapter, pending.instance_id, served=("B",))
    assert "; 2 pending and 0 quarantined " in adapter.lanes["A"].reason
    picky.holding = False
    adapter.restart(CONFIGURATION)
    assert LaneState.RUNNING is adapter.lanes["A"].state
    assert [quarantined.instance_id, other.instance_id] == [number for number, _at in picky.accepted[-2:]]
    assert (2, False) == (len(adapter.jobs), "pending" in adapter.states)


def test_a_removed_ae_title_is_deleted_with_its_last_instance(adapter: Adapter) -> None:
    quarantined = send(adapter)
    adapter.restart(B_ALONE)
    discard(adapter, quarantined.instance_id, served=("B",))
    assert ["B"] == list(adapter.lanes)


# --- the quota --------------------------------------------------------------------------------------------------------


def rejection(adapter: Adapter, ae_title: str = "A") -> Rejection | None:
    """Return how a receiver would reject an association now; None if it would accept the association."""
    with adapter.ledger.read() as transaction:
        load = Load(associations=0, space=Space(), stopped={}, full=lanes.full(transaction))
    request = AssociationRequest(called_ae_title=ae_title, calling_ae_title="X", peer_address="::1")
    return judge(request, adapter.config, load).rejection


def fill(adapter: Adapter, picky: Picky) -> tuple[list[Instance], int]:
    """Fill A's quota with two faulted jobs and quarantined instances. Return all instances and their size in bytes."""
    picky.refusing = False
    held = [send(adapter), send(adapter)]
    assert [JobState.FAULTED] * 2 == [job.state for job in adapter.jobs]
    picky.refusing = True
    while rejection(adapter) is None:
        assert sum(instance.size_bytes for instance in held) < QUOTA
        held.append(send(adapter))
    return held, sum(instance.size_bytes for instance in held)


def test_associations_with_an_ae_title_at_its_quota_are_rejected(adapter: Adapter, picky: Picky) -> None:
    """The rejection is transient, with the reason "local limit exceeded". A restart does not change it.

    Verified to fail when the quota does not include the instances of faulted jobs.
    """
    held, total = fill(adapter, picky)
    assert total >= QUOTA > total - held[-1].size_bytes
    assert (Rejection.LOCAL_LIMIT_EXCEEDED, None) == (rejection(adapter), rejection(adapter, "B"))
    full, faulted = adapter.lanes["A"].full_reason, sum(instance.size_bytes for instance in held[:2])
    assert full == (
        f"quarantine-quota = {QUOTA} bytes is used up: {total - faulted} bytes by quarantined instances, "
        f"{faulted} bytes by instances of faulted and failed jobs; free space with `dicom-adapter instances requeue` "
        "or `discard`, or with `dicom-adapter jobs retry` or `cancel`"
    )
    assert LaneState.RUNNING is adapter.lanes["A"].state
    adapter.restart()
    assert Rejection.LOCAL_LIMIT_EXCEEDED is rejection(adapter)
    [event] = [event for event in adapter.events if event.event == "ae_title_full"]
    assert ("A", {"bytes": total, "quota": QUOTA}) == (event.ae_title, dict(event.detail))


FreeSpace = Callable[[Adapter, Picky, "list[Instance]"], object]
WAYS_TO_FREE_SPACE: dict[str, FreeSpace] = {
    "discard": lambda adapter, picky, held: discard(adapter, held[-1].instance_id, held[-2].instance_id),
    "requeue": lambda adapter, picky, held: (
        setattr(picky, "refusing", False),
        requeue(adapter, *[instance.instance_id for instance in held[2:]]),
    ),
    "retry": lambda adapter, picky, held: [
        operators.retry(adapter.ledger, adapter.clock, job.job_id) for job in adapter.jobs
    ],
    "cancel": lambda adapter, picky, held: [
        operators.cancel(adapter.ledger, adapter.clock, job.job_id) for job in adapter.jobs
    ],
    "more quota": lambda adapter, picky, held: adapter.restart(
        CONFIGURATION.replace(f"quota = {QUOTA}", "quota = 99999")
    ),
}


@pytest.mark.parametrize("free_space", WAYS_TO_FREE_SPACE.values(), ids=WAYS_TO_FREE_SPACE.keys())
def test_associations_are_accepted_again_below_the_quota(adapter: Adapter, picky: Picky, free_space: FreeSpace) -> None:
    """Space is freed in each possible way.

    Verified to fail when the change does not cause a check of the quota (then associations are rejected for up to a
    minute longer).
    """
    held, _total = fill(adapter, picky)
    free_space(adapter, picky, held)
    adapter.advance(2)
    assert (None, "") == (rejection(adapter), adapter.lanes["A"].full_reason)
    assert ["ae_title_full", "ae_title_below_quota"] == [
        event.event for event in adapter.events if event.event.startswith("ae_title_")
    ]


def test_an_instance_of_faulted_jobs_counts_once_and_only_without_unfinished_jobs(
    adapter: Adapter, picky: Picky
) -> None:
    """An instance that an unfinished job needs does not count. An instance of several faulted jobs counts once.

    Verified to fail when the query joins the jobs (then an instance of two jobs counts twice).
    """
    picky.refusing = False
    instance = send(adapter)
    with adapter.ledger.write() as transaction:
        [job] = adapter.jobs
        assert instance.size_bytes == count_held_bytes(transaction, "A").in_jobs
        for state, faulted in ((JobState.FAULTED, instance.size_bytes), (JobState.QUEUED, 0)):
            another = evolve(job, job_id=state.value.ljust(32, "0"), state=state)
            jobs.insert(transaction, another, [instance.instance_id])
            assert faulted == count_held_bytes(transaction, "A").in_jobs


@pytest.mark.parametrize(
    ("held", "quota", "was_full", "is_full"),
    [
        (99, 100, False, False),
        (100, 100, False, True),
        (95, 100, True, True),
        (94, 100, True, False),
        (0, 0, False, False),
        (1, 0, False, True),
        (0, 0, True, False),
    ],
)
def test_a_full_ae_title_is_reopened_only_below_95_percent(
    held: int, quota: int, was_full: bool, is_full: bool
) -> None:
    """The AE title is full at its quota. An AE title without held instances is never full."""
    assert is_full is reaches_quota(held, quota, was_full=was_full)


# --- export -----------------------------------------------------------------------------------------------------------


def test_an_export_is_a_copy_of_the_stored_file_that_only_the_user_can_read(adapter: Adapter, tmp_path: Path) -> None:
    """The adapter chooses the name, and never overwrites a file."""
    quarantined = send(adapter)
    path = export(adapter.storage, quarantined, tmp_path)
    assert (tmp_path / "1.dcm", 0o600) == (path, path.stat().st_mode & 0o777)
    with adapter.storage.read(quarantined.storage_key) as stored:
        assert stored.read() == path.read_bytes()
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        export(adapter.storage, quarantined, tmp_path)
    assert b"mine" == path.read_bytes()


@pytest.mark.parametrize(
    ("change", "error"), [("change", StoredObjectChanged), ("cut", StoredObjectChanged), ("lose", StoredObjectMissing)]
)
def test_a_changed_or_missing_file_is_not_exported(
    adapter: Adapter, tmp_path: Path, change: str, error: type[Exception]
) -> None:
    """No partial file remains.

    Verified to fail when an export does not compare the checksum.
    """
    quarantined = send(adapter)
    [file] = (adapter.config.storage.path / "instances").rglob("*.dcm")
    content = file.read_bytes()
    file.write_bytes(content[:-1] if change == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    if change == "lose":
        file.unlink()
    with pytest.raises(error):
        export(adapter.storage, quarantined, tmp_path)
    assert [] == list(tmp_path.glob("*.dcm"))
