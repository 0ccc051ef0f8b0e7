"""The same SOP instance from two associations at once, at two receivers: identical and different data sets."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Row, select

from dicom_adapter.api.receiving import StoreOutcome, StoreResult
from dicom_adapter.config import load
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.enter.entry import RowEntry
from dicom_adapter.flow.enter.follower import Follower
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.flow.enter.rows import DIFFERENT
from dicom_adapter.flow.store.commit import Store
from dicom_adapter.ledger import balance, counters
from dicom_adapter.ledger.counters import Duplicates
from dicom_adapter.ledger.health import HOST
from dicom_adapter.ledger.schema import instances
from dicom_adapter.plugins.registry import discover
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.runtime.data_folder import DataFolder
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.simulation.adapter import encode, make_request

CONFIGURATION = """
[storage]
path = "data"
watermark-percent = 100
reserve = 0
durability = "process"
[submitters.platform]
type = "memory"
[ae-titles.KEEP.settings]
pipeline-one = "p1"
[ae-titles.OVER]
overwrite-same-instance = true
[ae-titles.OVER.settings]
pipeline-one = "p1"
"""
SETTINGS = {"KEEP": False, "OVER": True}
Sent = tuple[int, int]  # SOP instance and content
# In groups: the instances of a group are committed in one transaction.
associations = st.lists(
    st.lists(st.tuples(st.integers(1, 2), st.integers(1, 3)), min_size=1, max_size=3), min_size=1, max_size=3
)


class SecondReceiver:
    """A receiver with its own ledger connection and storage backend, as in a process of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        catalogue = discover().catalogue()
        loaded = load(CONFIGURATION, folder=folder, catalogue=catalogue)
        assert loaded.config is not None, loaded.problems
        data_folder = DataFolder.of(loaded.config)
        data_folder.prepare(is_new=True)
        self.ledger = data_folder.open_ledger(loaded.config.ledger_url)
        self.ledger.migrate()
        self.storage = data_folder.open_storage(loaded.config.storage, catalogue)
        self._config = loaded.config
        self._resources = Resources(ledger=self.ledger, storage=self.storage, clock=SystemClock())
        self._store = Store(loaded.config, self._resources, name=name)

    def open_log(self, folder: Path) -> None:
        self._store.open_log(folder)

    def host(self, folder: Path, on_entered: Callable[[Sequence[StoreResult]], None]) -> Follower:
        """Return the follower of a host."""
        return Follower(folder, RowEntry(self._config, self._resources, HOST), self._resources, on_entered)

    def send(self, ae_title: str, groups: Sequence[Sequence[Sent]], start: threading.Barrier) -> list[StoreResult]:
        start.wait(30)
        return [
            result
            for group in groups
            for result in self._store.commit([self._arrive(ae_title, *sent) for sent in group])
        ]

    def _arrive(self, ae_title: str, sop_instance: int, content: int) -> ReceivedInstance:
        data_set = make_instance(
            rows=2,
            columns=2,
            study_uid="1.2.3",
            series_uid="1.2.3.4",
            sop_uid=f"1.2.3.4.{sop_instance}",
            accession_number=str(content),
        )
        incoming = self._store.begin(make_request(data_set, ae_title, "CT1", "0" * 32))
        incoming.write([encode(data_set)])
        received = self._store.end(incoming)
        assert isinstance(received, ReceivedInstance)
        return received

    def rows(self) -> Sequence[Row[Any]]:
        with self.ledger.read() as transaction:
            return transaction.execute(select(instances).order_by(instances.c.instance_id)).all()

    def duplicates(self, ae_title: str) -> Duplicates:
        with self.ledger.read() as transaction:
            return counters.count_duplicates(transaction).get(ae_title, Duplicates())

    def close(self) -> None:
        self._store.close()
        self.storage.close()
        self.ledger.close()


@hypothesis_settings(max_examples=12, deadline=None)
@given(one=associations, other=associations)
@pytest.mark.parametrize("has_log", [False, True])
@pytest.mark.parametrize("ae_title", SETTINGS)
def test_the_same_instances_from_two_associations_at_once(
    tmp_path_factory: pytest.TempPathFactory,
    ae_title: str,
    one: list[list[Sent]],
    other: list[list[Sent]],
    *,
    has_log: bool,
) -> None:
    """With a log, the follower decides about duplicates while further instances arrive.

    All are acknowledged. No data set is lost, and each is kept once.

    Without overwriting, the first stays pending and each other data set is quarantined once. With overwriting, the last
    different one is pending.

    Verified to fail when a duplicate is quarantined again, when a dropped one is not counted, or when the first is
    replaced without overwriting.
    """
    folder = tmp_path_factory.mktemp("data")
    receivers = [SecondReceiver(folder, "receiver"), SecondReceiver(folder, "receiver-2")]
    decided: list[StoreResult] = []
    host = receivers[0].host(folder / "journals", decided.extend)
    try:
        for receiver in receivers[: 2 * has_log]:
            receiver.open_log(folder / "journals")
        start = threading.Barrier(2)
        with ThreadPoolExecutor(2) as threads:
            sending = [
                threads.submit(receiver.send, ae_title, groups, start)
                for receiver, groups in zip(receivers, (one, other), strict=True)
            ]
            while has_log and not all(future.done() for future in sending):
                host.follow()
            results = [result for future in sending for result in future.result(60)]
        if has_log:
            assert {StoreOutcome.STORED} == {result.outcome for result in results}
            host.follow()
            assert len(results) == len(decided)
            results = decided
        check(receivers[0], ae_title, results, {sent for groups in (one, other) for group in groups for sent in group})
    finally:
        host.close()
        for receiver in receivers:
            receiver.close()


def check(receiver: SecondReceiver, ae_title: str, results: list[StoreResult], sent: set[Sent]) -> None:
    assert {result.outcome for result in results} <= {StoreOutcome.STORED, StoreOutcome.ALREADY_STORED}
    rows = receiver.rows()
    for sop_instance in {sop_instance for sop_instance, _content in sent}:
        own = [row for row in rows if row.sop_instance_uid == f"1.2.3.4.{sop_instance}"]
        states = [row.state for row in own]
        assert 1 == states.count("pending")
        checksums = {row.checksum for row in own}
        assert len(checksums) == len({content for sop, content in sent if sop == sop_instance})
        if ae_title == "KEEP":
            assert len(own) == len(checksums)
            assert "pending" == states[0]
            assert {DIFFERENT} >= {row.reason for row in own[1:]}
        else:
            assert "pending" == states[-1]
            assert all(older.checksum != newer.checksum for older, newer in pairwise(own))
    stored = [result for result in results if result.instance is not None]
    assert len(rows) == len(stored)
    quarantined = sum(row.state == "quarantined" for row in rows)
    assert Duplicates(dropped=len(results) - len(stored), quarantined=quarantined) == receiver.duplicates(ae_title)
    assert {row.storage_key for row in rows} == set(receiver.storage.keys())
    with receiver.ledger.read() as transaction:
        assert [0] == [account.difference for account in balance.load_accounts(transaction)]
