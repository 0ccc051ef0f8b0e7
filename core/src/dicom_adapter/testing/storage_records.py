"""Part of the conformance suite for storage backends: recovery records and marks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.testing.stored_objects import confirm_records, finish_object, read_content, store

MakeBackend = Callable[[], StorageBackend[Any]]
MIB = 1 << 20


class RecoveryRecordTests:
    """Tests of recovery records, from which the adapter restores lost rows of the ledger, and of `mark`."""

    backend: ClassVar[type[StorageBackend[Any]]]

    def kill(self, storage: StorageBackend[Any]) -> None:
        """Release the locks and descriptors of a backend, as the kernel does when it kills the process.

        Required if the backend `keeps_recovery_records`.
        """
        raise NotImplementedError(
            "override kill() for a backend with keeps_recovery_records = True: release its locks and descriptors"
        )

    # --- records

    def test_recovery_records_are_kept_until_they_are_confirmed(self, make_backend: MakeBackend) -> None:
        """The next starts read all records of a killed process until a `with unconfirmed_records()` block succeeds."""
        killed = make_backend()
        if not self._keeps_recovery_records(killed):
            return
        keys = [finish_object(killed, bytes(size), record=b"record %d" % size) for size in (0, 5, MIB + 5)]
        killed.sync([*keys, finish_object(killed, b"without")])
        assert [] == confirm_records(make_backend()), "unconfirmed_records() returned records of a running process"
        expected = {key: b"record %d" % size for key, size in zip(keys, (0, 5, MIB + 5), strict=True)}
        self.kill(killed)
        started = make_backend()
        with pytest.raises(InterruptedError), started.unconfirmed_records():
            raise InterruptedError
        assert expected == dict(confirm_records(started)), (
            "unconfirmed_records() must return all records until a `with unconfirmed_records()` block succeeds"
        )
        assert [] == confirm_records(make_backend()), "unconfirmed_records() returned confirmed records"
        assert bytes(MIB + 5) == read_content(started, keys[-1]), "the recovery record is part of the object's content"

    def test_kept_records_are_those_of_all_processes(self, make_backend: MakeBackend) -> None:
        """An audit reads kept records while a process writes, and after its end. Reading does not confirm records."""
        writing, audit = make_backend(), make_backend()
        if not self._keeps_recovery_records(writing):
            assert [] == list(writing.kept_records()), "a backend without recovery records has no kept records"
            return
        key = finish_object(writing, b"object", record=b"record")
        writing.sync([key, finish_object(writing, b"without")])
        assert [(key, b"record")] == list(audit.kept_records()), "kept_records() omits records of a running process"
        self.kill(writing)
        assert [(key, b"record")] == list(audit.kept_records()), "kept_records() omits records of an ended process"
        assert [(key, b"record")] == confirm_records(audit), "kept_records() has changed the records"

    def test_recovery_record_may_have_1000_bytes(self, make_backend: MakeBackend) -> None:
        """A record that is too long for the backend raises ValueError. The object can be stored without the record."""
        storage = make_backend()
        if not self._keeps_recovery_records(storage):
            return
        storage.sync([finish_object(storage, b"object", record=bytes(1000))])
        writer = storage.writer()
        writer.write(b"x")
        with pytest.raises(ValueError, match="record"):
            writer.write_recovery_record(bytes(10_000_000))
        key = writer.finish()
        storage.sync([key])
        assert b"x" == read_content(storage, key)

    # --- marks: the adapter confirms that rows are durable

    def test_records_of_a_confirmed_mark_are_not_returned(self, make_backend: MakeBackend) -> None:
        """After `mark`, `confirm` and an orderly stop, the next start has nothing to read."""
        storage = make_backend()
        if not self._keeps_recovery_records(storage):
            return
        storage.sync([finish_object(storage, b"object", record=b"confirmed")])
        storage.mark().confirm()
        storage.close()
        assert [] == confirm_records(make_backend()), "unconfirmed_records() returned the record of a confirmed mark"

    def test_records_of_an_unconfirmed_mark_are_kept(self, make_backend: MakeBackend) -> None:
        """An orderly stop does not confirm a mark. Only `confirm` shows that the rows are durable."""
        storage = make_backend()
        if not self._keeps_recovery_records(storage):
            return
        key = finish_object(storage, b"object", record=b"unconfirmed")
        storage.sync([key])
        storage.mark()
        storage.close()
        assert [(key, b"unconfirmed")] == confirm_records(make_backend()), (
            "the backend dropped a recovery record although its mark was not confirmed"
        )

    @pytest.mark.parametrize("is_finished", [True, False], ids=["finished", "not-begun"])
    def test_a_confirmed_mark_keeps_the_records_of_later_objects(
        self, make_backend: MakeBackend, is_finished: bool
    ) -> None:
        """Objects are synced between `mark` and `confirm`. The rows of their instances are not durable yet.

        At the time of `mark`, such an object may be finished, or not begun.
        """
        storage = make_backend()
        if not self._keeps_recovery_records(storage):
            return
        storage.sync([finish_object(storage, b"object", record=b"early")])
        late = finish_object(storage, b"object", record=b"late") if is_finished else ""
        mark = storage.mark()
        late = late or finish_object(storage, b"object", record=b"late")
        storage.sync([late])
        mark.confirm()
        storage.close()
        assert (late, b"late") in confirm_records(make_backend()), (
            "confirm() dropped the recovery record of an object that was synced after mark()"
        )

    def test_marks_may_be_confirmed_in_any_order(self, make_backend: MakeBackend) -> None:
        """A mark may also be confirmed twice, or after `close`. A later mark covers the objects of earlier ones."""
        storage = make_backend()
        if not self._keeps_recovery_records(storage):
            return
        marks = []
        for record in (b"first", b"second"):
            storage.sync([finish_object(storage, b"object", record=record)])
            marks.append(storage.mark())
        for mark in (marks[1], marks[1], marks[0]):
            mark.confirm()
        storage.close()
        marks[1].confirm()
        assert [] == confirm_records(make_backend()), "the last mark was confirmed, but records of it were returned"

    def test_the_objects_of_a_mark_may_be_deleted(self, make_backend: MakeBackend) -> None:
        """A job of the instance may end before the mark is confirmed. Backends without records have marks, too."""
        storage = make_backend()
        key, kept = store(storage, b"deleted"), store(storage, b"kept")
        mark = storage.mark()
        storage.delete([key])
        mark.confirm()
        assert [kept] == list(storage.keys())

    def _keeps_recovery_records(self, storage: StorageBackend[Any]) -> bool:
        """Return the backend's flag; check that a backend without recovery records refuses them."""
        if not self.backend.keeps_recovery_records:
            writer = storage.writer()
            with pytest.raises(NotImplementedError):
                writer.write_recovery_record(b"although keeps_recovery_records is False")
            writer.discard()
        return self.backend.keeps_recovery_records
