"""Storing of instances, from request to row: stored and refused instances, their statuses, and failures."""

from __future__ import annotations

import errno
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import asdict, evolve
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy import update

from dicom_adapter import InstanceStorageInfo, StorageFull
from dicom_adapter.api.errors import LedgerUnavailable
from dicom_adapter.api.receiving import StoreOutcome, StoreRequest, StoreResult
from dicom_adapter.dicom.part10 import file_header
from dicom_adapter.flow.enter import rows
from dicom_adapter.flow.store.commit import Store
from dicom_adapter.ledger import Transaction, arrivals, balance, counters, instances
from dicom_adapter.ledger.counters import Duplicates
from dicom_adapter.ledger.schema import instances as table
from dicom_adapter.storage.local.backend import LocalWriter
from dicom_adapter.storage.local.segment import Segment
from dicom_adapter.testing import Adapter

CT = "1.2.840.10008.5.1.4.1.1.2"
CONFIGURATION = """
[storage]
path = "data"
watermark-percent = 100
reserve = 0
durability = "process"
[ae-titles.KEEP]
processor = "by-study"
ignored-sop-classes = ["1.2.840.10008.5.1.4.1.1.7"]
[ae-titles.KEEP.settings]
pipeline-one = "p1"
[ae-titles.OVER]
processor = "by-study"
overwrite-same-instance = true
[ae-titles.OVER.settings]
pipeline-one = "p1"
"""


class Site:
    """An adapter to which instances are sent one by one. Its host processes them only in `settle` or `advance`."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.store = Store(adapter.config, adapter.resources)
        self.ledger, self.storage, self.folder = adapter.ledger, adapter.storage, adapter.config.storage.path

    def send(self, data_set: bytes, **changes: str) -> StoreResult:
        return self.store.keep(request(**changes), data_set)

    @property
    def stored_contents(self) -> list[bytes]:
        """The content of all stored objects."""
        return list(map(self.content, sorted(self.storage.keys())))

    def content(self, key: str) -> bytes:
        with self.storage.read(key) as file:
            return file.read()

    def put(self, content: bytes) -> str:
        """Store an object without a row, and return its key."""
        writer = self.storage.writer()
        writer.write(content)
        key = writer.finish()
        self.storage.sync([key])
        return key

    def exchange(self, content: bytes) -> str:
        """Replace the object of the only row, and return the new key."""
        self.storage.delete(list(self.storage.keys()))
        key = self.put(content)
        with self.ledger.write() as transaction:
            transaction.execute(update(table).values(storage_key=key))
        return key

    @property
    def duplicates(self) -> Duplicates:
        """The counted duplicates of the only AE title that has any."""
        with self.ledger.read() as transaction:
            [found] = counters.count_duplicates(transaction).values()
        return found

    @property
    def submitted(self) -> list[list[bytes]]:
        """The files of each job, as the platform has received them."""
        received = [self.adapter.platform.jobs[job.job_id].files for job in self.adapter.jobs]
        return [[files[position] for position in sorted(files)] for files in received]

    def assert_nothing_was_kept(self) -> None:
        """Check that there is no object, no incomplete object, and no row."""
        assert [] == self.stored_contents
        for path in (self.folder / "instances").glob("*.segment"):
            segment = Segment.open(path)
            assert [] == list(segment.walk())
            segment.close()
        assert {} == self.adapter.states


@pytest.fixture
def site(make_adapter: Any) -> Site:
    return Site(make_adapter(CONFIGURATION))


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def encode(**changes: bytes) -> bytes:
    """Encode a data set in explicit VR little endian. An empty value is omitted."""
    values = {"sop": b"1.2.3.4", "study": b"1.2.3", "series": b"1.2.3.1", "patient": b"P1", "notes": b"**"} | changes
    elements = [
        (0x00080016, b"UI", values.get("sop_class", CT.encode())),
        (0x00080018, b"UI", values["sop"]),
        (0x00100020, b"LO", values["patient"]),
        (0x0020000D, b"UI", values["study"]),
        (0x0020000E, b"UI", values["series"]),
        (0x00204000, b"LT", values["notes"]),
    ]
    return b"".join(element(*arguments) for arguments in elements if arguments[2])


def request(**changes: str) -> StoreRequest:
    """Make a C-STORE request that matches `encode()`."""
    plain = StoreRequest(
        ae_title="KEEP",
        calling_ae_title="CT1",
        peer_address="127.0.0.1",
        association_id="0" * 32,
        sop_class_uid=CT,
        sop_instance_uid="1.2.3.4",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    return evolve(plain, **changes)


def part10(data_set: bytes, ae_title: str | None = "KEEP") -> bytes:
    return file_header(CT, "1.2.3.4", ExplicitVRLittleEndian, "CT1", ae_title) + data_set


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# --- stored instances -------------------------------------------------------------------------------------------------


def test_an_acknowledged_instance_is_stored_unchanged_and_has_a_row(site: Site) -> None:
    """The data set follows a header of the adapter. The row has its UIDs, its sender and its time of arrival."""
    answer = site.send(encode(), peer_address="10.0.0.7", association_id="a" * 32)

    assert answer.outcome is StoreOutcome.STORED
    assert [part10(encode())] == site.stored_contents
    sent = request(peer_address="10.0.0.7", association_id="a" * 32)
    expected = InstanceStorageInfo(
        **asdict(sent),
        instance_id=1,
        study_instance_uid="1.2.3",
        series_instance_uid="1.2.3.1",
        patient_id="P1",
        issuer_of_patient_id="",
        received_at=site.adapter.clock.now(),
        storage_key=next(site.storage.keys()),
        size_bytes=len(part10(encode())),
        checksum=zlib.crc32(encode()),
    )
    with site.ledger.read() as transaction:
        assert [expected] == instances.arrived_after(transaction, 0, 9)
    assert expected == answer.instance


def test_the_times_of_rows_are_in_the_order_of_their_ids(site: Site, monkeypatch: Any) -> None:
    """The time is read after the lock of the ledger is acquired.

    Verified to fail when the time is read before the lock is acquired.
    """
    write = site.ledger.write

    def overtaken(*, synced: bool = True, waits: bool = True) -> Any:
        monkeypatch.setattr(site.ledger, "write", write)
        site.adapter.clock.advance(7)
        site.send(encode(sop=b"1.2.3.5"), sop_instance_uid="1.2.3.5")
        return write(synced=synced, waits=waits)

    monkeypatch.setattr(site.ledger, "write", overtaken)
    site.send(encode())

    with site.ledger.read() as transaction:
        rows = instances.pending_after(transaction, 0, 9, "KEEP")
    assert ["1.2.3.5", "1.2.3.4"] == [row.sop_instance_uid for row in rows]
    assert rows[0].received_at <= rows[1].received_at


def test_an_ignored_sop_class_is_acknowledged_and_not_stored(site: Site) -> None:
    """The data set is not parsed. Other AE titles store the same class."""
    secondary = "1.2.840.10008.5.1.4.1.1.7"
    answer = site.send(b"anything", sop_class_uid=secondary)

    assert (StoreOutcome.IGNORED, None) == (answer.outcome, answer.instance)
    assert "ignored-sop-classes" in answer.reason
    site.assert_nothing_was_kept()
    kept = site.send(encode(sop_class=secondary.encode()), sop_class_uid=secondary, ae_title="OVER")
    assert kept.instance is not None


# --- duplicates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ae_title", ["KEEP", "OVER"])
@pytest.mark.parametrize("caller", ["CT1", "LONGER_AE_TITLE"])
def test_an_identical_duplicate_is_acknowledged_and_not_stored_again(site: Site, caller: str, ae_title: str) -> None:
    """The sender may be another one. The duplicate does not extend the wait of its group.

    Verified to fail when the sizes of files are compared (the AE title of another sender changes the size).
    """
    first = site.send(encode(), ae_title=ae_title)
    site.adapter.advance(3)
    again = site.send(encode(), calling_ae_title=caller, ae_title=ae_title)

    assert [StoreOutcome.STORED, StoreOutcome.ALREADY_STORED] == [first.outcome, again.outcome]
    assert None is again.instance
    assert ({"pending": 1}, [part10(encode(), ae_title)]) == (site.adapter.states, site.stored_contents)
    assert Duplicates(dropped=1) == site.duplicates
    site.adapter.advance(2)
    assert [[part10(encode(), ae_title)]] == site.submitted


def stored_by_an_earlier_version(site: Site, ae_title: str = "KEEP") -> str:
    """Store a pending instance whose file does not have the receiving AE title, and return its key."""
    site.send(encode(), ae_title=ae_title)
    with site.ledger.write() as transaction:
        transaction.execute(update(table).values(size_bytes=len(part10(encode(), None))))
    return site.exchange(part10(encode(), None))


def test_an_instance_stored_by_an_earlier_version_is_compared_and_submitted(site: Site) -> None:
    """The header of such an instance is shorter.

    Verified to fail when header lengths are computed instead of read (then the duplicate is quarantined, and the job
    faults).
    """
    stored_by_an_earlier_version(site)
    again = site.send(encode())

    assert (StoreOutcome.ALREADY_STORED, None) == (again.outcome, again.instance)
    site.adapter.advance(5)
    assert [[part10(encode(), None)]] == site.submitted


@pytest.mark.parametrize("ae_title", ["KEEP", "OVER"])
@pytest.mark.parametrize("content", [None, b"", b"no DICOM" * 30])
def test_the_same_data_set_replaces_an_instance_with_a_damaged_object(
    site: Site, content: bytes | None, ae_title: str
) -> None:
    """The object of the pending instance is missing or damaged. The job gets the data set of the duplicate.

    Verified to fail when the object is not read (then the duplicate is dropped).
    """
    key = stored_by_an_earlier_version(site, ae_title)
    site.storage.delete([key]) if content is None else site.exchange(content)
    answer = site.send(encode(), ae_title=ae_title)

    assert (StoreOutcome.STORED, True) == (answer.outcome, answer.instance is not None)
    site.adapter.advance(5)
    assert [[part10(encode(), ae_title)]] == site.submitted
    assert ({"reclaimed": 2}, []) == (site.adapter.states, site.stored_contents)


@pytest.mark.parametrize("other", [encode(notes=b"++"), encode(notes=b"****"), encode(patient=b"P2")])
def test_a_different_instance_with_the_same_uid_is_quarantined(site: Site, other: bytes) -> None:
    """With overwrite-same-instance = false, the first instance stays pending, and its job has its data set.

    Verified to fail when the duplicate is entered as pending, or not counted.
    """
    first = site.send(encode())
    answer = site.send(other)

    assert (StoreOutcome.STORED, rows.DIFFERENT) == (answer.outcome, answer.reason)
    assert first.instance is not None and answer.instance is not None
    assert first.instance.instance_id < answer.instance.instance_id
    assert {"pending": 1, "quarantined": 1} == site.adapter.states
    assert [part10(encode()), part10(other)] == sorted(site.stored_contents, key=[part10(encode())].count, reverse=True)
    assert Duplicates(quarantined=1) == site.duplicates
    [event] = [event for event in site.adapter.events if event.event == "instance_quarantined"]
    assert (answer.instance.instance_id, rows.DIFFERENT) == (event.instance_id, event.detail["reason"])
    site.adapter.advance(5)
    assert [[part10(encode())]] == site.submitted


def test_a_quarantined_duplicate_that_arrives_again_is_dropped(site: Site) -> None:
    """A sender that repeats a changed study does not fill the quarantine.

    Verified to fail when duplicates are compared with the pending instance only.
    """
    site.send(encode())
    answers = [site.send(data_set) for data_set in (encode(notes=b"+"), encode(notes=b"-"), encode(notes=b"+"))]

    assert [StoreOutcome.STORED, StoreOutcome.STORED, StoreOutcome.ALREADY_STORED] == [one.outcome for one in answers]
    assert answers[0].instance is not None
    assert answers[0].instance.instance_id == answers[2].duplicate_of
    assert {"pending": 1, "quarantined": 2} == site.adapter.states
    assert 3 == len(site.stored_contents)
    assert Duplicates(quarantined=2, dropped=1) == site.duplicates


def test_duplicates_do_not_change_the_account_of_an_ae_title(site: Site) -> None:
    """The audit compares the number of received instances with the rows."""
    for notes in (b"**", b"**", b"++"):
        site.send(encode(notes=notes))
    with site.ledger.read() as transaction:
        [account] = balance.load_accounts(transaction)
    assert (2, 1, 1, 0) == (account.received, account.pending, account.quarantined, account.difference)


def test_a_newer_arrival_replaces_the_pending_one_if_configured(site: Site) -> None:
    """With overwrite-same-instance = true, the wait restarts, the job has the newer data set, and the older file is
    deleted.
    """
    newer = encode(notes=b"newer!")
    site.send(encode(), ae_title="OVER")
    site.adapter.advance(3)
    assert StoreOutcome.STORED == site.send(newer, ae_title="OVER").outcome
    site.adapter.advance(4.999)

    assert [] == site.submitted
    assert ({"reclaimed": 1, "pending": 1}, [part10(newer, "OVER")]) == (site.adapter.states, site.stored_contents)
    site.adapter.advance(0.001)
    assert [[part10(newer, "OVER")]] == site.submitted
    assert ({"reclaimed": 2}, []) == (site.adapter.states, site.stored_contents)


@pytest.mark.parametrize("ae_title", ["KEEP", "OVER"])
def test_an_instance_that_is_sent_again_after_its_submission_is_a_new_arrival(site: Site, ae_title: str) -> None:
    """The second arrival is not a duplicate, because the first is not pending."""
    for notes in (b"**", b"**", b"++"):
        answer = site.send(encode(notes=notes), ae_title=ae_title)
        assert answer.instance is not None
        site.adapter.advance(5)

    assert [[part10(encode(notes=notes), ae_title)] for notes in (b"**", b"**", b"++")] == site.submitted


# --- refused instances ------------------------------------------------------------------------------------------------

HOSTILE = [b"../../etc/passwd", b"..\\..\\x", b"1.2\0.3", b"9" * 10_000, b"/", b"1.2/3", b"\xe9"]
ADAPTER_NAMES = r"data/(instances/[0-9a-f]{32}\.segment|ledger\.sqlite-...)"


def names_not_of_the_adapter(new: set[str]) -> list[str]:
    """Return the files whose names the adapter did not choose."""
    return [path for path in new if not re.fullmatch(ADAPTER_NAMES, path)]


@pytest.mark.parametrize("uid", ["study", "series", "sop"])
@pytest.mark.parametrize("value", [b"", *HOSTILE], ids=lambda value: repr(value[:9]))
def test_an_instance_with_invalid_uids_is_refused(site: Site, tmp_path: Path, uid: str, value: bytes) -> None:
    """The status is "data set does not match", even if the request has the same UID. No file has such a name."""
    before = tree(tmp_path)
    data_set = encode(**{uid: value})
    named = {"sop_instance_uid": value.decode("latin-1")} if uid == "sop" else {}

    assert StoreOutcome.DOES_NOT_MATCH == site.send(data_set, **named).outcome
    site.assert_nothing_was_kept()
    assert [] == names_not_of_the_adapter(tree(tmp_path) - before)


@pytest.mark.parametrize("changes", [{"sop_instance_uid": "1.2.3.5"}, {"sop_class_uid": CT + ".1"}])
def test_a_data_set_that_does_not_match_its_request_is_refused(site: Site, changes: dict[str, str]) -> None:
    """Otherwise the sender would assume that another instance was stored."""
    assert StoreOutcome.DOES_NOT_MATCH == site.send(encode(), **changes).outcome
    site.assert_nothing_was_kept()


@pytest.mark.parametrize(
    "garbage",
    [b"\xff" * 4096, b"no DICOM", b"\x08\0\x05\0CS\xff\x7fISO_IR 1", encode()[:-16]],
    ids=["ff", "text", "length", "cut"],
)
def test_an_unparsable_data_set_is_refused(site: Site, garbage: bytes) -> None:
    """The status is "cannot understand". The last example ends within its Series Instance UID."""
    assert StoreOutcome.CANNOT_UNDERSTAND == site.send(garbage).outcome
    site.assert_nothing_was_kept()


@pytest.mark.parametrize("patient", [*HOSTILE, b"'; DROP TABLE instances; --"], ids=lambda value: repr(value[:9]))
def test_a_patient_id_never_becomes_a_path(site: Site, tmp_path: Path, patient: bytes) -> None:
    """The instance is stored and submitted. Every file is in the storage folder, under a name of the adapter."""
    before = tree(tmp_path)
    answer = site.send(encode(patient=patient), calling_ae_title="../../../x")

    assert answer.instance is not None
    assert [] == names_not_of_the_adapter(tree(tmp_path) - before)
    assert 1 == len(site.stored_contents)
    site.adapter.advance(5)
    assert {"reclaimed": 1} == site.adapter.states
    assert [] == site.stored_contents
    assert [] == names_not_of_the_adapter(tree(tmp_path) - before)


# --- failures ---------------------------------------------------------------------------------------------------------

LEDGER_FULL = LedgerUnavailable("database or disk is full", is_full=True)
LEDGER_BROKEN = LedgerUnavailable("disk I/O error", is_io_error=True)
UNWRITABLE = UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
STORAGE_FAILURES = [
    (StorageFull("the storage is full"), StoreOutcome.OUT_OF_SPACE),
    (OSError(errno.ENOSPC, "No space left on device"), StoreOutcome.OUT_OF_SPACE),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), StoreOutcome.OUT_OF_SPACE),
    (OSError(errno.EMFILE, "Too many open files"), StoreOutcome.OUT_OF_SPACE),
    (OSError(errno.ENFILE, "Too many open files in system"), StoreOutcome.OUT_OF_SPACE),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), StoreOutcome.OUT_OF_SPACE),
    (OSError(errno.EIO, "Input/output error"), StoreOutcome.FAILED),
    (RuntimeError("bug in a storage backend, with PID-4711"), StoreOutcome.FAILED),
]


def raising(failure: Exception) -> Callable[..., Any]:
    def fail(*_arguments: Any, **_keywords: Any) -> Any:
        raise failure

    return fail


@pytest.mark.parametrize(("failure", "outcome"), STORAGE_FAILURES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("where", ["writer", "write_pieces", "finish", "sync"])
def test_a_storage_failure_is_reported_and_no_data_is_kept(
    site: Site, monkeypatch: Any, where: str, failure: Exception, outcome: StoreOutcome
) -> None:
    """The outcome is "out of space" if a later attempt may succeed, otherwise "failed".

    Verified to fail when `discard` is not called (then the written data stays), or only known errors are handled.
    """
    with monkeypatch.context() as patch:
        owner = site.storage if where in ("writer", "sync") else LocalWriter
        patch.setattr(owner, where, raising(failure))
        answer = site.send(encode(patient=b"PID-4711"))

    assert outcome == answer.outcome
    assert "4711" not in answer.reason
    site.assert_nothing_was_kept()
    assert StoreOutcome.STORED == site.send(encode()).outcome


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [(LEDGER_FULL, StoreOutcome.OUT_OF_SPACE), (LEDGER_BROKEN, StoreOutcome.FAILED), (UNWRITABLE, StoreOutcome.FAILED)],
    ids=["full", "broken", "unwritable"],
)
@pytest.mark.parametrize("where", ["begin", "insert", "commit"])
def test_a_ledger_failure_is_reported_and_no_data_is_kept(
    site: Site, monkeypatch: Any, where: str, failure: Exception, outcome: StoreOutcome
) -> None:
    """An object without a row is deleted.

    Verified to fail when nothing is deleted.
    """
    with monkeypatch.context() as patch:
        if where == "begin":
            patch.setattr(site.ledger, "write", raising(failure))
        elif where == "insert":
            patch.setattr(arrivals, "enter", raising(failure))
        else:
            patch.setattr("sqlalchemy.engine.Transaction.commit", raising(failure))
        assert outcome == site.send(encode()).outcome

    site.assert_nothing_was_kept()
    assert StoreOutcome.STORED == site.send(encode()).outcome


def test_a_full_disk_of_the_ledger_refuses_instances_until_space_is_free(site: Site) -> None:
    """SQLite's error becomes `OUT_OF_SPACE`. No restart is necessary."""
    with site.ledger.write() as transaction:
        pages = transaction.exec_driver_sql("PRAGMA page_count").scalar()
        transaction.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    answers = [site.send(encode(patient=b"P" * 60_000)) for _ in range(3)]

    assert {StoreOutcome.OUT_OF_SPACE} == {answer.outcome for answer in answers}
    site.assert_nothing_was_kept()
    with site.ledger.write() as transaction:
        transaction.exec_driver_sql("PRAGMA max_page_count = 1000000")
    assert StoreOutcome.STORED == site.send(encode(patient=b"P" * 60_000)).outcome


def test_a_row_that_was_committed_although_the_commit_raised_keeps_its_object(site: Site, monkeypatch: Any) -> None:
    """The sender gets a failure and sends the instance again, which is acknowledged. The instance is stored once.

    Verified to fail when the object is deleted after every failure (then the row has no object).
    """
    write = site.ledger.write

    @contextmanager
    def committing(**options: bool) -> Iterator[Transaction]:
        with write(**options) as transaction:
            yield transaction
        raise LEDGER_BROKEN

    with monkeypatch.context() as patch:
        patch.setattr(site.ledger, "write", committing)
        assert StoreOutcome.FAILED == site.send(encode()).outcome

    assert StoreOutcome.ALREADY_STORED == site.send(encode()).outcome
    assert ({"pending": 1}, [part10(encode())]) == (site.adapter.states, site.stored_contents)


def test_every_refusal_and_failure_has_a_reason_without_patient_data(site: Site, capsys: Any) -> None:
    """The reason is in the log and in the response."""
    patient = b"PID-4711"
    site.send(encode(patient=patient))
    answers = [
        site.send(encode(patient=patient, notes=b"++")),
        site.send(encode(patient=patient, study=b"PID-4711")),
        site.send(encode(patient=patient), sop_instance_uid="1"),
        site.send(patient * 99),
    ]
    assert all(answer.reason and "4711" not in answer.reason for answer in answers)
    assert "4711" not in capsys.readouterr().out
