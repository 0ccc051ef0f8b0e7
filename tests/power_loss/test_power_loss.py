"""Nothing that was acknowledged is lost with the power, and every sync is there for a reason.

A real service is traced while it receives. Its log is played on the model of a disk; each time that a sync is about to
take effect or a C-STORE success about to leave, the power fails there, and ledger and storage are opened on what is
left.

The code was broken to see these tests fail. An acknowledged instance was missing with the ledger at synchronous =
NORMAL, and without the fsync of the data folder's parents. A pending one had no whole object without the sync of its
segment, without that of the folder, and with the row written before the object.
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

pytestmark = [pytest.mark.strace, pytest.mark.usefixtures("can_trace")]

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
def hasty(can_trace: None, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    """A service with `durability = "process"`."""
    return trace(tmp_path_factory.mktemp("process"), Durability.PROCESS)


@pytest.fixture
def next_start(tmp_path: Path) -> NextStart:
    """The start after the power came back."""
    return NextStart(tmp_path)


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


def test_nothing_acknowledged_is_lost_with_the_power(durable: Traced, next_start: NextStart) -> None:
    """At every moment, when all that is unsynced is lost; at some of them, when only a part of it is."""
    replay = Replay(durable.root)
    found = []
    for number, moment in enumerate(replay.moments(durable.calls)):
        fates = {"all that is unsynced is lost": (only_synced, only_synced)}
        if number % STEP == 0:
            fates.update(OTHER_FATES)
        for title, (names, data) in fates.items():
            pending = next_start.pending(replay.disk.after_power_loss(names=names, data=data))
            found += [f"{title}, {loss}" for loss in losses(durable, moment, pending)]
    assert [] == found
    assert {uid: len(versions) for uid, versions in durable.sent.items()} == moment.acknowledged


@pytest.mark.parametrize(
    "left_out",
    [
        pytest.param(r"var/lib/data/instances/[0-9a-f]{32}\.segment", id="content of segments"),
        pytest.param(r"var/lib/data/instances", id="names of segments"),
        pytest.param(r".*-wal", id="commits of the ledger"),
        pytest.param(r"var/lib/data", id="name of the ledger"),
        pytest.param(r"var/lib", id="name of the data folder"),
        pytest.param(r"\.", id="name of the topmost folder that was made"),
    ],
)
def test_every_sync_is_needed(durable: Traced, next_start: NextStart, left_out: str) -> None:
    """Without the syncs of these files or folders the same check finds everything missing."""

    def is_synced(path: PurePosixPath) -> bool:
        return re.fullmatch(left_out, str(path)) is None

    replay = Replay(durable.root, is_synced)
    moment = when_all_is_acknowledged(durable, replay)
    pending = next_start.pending(replay.disk.after_power_loss(names=only_synced, data=only_synced))
    missing = {loss for loss in losses(durable, moment, pending) if loss.endswith("is missing")}
    assert len(durable.sent) == len(missing)


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
