"""Nothing that was acknowledged is lost with the power, and every sync is there for a reason.

A real service is traced while it receives. Its log is played on the model of a disk; each time that a sync is about to
take effect or a C-STORE success about to leave, the power fails there, and ledger and storage are opened on what is
left.

The code was broken to see these tests fail. An acknowledged instance was missing with recovery records that
were not read at the start, with a ledger that is not synced where the storage keeps no recovery records, and without
the fsync of the data folder's parents. A pending one had no whole object without the sync of its segment, without that
of the folder, and with the row written before the object.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import pytest

from dicom_adapter.config import Durability
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
from power_loss.service import NextStart, Traced, trace, tree_of

pytestmark = [pytest.mark.slow, pytest.mark.strace, pytest.mark.usefixtures("can_trace")]

OTHER_FATES: Mapping[str, tuple[Fate, Fate]] = {  # of names and of data
    "unsynced data is lost": (everything, only_synced),
    "unsynced names are lost": (only_synced, everything),
    "the last write is torn": (everything, last_one_torn),
    "the last write overtook the others": (everything, only_last_one),
    "every other write is lost": (everything, every_other_one),
    "the later writes are lost": (everything, first_ones),
}
STEP = 9  # moments from one trial of the other fates to the next, to save time


@pytest.fixture(scope="module")
def can_trace() -> None:
    """Skip where there is no strace, or no right to trace."""
    reason = strace.why_not()
    if reason and "strace" in os.environ.get("DICOM_ADAPTER_TESTS_REQUIRE", ""):
        pytest.fail(f"{reason}, and DICOM_ADAPTER_TESTS_REQUIRE asks for it")
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def durable(can_trace: None, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    """A service with `durability = "fsync"`."""
    return trace(tmp_path_factory.mktemp("fsync"), Durability.FSYNC)


@pytest.fixture(scope="module")
def without_recovery_records(can_trace: None, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    """The same with a storage that keeps no recovery records."""
    return trace(tmp_path_factory.mktemp("files"), Durability.FSYNC, "files")


@pytest.fixture(scope="module")
def hasty(can_trace: None, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    """A service with `durability = "process"`."""
    return trace(tmp_path_factory.mktemp("process"), Durability.PROCESS)


@pytest.fixture
def next_start(tmp_path: Path) -> NextStart:
    """The start after the power came back."""
    return NextStart(tmp_path)


@pytest.fixture
def next_start_of_without_recovery_records(tmp_path: Path) -> NextStart:
    """The same with a storage that keeps no recovery records."""
    (tmp_path / "files").mkdir()
    return NextStart(tmp_path / "files", "files")


def losses(traced: Traced, moment: Moment, pending: Mapping[str, bytes | None]) -> list[str]:
    """What is wrong with that start, in words."""
    missing = [
        f"{uid} was acknowledged and is missing"
        for uid, times in moment.acknowledged.items()
        if pending.get(uid) not in traced.sent[uid][times - 1 :]  # that arrival, or a newer one in its place
    ]
    broken = [f"{uid} is pending without its data set" for uid in pending if pending[uid] not in traced.sent[uid]]
    return [f"{moment.when}: {loss}" for loss in missing + broken]


def when_all_is_acknowledged(traced: Traced, replay: Replay) -> Moment:
    """Play until the last success leaves."""
    wanted = sum(len(versions) for versions in traced.sent.values())
    return next(found for found in replay.moments(traced.calls) if sum(found.acknowledged.values()) == wanted)


def all_losses(traced: Traced, next_start: NextStart) -> list[str]:
    """At every moment, when all that is unsynced is lost; at some of them, when only a part of it is."""
    replay = Replay(traced.root)
    found = []
    for number, moment in enumerate(replay.moments(traced.calls)):
        fates = {"all that is unsynced is lost": (only_synced, only_synced)}
        if number % STEP == 0:
            fates.update(OTHER_FATES)
        for title, (names, data) in fates.items():
            pending = next_start.pending(replay.disk.after_power_loss(names=names, data=data))
            found += [f"{title}, {loss}" for loss in losses(traced, moment, pending)]
    assert {uid: len(versions) for uid, versions in traced.sent.items()} == moment.acknowledged
    return found


def test_nothing_acknowledged_is_lost_with_the_power(durable: Traced, next_start: NextStart) -> None:
    """Instances and their recovery records are synced together."""
    assert [] == all_losses(durable, next_start)


def test_nothing_acknowledged_is_lost_without_recovery_records(
    without_recovery_records: Traced, next_start_of_without_recovery_records: NextStart
) -> None:
    """Then the ledger is synced before the answer."""
    assert [] == all_losses(without_recovery_records, next_start_of_without_recovery_records)


def missing_without(traced: Traced, next_start: NextStart, left_out: str) -> set[str]:
    """What is missing when syncs of these files or folders have no effect."""

    def is_synced(path: PurePosixPath) -> bool:
        return re.fullmatch(left_out, str(path)) is None

    replay = Replay(traced.root, is_synced)
    moment = when_all_is_acknowledged(traced, replay)
    pending = next_start.pending(replay.disk.after_power_loss(names=only_synced, data=only_synced))
    return {loss for loss in losses(traced, moment, pending) if loss.endswith("is missing")}


@pytest.mark.parametrize(
    "left_out",
    [
        pytest.param(r"var/lib/data/instances/[0-9a-f]{32}\.segment", id="content of segments"),
        pytest.param(r"var/lib/data/instances", id="names of segments"),
        pytest.param(r"var/lib/data", id="names of what is in the data folder"),
        pytest.param(r"var/lib", id="name of the data folder"),
        pytest.param(r"\.", id="name of the topmost folder that was made"),
    ],
)
def test_every_sync_is_needed(durable: Traced, next_start: NextStart, left_out: str) -> None:
    """Without the syncs of these files or folders the same check finds everything missing."""
    assert len(durable.sent) == len(missing_without(durable, next_start, left_out))


def test_only_without_recovery_records_the_ledger_is_synced_for_every_answer(
    durable: Traced,
    without_recovery_records: Traced,
    next_start: NextStart,
    next_start_of_without_recovery_records: NextStart,
) -> None:
    """With them, all that the ledger has lost is made again."""
    assert set() == missing_without(durable, next_start, r".*-wal")
    assert len(without_recovery_records.sent) == len(
        missing_without(without_recovery_records, next_start_of_without_recovery_records, r".*-wal")
    )


def test_the_ledger_is_synced_before_recovery_records_are_dropped(durable: Traced) -> None:
    """No start looks at those of a sealed segment any more. Tried: with a commit that is not synced, this fails."""
    last: dict[int, str] = {}  # what each thread has done to the ledger
    sealed = []
    for call in durable.calls:
        what = _what(call)
        if what == "sealed":
            sealed.append(last.get(call.pid, "nothing"))
        elif what:
            last[call.pid] = what
    assert sealed
    assert {"ledger synced"} == set(sealed)


def _what(call: strace.Call) -> str:
    """What this call is for, if it is one of interest."""
    path = call.descriptors[0] if call.descriptors else ""
    if path.endswith(".segment") and call.name in strace.WRITES and call.data == b"\1":
        return "sealed" if call.result is None else ""
    if path.endswith("-wal") and call.name in strace.SYNCS:
        return "" if call.result is None else "ledger synced"
    if path.endswith("-wal") and call.name in strace.WRITES:
        return "row written" if call.result is None else ""
    return ""


def test_without_syncs_only_the_end_of_a_process_is_survived(hasty: Traced, next_start: NextStart) -> None:
    """`durability = "process"`: with the power everything may go; when only processes end, nothing does."""
    replay = Replay(hasty.root)
    moment = when_all_is_acknowledged(hasty, replay)
    killed = next_start.pending(replay.disk.after_power_loss(names=everything, data=everything))
    assert [] == losses(hasty, moment, killed)
    powerless = next_start.pending(replay.disk.after_power_loss(names=only_synced, data=only_synced))
    assert len(hasty.sent) == len(losses(hasty, moment, powerless))


@pytest.mark.parametrize("service", ["durable", "hasty"])
def test_the_model_ends_as_the_real_disk_did(service: str, request: pytest.FixtureRequest) -> None:
    """No call that changes files was overlooked or misunderstood: with everything surviving, the two are the same."""
    traced = request.getfixturevalue(service)
    replay = Replay(traced.root)
    for _moment in replay.moments(traced.calls):
        pass
    assert tree_of(traced.root) == replay.disk.after_power_loss(names=everything, data=everything)
