"""No acknowledged instance is lost in a power loss, and every sync is necessary.

A real service is traced while it receives. Its system calls are replayed on the model of a disk. Before each sync takes
effect and before each C-STORE success is sent, the power fails, and ledger and storage are opened on the remaining
content.

Verified to fail when recovery records are not read at the start, the ledger is not synced with a storage that keeps no
recovery records, or the parents of the data folder are not synced: an acknowledged instance is missing. Also verified
to fail when a segment or its folder is not synced, or a row is written before its object: a pending instance has no
complete object.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import pytest

from dicom_adapter.config import Durability
from dicom_adapter.flow.enter.progress import PROGRESS
from power_loss import strace
from power_loss.disk import (
    Fate,
    every_other_one,
    everything,
    first_ones,
    last_one_torn,
    only_last_one,
    only_synced,
)
from power_loss.replay import Moment, Replay
from power_loss.service import Found, NextStart, Traced, trace, tree_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.strace,
    pytest.mark.usefixtures("can_trace"),
    pytest.mark.timeout(300),  # hundreds of starts, on a busy machine
]

OTHER_FATES: Mapping[str, tuple[Fate, Fate]] = {  # fates of names and of data
    "unsynced data is lost": (everything, only_synced),
    "unsynced names are lost": (only_synced, everything),
    "the last write is torn": (everything, last_one_torn),
    "the last write overtook the others": (everything, only_last_one),
    "every other write is lost": (everything, every_other_one),
    "the later writes are lost": (everything, first_ones),
}
STEP = 9  # the other fates are examined at every ninth moment, to save time


@pytest.fixture(scope="module")
def can_trace() -> None:
    """Skip the test if strace is not installed or may not trace."""
    reason = strace.why_not()
    if reason and "strace" in os.environ.get("DICOM_ADAPTER_TESTS_REQUIRE", ""):
        pytest.fail(f"{reason}, and DICOM_ADAPTER_TESTS_REQUIRE requires it")
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def durable(can_trace: None, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    """Trace a service with `durability = "fsync"`."""
    return trace(tmp_path_factory.mktemp("fsync"), Durability.FSYNC)


@pytest.fixture(scope="module")
def without_recovery_records(can_trace: None, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    """Trace a service with `durability = "fsync"` and a storage that keeps no recovery records."""
    return trace(tmp_path_factory.mktemp("files"), Durability.FSYNC, "files")


@pytest.fixture(scope="module")
def without_sync(can_trace: None, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    """Trace a service with `durability = "process"`."""
    return trace(tmp_path_factory.mktemp("process"), Durability.PROCESS)


@pytest.fixture
def next_start(tmp_path: Path) -> NextStart:
    """Return the start after the power loss."""
    return NextStart(tmp_path)


@pytest.fixture
def next_start_without_recovery_records(tmp_path: Path) -> NextStart:
    """Return the start after the power loss with a storage that keeps no recovery records."""
    (tmp_path / "files").mkdir()
    return NextStart(tmp_path / "files", "files")


def losses(traced: Traced, moment: Moment, found: Found) -> list[str]:
    """Return the acknowledged instances that are missing, and the pending instances without a complete object.

    An acknowledged instance has a row before the start, or is found among those that are stored, not yet entered.
    """
    pending = found.pending
    unknown = [
        f"{uid} was acknowledged and is neither in the ledger nor in the log"
        for uid in moment.acknowledged
        if uid not in found.rows | found.not_entered  # an arrival that a newer one replaced may be in neither of them
    ]
    missing = [
        f"{uid} was acknowledged and is missing"
        for uid, times in moment.acknowledged.items()
        if pending.get(uid) not in traced.sent[uid][times - 1 :]  # this arrival, or a newer arrival that replaced it
    ]
    broken = [f"{uid} is pending without its data set" for uid in pending if pending[uid] not in traced.sent[uid]]
    return [f"{moment.when}: {loss}" for loss in unknown + missing + broken]


def when_all_is_acknowledged(traced: Traced, replay: Replay) -> Moment:
    """Replay the trace until the last success is sent."""
    wanted = sum(len(versions) for versions in traced.sent.values())
    return next(moment for moment in replay.moments(traced.calls) if sum(moment.acknowledged.values()) == wanted)


def all_losses(traced: Traced, next_start: NextStart) -> list[str]:
    """Return the losses at every moment if all unsynced changes are lost, and at some moments with the other fates.

    With recovery records, there must be moments at which acknowledged instances have no row yet.
    """
    replay = Replay(traced.root)
    problems, without_row = [], 0
    for number, moment in enumerate(replay.moments(traced.calls)):
        fates = {"all that is unsynced is lost": (only_synced, only_synced)}
        if number % STEP == 0:
            fates.update(OTHER_FATES)
        for title, (names, data) in fates.items():
            found = next_start.find(replay.disk.after_power_loss(names=names, data=data))
            without_row += len(moment.acknowledged.keys() - found.rows.keys())
            problems += [f"{title}, {loss}" for loss in losses(traced, moment, found)]
    assert (traced.backend == "local") is (without_row > 0)
    assert {uid: len(versions) for uid, versions in traced.sent.items()} == moment.acknowledged
    return problems


def test_no_acknowledged_instance_is_lost_in_a_power_loss(durable: Traced, next_start: NextStart) -> None:
    """Instances and their recovery records are synced together."""
    assert [] == all_losses(durable, next_start)


def test_a_kill_of_all_processes_at_any_system_call_loses_nothing(durable: Traced, next_start: NextStart) -> None:
    """Among the states are: stored, but not in the journal; in the journal, but no row; row entered, but not reported.

    An instance that was stored, but not acknowledged, may get a row; it never does before its object is complete.
    """
    replay = Replay(durable.root)
    problems, states = [], set()
    for moment in replay.moments(durable.calls, after_changes=True):
        found = next_start.find(replay.disk.after_power_loss(names=everything, data=everything))
        problems += losses(durable, moment, found)
        for uid in found.rows | found.not_entered:
            rows, waiting = found.rows.get(uid, 0), found.not_entered.get(uid, 0)
            states.add((rows > 0, waiting > 0, moment.acknowledged.get(uid, 0) > 0))
    assert [] == problems
    assert {(False, True, False), (False, True, True), (True, False, True)} <= states  # row, not entered, acknowledged


def test_no_acknowledged_instance_is_lost_without_recovery_records(
    without_recovery_records: Traced, next_start_without_recovery_records: NextStart
) -> None:
    """In this case the ledger is synced before the response."""
    assert [] == all_losses(without_recovery_records, next_start_without_recovery_records)


def missing_without(traced: Traced, next_start: NextStart, without: str) -> set[str]:
    """Return the missing instances if the syncs of these files or folders have no effect."""

    def is_synced(path: PurePosixPath) -> bool:
        return re.fullmatch(without, str(path)) is None

    replay = Replay(traced.root, is_synced)
    moment = when_all_is_acknowledged(traced, replay)
    found = next_start.find(replay.disk.after_power_loss(names=only_synced, data=only_synced))
    return missing(losses(traced, moment, found))


def missing(found: Iterable[str]) -> set[str]:
    """Return the losses of acknowledged instances that the next start cannot find."""
    return {loss for loss in found if loss.endswith("is missing")}


@pytest.mark.parametrize(
    "without",
    [
        pytest.param(r"var/lib/data/instances/[0-9a-f]{32}\.segment", id="content of segments"),
        pytest.param(r"var/lib/data/instances", id="names of segments"),
        pytest.param(r"var/lib/data", id="names in the data folder"),
        pytest.param(r"var/lib", id="name of the data folder"),
        pytest.param(r"\.", id="name of the topmost new folder"),
    ],
)
def test_every_sync_is_needed(durable: Traced, next_start: NextStart, without: str) -> None:
    """Without the syncs of these files or folders all instances are missing."""
    assert len(durable.sent) == len(missing_without(durable, next_start, without))


def test_the_ledger_is_synced_before_each_response_only_without_recovery_records(
    durable: Traced,
    without_recovery_records: Traced,
    next_start: NextStart,
    next_start_without_recovery_records: NextStart,
) -> None:
    """Recovery records restore all rows that the ledger has lost."""
    assert set() == missing_without(durable, next_start, r".*-wal")
    assert len(without_recovery_records.sent) == len(
        missing_without(without_recovery_records, next_start_without_recovery_records, r".*-wal")
    )


def test_the_ledger_is_synced_before_recovery_records_are_dropped(durable: Traced) -> None:
    """A start does not read the recovery records of a sealed segment: they count as dropped.

    The host syncs the ledger, then it reports the confirmed number, then the receiver seals segments.

    Verified to fail when the commit of a checkpoint is not synced.
    """
    last: dict[int, str] = {}  # the last operation of each thread on the ledger
    confirmed, sealed = [0], []  # confirmed numbers, and those at which a segment was sealed
    for call in durable.calls:
        what = _operation(call)
        if what == "sealed":
            sealed.append(max(confirmed))
        elif what == "progress":
            number = PROGRESS.unpack_from(call.data)[1]
            if number > max(confirmed):
                assert "ledger synced" == last.get(call.pid)
            confirmed.append(number)
        elif what:
            last[call.pid] = what
    assert sealed
    assert {sum(map(len, durable.sent.values()))} == set(sealed)


def _operation(call: strace.Call) -> str:
    """Return the name of the operation, if it is relevant."""
    path = call.descriptors[0] if call.descriptors else ""
    if path.endswith(".segment") and call.name in strace.WRITES and call.data == b"\1":
        return "sealed" if call.result is None else ""
    if path.endswith(".progress") and call.name in strace.WRITES:
        return "progress" if call.result is None else ""
    if path.endswith("-wal") and call.name in strace.SYNCS:
        return "" if call.result is None else "ledger synced"
    if path.endswith("-wal") and call.name in strace.WRITES:
        return "row written" if call.result is None else ""
    return ""


def test_the_end_of_a_process_loses_nothing_without_syncs(without_sync: Traced, next_start: NextStart) -> None:
    """With `durability = "process"`, a power loss may lose everything, the end of a process nothing."""
    replay = Replay(without_sync.root)
    moment = when_all_is_acknowledged(without_sync, replay)
    killed = next_start.find(replay.disk.after_power_loss(names=everything, data=everything))
    assert [] == losses(without_sync, moment, killed)
    after_power_loss = next_start.find(replay.disk.after_power_loss(names=only_synced, data=only_synced))
    assert len(without_sync.sent) == len(missing(losses(without_sync, moment, after_power_loss)))


@pytest.mark.parametrize("service", ["durable", "without_sync"])
def test_the_model_has_the_same_content_as_the_real_disk(service: str, request: pytest.FixtureRequest) -> None:
    """Every call that changes files is replayed correctly. If all changes survive, the contents are equal."""
    traced = request.getfixturevalue(service)
    replay = Replay(traced.root)
    for _moment in replay.moments(traced.calls):
        pass
    assert tree_of(traced.root) == replay.disk.after_power_loss(names=everything, data=everything)
