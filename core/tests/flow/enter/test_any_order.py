"""Host and receivers end and start again in any order: each acknowledged instance gets one row, in its order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from attrs import evolve, frozen
from sqlalchemy import select

from dicom_adapter.api.errors import LedgerUnavailable
from dicom_adapter.api.receiving import StoreOutcome
from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.config.model import Config
from dicom_adapter.flow.enter import follower
from dicom_adapter.flow.enter.progress import FollowerProgress
from dicom_adapter.flow.store import commit
from dicom_adapter.ledger import arrivals, instances
from dicom_adapter.ledger.schema import instances as instances_table
from dicom_adapter.plugins.registry import discover
from dicom_adapter.runtime.data_folder import DataFolder
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.testing import Adapter
from support.follow import CONFIGURATION, Sender, Site

IN_PROCESS = CONFIGURATION.replace('path = "data"', 'path = "data"\ndurability = "process"')
NAMES = ("receiver 1", "receiver 2")
WAYS = ("killed", "killed before the answer", "stopped", "stopped without a host")  # how a receiver ends


class Killed(BaseException):
    """The end of the host at a certain call."""


@frozen
class Process:
    """The resources of a receiver process: a storage backend of its own."""

    config: Config
    resources: Resources

    @classmethod
    def of(cls, adapter: Adapter) -> Process:
        storage = DataFolder.of(adapter.config).open_storage(adapter.config.storage, discover().catalogue())
        return cls(adapter.config, evolve(adapter.resources, storage=storage))

    @property
    def storage(self) -> StorageBackend[Any]:
        return self.resources.storage


class Service:
    """Two receivers and a host: what they do, and how they end."""

    def __init__(self, adapter: Adapter, folder: Path) -> None:
        self.adapter = adapter
        self.site = Site(self.adapter, folder)
        self.acknowledged: dict[str, list[str]] = {name: [] for name in NAMES}
        self.unanswered: set[str] = set()  # instances that were synced, and whose receiver was killed before the answer
        self.senders: dict[str, Sender] = {}
        self.last = 0
        for name in NAMES:
            self.start_receiver(name)

    def start_receiver(self, name: str) -> None:
        self.senders[name] = Sender(Process.of(self.adapter), self.site.folder, name, checkpoint_seconds=0)
        storage: Any = self.senders[name].adapter.storage
        storage._segments._segment_bytes = 1 << 14  # a few instances, so that segments are sealed

    def next_uid(self) -> str:
        self.last += 1
        return f"1.2.{self.last}"

    # --- receivers ----------------------------------------------------------------------------------------------------

    def send(self, name: str, count: int) -> None:
        uids = [self.next_uid() for _ in range(count)]
        results = self.senders[name].send(*uids)
        assert {StoreOutcome.STORED} == {result.outcome for result in results}
        self.acknowledged[name] += uids

    def end_receiver(self, name: str, how: str) -> None:
        sender = self.senders[name]
        if how == "killed before the answer":
            uid = self.next_uid()
            sender.adapter.storage.sync([sender.arrive(uid).storage_key])
            self.unanswered.add(uid)
        if how.startswith("killed"):
            sender.kill()
        else:
            sender.store.end_log(lambda: self.site.follower.follow() if how == "stopped" else 0)
            sender.store.close()
            sender.adapter.storage.close()
        self.start_receiver(name)

    def lose_the_journals(self) -> None:
        """A power loss ends all processes. It may lose the journals, which are not synced."""
        for sender in self.senders.values():
            sender.kill()
        self.site.follower.close()
        for path in self.site.folder.iterdir():
            path.unlink()
        self.site.follow_again()
        for name in NAMES:
            self.start_receiver(name)

    # --- host ---------------------------------------------------------------------------------------------------------

    def follow(self, *, confirms: bool) -> None:
        self.site.follower.follow()
        if confirms:
            self.site.follower.checkpoint()

    def kill_host_while_it_follows(self, reports: int, *, is_after: bool) -> None:
        """It is killed before or after one of its reports to a receiver. Another host starts."""
        write, left = FollowerProgress.write, iter(range(reports))

        def killed(progress: FollowerProgress, descriptor: int) -> None:
            is_last = next(left, None) is None
            if not is_last or is_after:
                write(progress, descriptor)
            if is_last:
                raise Killed

        with pytest.MonkeyPatch.context() as patch, suppress(Killed):
            patch.setattr(FollowerProgress, "write", killed)
            self.site.follower.follow()
        self.site.follower.close()
        self.site.follow_again()

    def lock_the_ledger(self, entered: int) -> None:
        left = iter(range(entered))
        enter = arrivals.enter

        def locked(*arguments: Any) -> Any:
            if next(left, None) is None:
                raise LedgerUnavailable("the ledger is locked", is_busy=True)
            return enter(*arguments)

        with pytest.MonkeyPatch.context() as patch, suppress(LedgerUnavailable):
            patch.setattr(arrivals, "enter", locked)
            self.site.follower.follow()

    def release_all(self) -> None:
        """Afterwards, a second row of the same instance would be no duplicate."""
        with self.adapter.ledger.write() as transaction:
            pending = instances.pending_after(transaction, 0, 1000, "KEEP")
            instances.release(transaction, [row.instance_id for row in pending], self.adapter.clock.now())

    def pass_time(self, seconds: int) -> None:
        self.adapter.clock.move_to(self.adapter.clock.now() + timedelta(seconds=seconds))

    # --- what always holds --------------------------------------------------------------------------------------------

    def check_progress(self) -> None:
        for sender in self.senders.values():
            progress = sender.log.progress
            assert progress.confirmed <= progress.entered <= sender.log.last

    def check_rows(self) -> None:
        """Each instance has one row, and the rows of a receiver are in the order of its answers."""
        self.site.follower.follow()
        rows = self.rows()
        assert len(rows) == len(set(rows))
        for name in NAMES:
            assert self.acknowledged[name] == [uid for uid in rows if uid in self.acknowledged[name]]
        assert set(rows) == {*self.acknowledged["receiver 1"], *self.acknowledged["receiver 2"], *self.unanswered}
        with self.adapter.ledger.read() as transaction:
            keys = set(transaction.execute(select(instances_table.c.storage_key)).scalars())
        assert keys == set(self.adapter.storage.keys())

    def close(self) -> None:
        for sender in self.senders.values():
            sender.kill()
        self.site.follower.close()

    def rows(self) -> list[str]:
        with self.adapter.ledger.read() as transaction:
            query = select(instances_table.c.sop_instance_uid).order_by(instances_table.c.instance_id)
            return list(transaction.execute(query).scalars())


STEPS: dict[str, Callable[[Service, Random], None]] = {
    "send": lambda service, random: service.send(random.choice(NAMES), random.randint(1, 5)),
    "send more": lambda service, random: service.send(random.choice(NAMES), random.randint(1, 5)),
    "follow": lambda service, random: service.follow(confirms=random.random() < 0.5),
    "end a receiver": lambda service, random: service.end_receiver(random.choice(NAMES), random.choice(WAYS)),
    "kill the host": lambda service, random: service.kill_host_while_it_follows(
        random.randint(0, 4), is_after=random.random() < 0.5
    ),
    "lock the ledger": lambda service, random: service.lock_the_ledger(random.randint(0, 3)),
    "lose the journals": lambda service, _random: service.lose_the_journals(),
    "release": lambda service, _random: service.release_all(),
    "wait": lambda service, random: service.pass_time(random.randint(1, 100)),
}


@pytest.mark.parametrize("seed", range(8))
def test_processes_end_and_start_in_any_order(
    make_adapter: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Killed, stopped in order, before and after each report; with a locked ledger; and instances are released.

    Verified to fail when the high-water mark is not read, when segments are sealed before rows are entered, and when a
    batch counts as read before it is entered.
    """
    monkeypatch.setattr(follower, "BATCH", 3)
    monkeypatch.setattr(commit, "CLOSE_SECONDS", 0.0)
    random, service = Random(seed), Service(make_adapter(IN_PROCESS), tmp_path)
    for _ in range(40):
        step = random.choice(list(STEPS))
        STEPS[step](service, random)
        service.check_progress()
    service.check_rows()
    service.close()
