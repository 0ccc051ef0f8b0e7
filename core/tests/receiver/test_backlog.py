"""Senders go on while the host is gone, or slower than they are: over real associations, with a small backlog."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from attrs import evolve
from pydicom.dataset import Dataset

from dicom_adapter.api.errors import LedgerUnavailable
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.enter import follower, instance_log
from dicom_adapter.flow.enter.entry import RowEntry
from dicom_adapter.flow.enter.follower import Follower
from dicom_adapter.flow.enter.journal import FOLDER
from dicom_adapter.flow.store import limits
from dicom_adapter.ledger import arrivals, association_reports, instances
from dicom_adapter.ledger.health import HOST
from dicom_adapter.net.address import Address
from dicom_adapter.net.server import DicomServer
from dicom_adapter.receiver import conditions
from dicom_adapter.receiver.receiver import Receiver
from dicom_adapter.testing import Adapter
from dicom_adapter.testing.loopback import send
from support.follow import CONFIGURATION

TABLE = "[ae-titles.KEEP"
SERVED = CONFIGURATION.replace(f"{TABLE}.settings]", f'{TABLE}]\nprocessor = "by-study"\n{TABLE}.settings]')
LOOPBACK = "127.0.0.1"
MOST_WAITING = 8  # in these tests
SENDERS = ("CT1", "CT2")
SECONDS = 60.0  # time limit of each wait
LIMIT = "local limit exceeded (rejected transient"
SUCCESS, OUT_OF_RESOURCES = 0x0000, 0xA700


class Site:
    """A receiver that listens. Its host is the test, which follows the journal."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self._pipe = os.pipe()
        self.receiver = Receiver(adapter.config, adapter.resources, self._pipe[1])
        self.receiver.recover()
        self._server = DicomServer(evolve(adapter.config.dicom, bind=LOOPBACK, port=0), self.receiver)
        self._port = self._server.start()
        self.start_host()

    def start_host(self) -> None:
        entry = RowEntry(self.adapter.config, self.adapter.resources, HOST)
        folder = self.adapter.config.storage.path / FOLDER
        self.follower = Follower(folder, entry, self.adapter.resources, lambda _results: None)

    def send(self, sender: str, data_sets: list[Dataset]) -> list[int | str]:
        """Send in one association. Return the statuses; or for each instance the message, if it is rejected."""
        address = Address(ae_title="KEEP", host=LOOPBACK, port=self._port)
        results = send(data_sets, address, sender)
        return [result.message if result.status is None else result.status for result in results]

    def rows(self, sender: str) -> list[str]:
        """The SOP Instance UIDs of the rows of a sender, in their order."""
        with self.adapter.ledger.read() as transaction:
            rows = instances.pending_after(transaction, 0, 1000, "KEEP")
        return [row.sop_instance_uid for row in rows if row.calling_ae_title == sender]

    def close(self) -> None:
        self._server.stop(0)
        ending = threading.Thread(target=self.receiver.close)  # it waits for the last checkpoint of the host
        ending.start()
        while ending.is_alive():
            self.follower.follow()
            ending.join(0.01)
        self.follower.close()
        for descriptor in self._pipe:
            os.close(descriptor)


@pytest.fixture
def site(make_adapter: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(instance_log, "MOST_WAITING", MOST_WAITING)
    monkeypatch.setattr(limits, "FREE_SPACE_SECONDS", 0.0)  # look at the backlog for each instance
    monkeypatch.setattr(conditions, "RECENT_SECONDS", 0.0)  # and for each association
    site = Site(make_adapter(SERVED))
    yield site
    site.close()


def data_sets(count: int) -> list[Dataset]:
    return [make_instance(rows=2, columns=2) for _ in range(count)]


def is_expected(status: int | str) -> bool:
    return status in (SUCCESS, OUT_OF_RESOURCES) or LIMIT in str(status)


def stored(sent: list[Dataset], statuses: list[int | str]) -> list[str]:
    """Return the SOP Instance UIDs of the acknowledged instances."""
    return [one.SOPInstanceUID for one, status in zip(sent, statuses, strict=True) if status == SUCCESS]


def test_senders_go_on_until_the_backlog_is_full_while_the_host_is_gone(site: Site) -> None:
    """Then C-STOREs and associations are refused as transient. Another host enters all rows in their order.

    Verified to fail when the backlog is not limited.
    """
    site.follower.close()
    sent = {sender: data_sets(2 * MOST_WAITING) for sender in SENDERS}
    with ThreadPoolExecutor() as threads:
        answers = dict(zip(SENDERS, threads.map(lambda name: site.send(name, sent[name]), SENDERS), strict=True))
    statuses = [status for statuses in answers.values() for status in statuses]
    assert OUT_OF_RESOURCES in statuses
    assert all(map(is_expected, statuses))
    acknowledged = {sender: stored(sent[sender], answers[sender]) for sender in SENDERS}
    # Each sender may have one more instance on its way when the limit is reached.
    assert MOST_WAITING <= sum(map(len, acknowledged.values())) <= MOST_WAITING + len(SENDERS) - 1
    [rejection] = site.send("CT1", data_sets(1))
    assert LIMIT in str(rejection)
    assert [[], []] == [site.rows(sender) for sender in SENDERS]

    site.start_host()
    site.follower.follow()
    assert acknowledged == {sender: site.rows(sender) for sender in SENDERS}
    again = data_sets(2)
    assert [SUCCESS] * 2 == site.send("CT1", again)
    site.follower.follow()
    assert [*acknowledged["CT1"], *stored(again, [SUCCESS] * 2)] == site.rows("CT1")


def test_senders_are_faster_than_the_host(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger is locked again and again, so that the host enters only a few rows each time. Senders repeat.

    The backlog stays limited. Each instance has one row, in the order of the answers to its sender.

    Verified to fail when the backlog is not limited, and when a batch counts as read before it is entered.
    """
    monkeypatch.setattr(follower, "BATCH", 2)
    enter, is_locked = arrivals.enter, iter([False, True] * 1000)

    def locked(*arguments: Any) -> Any:
        if next(is_locked):
            raise LedgerUnavailable("the ledger is locked", is_busy=True)
        return enter(*arguments)

    monkeypatch.setattr(arrivals, "enter", locked)
    refused = threading.Semaphore(0)
    waiting: list[int] = []

    def send_all(sender: str) -> list[str]:
        acknowledged, left = [], data_sets(3 * MOST_WAITING)
        while left:
            statuses = site.send(sender, left)
            assert all(map(is_expected, statuses))
            acknowledged += stored(left, statuses)
            left = [one for one, status in zip(left, statuses, strict=True) if status != SUCCESS]
            refused.release()
        return acknowledged

    with ThreadPoolExecutor() as threads:
        sending = {sender: threads.submit(send_all, sender) for sender in SENDERS}
        while not all(future.done() for future in sending.values()):
            refused.acquire(timeout=SECONDS)
            log = site.receiver._log
            assert log is not None
            waiting.append(log.last - log.progress.entered)
            with suppress(LedgerUnavailable):
                site.follower.follow()
    monkeypatch.setattr(arrivals, "enter", enter)
    site.follower.follow()
    assert {sender: future.result() for sender, future in sending.items()} == {
        sender: site.rows(sender) for sender in SENDERS
    }
    assert MOST_WAITING <= max(waiting) <= MOST_WAITING + len(SENDERS) - 1


def test_the_end_of_an_association_is_reported_after_its_rows(site: Site) -> None:
    """Also if the host comes back long after it. Verified to fail when the report does not wait for the rows."""
    site.follower.close()
    assert [SUCCESS] * 3 == site.send("CT1", data_sets(3))
    site.receiver._associations._write()
    with site.adapter.ledger.read() as transaction:
        assert [] == association_reports.after(transaction, 0, 10, "KEEP")
    site.start_host()
    site.follower.follow()
    site.receiver._associations._write()
    with site.adapter.ledger.read() as transaction:
        [report] = association_reports.after(transaction, 0, 10, "KEEP")
        last = instances.last_number(transaction)
    assert last == report.after
