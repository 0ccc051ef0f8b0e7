"""The audit finds inconsistencies of ledger and storage, but not work in progress. The repair fixes them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from attrs import evolve
from pydicom.uid import DeflatedExplicitVRLittleEndian
from sqlalchemy import delete, update

from dicom_adapter import InstanceStorageInfo, JobState, Permanent, Retriable
from dicom_adapter.dicom.part10 import file_header
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.ledger import balance, counters, instances, jobs, recorded_events
from dicom_adapter.ledger.schema import InstanceOutcome
from dicom_adapter.ledger.schema import instances as table
from dicom_adapter.ledger.schema import job_instances as members
from dicom_adapter.operations.audit import Audit, AuditReport, Kind
from dicom_adapter.operations.repair import Repair
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.testing import Adapter

MakeAdapter = Callable[..., Adapter]

CONFIGURATION = """
[storage]
path = "data"
backend = "files"
[ae-titles.LUNG]
processor = "by-study"
overwrite-same-instance = true
[ae-titles.LUNG.settings]
pipeline-one = "p1"
pipeline-two = "p2"
[ae-titles.WAIT]
processor = "by-study"
settings = { timeout = 1000, pipeline-one = "p1" }
"""
ALWAYS = 1000  # number of calls, larger than in any test


class Site:
    """An adapter with an instance in each state. Tests damage the objects and rows."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.ledger, self.storage, self.clock = adapter.ledger, adapter.storage, adapter.clock
        self.reclaimed = self.receive("LUNG", seed="reclaimed")
        adapter.advance(5)
        adapter.platform.fail("start", Permanent("refused"), times=ALWAYS, pipeline_id="p2")
        self.needed = self.receive("LUNG", seed="needed")
        adapter.advance(5)
        self.pending = self.receive("WAIT", seed="pending")
        self.quarantined = self.receive("WAIT", seed="quarantined")
        with self.ledger.write() as transaction:
            instances.quarantine(transaction, self.quarantined.instance_id, "test", self.clock.now())
        self.stop_host()
        self.free = self.receive("WAIT", seed="free")
        with self.ledger.write() as transaction:
            instances.release(transaction, [self.free.instance_id], self.clock.now())

    def stop_host(self) -> None:
        """From now on, instances are neither processed nor reclaimed."""
        self.adapter.host.run_until_idle = lambda: None  # type: ignore[method-assign]

    def receive(self, ae_title: str, **attributes: Any) -> InstanceStorageInfo:
        (answer,) = self.adapter.receive(make_instance(**attributes), ae_title=ae_title)
        assert answer.instance is not None
        return answer.instance

    def path(self, instance: InstanceStorageInfo) -> Path:
        key = instance.storage_key
        return self.adapter.config.storage.path / "instances" / key[:2] / f"{key}.dcm"

    def update_row(self, instance: InstanceStorageInfo, **values: Any) -> None:
        """Change a row, bypassing the adapter."""
        with self.ledger.write() as transaction:
            transaction.execute(update(table).where(table.c.instance_id == instance.instance_id).values(**values))

    def delete_row(self, instance: InstanceStorageInfo) -> None:
        """Delete a row, as if an older backup of the ledger was restored."""
        with self.ledger.write() as transaction:
            transaction.execute(delete(table).where(table.c.instance_id == instance.instance_id))
            counters.add(transaction, instance.ae_title, counters.RECEIVED, -1)

    @property
    def resources(self) -> Resources:
        return Resources(ledger=self.ledger, storage=self.storage, clock=self.clock)

    def audit(
        self, *, running: bool = False, verify: bool = False, pause: Callable[[float], None] | None = None
    ) -> AuditReport:
        audit = Audit(
            self.resources,
            is_running=lambda: running,
            verify=verify,
            pause=pause or (lambda _seconds: None),
        )
        return audit.run()

    def found_kinds(self, **how: Any) -> list[tuple[Kind, int | None]]:
        return [(finding.kind, finding.instance_id) for finding in findings(self.audit(**how))]

    def repair(self) -> list[bool]:
        """Repair the findings. Return for each repairable finding whether it was repaired."""
        return [result.repaired for result in Repair(self.resources).run(self.audit())]

    @property
    def keys(self) -> set[str]:
        return set(self.storage.keys())

    def state(self, instance: InstanceStorageInfo) -> str:
        with self.ledger.read() as transaction:
            (row,) = balance.object_rows(transaction, [instance.instance_id])
        return row.state.value

    def last_event(self) -> tuple[str, int | None]:
        with self.ledger.read() as transaction:
            event = [event for _number, event in recorded_events.after(transaction, 0, 10_000)][-1]
        return event.event, event.instance_id


def store_orphan(site: Site, content: bytes) -> str:
    """Store an object without a row, and return its key."""
    writer = site.storage.writer()
    writer.write(content)
    key = writer.finish()
    site.storage.sync([key])
    return key


def findings(report: AuditReport) -> Iterator[Any]:
    for group in report.found.values():
        yield from group.listed


@pytest.fixture
def site(make_adapter: MakeAdapter) -> Site:
    return Site(make_adapter(CONFIGURATION))


# --- the balance ------------------------------------------------------------------------------------------------------


def test_a_consistent_adapter_accounts_for_every_instance(site: Site) -> None:
    """The account has each state by AE title. There are no findings."""
    report = site.audit()
    assert {} == report.found
    lung, wait = report.balance
    assert (2, 1, {InstanceOutcome.SUBMITTED: 1}) == (lung.received, lung.held, lung.reclaimed)
    assert (3, 1, 1, 1) == (wait.received, wait.pending, wait.quarantined, wait.free)
    assert [0, 0] == [lung.difference, wait.difference]


def test_a_lost_row_is_found_although_its_object_is_deleted(site: Site) -> None:
    """Verified to fail when the balance counts only rows."""
    with site.ledger.write() as transaction:
        transaction.execute(delete(table).where(table.c.instance_id == site.pending.instance_id))
    site.path(site.pending).unlink()
    (finding,) = findings(site.audit())
    assert (Kind.BALANCE, "WAIT: +1 of 3 received are not accounted for") == (finding.kind, finding.text)


def test_replaced_unused_and_unfinished_instances_are_counted_separately(
    make_adapter: MakeAdapter,
) -> None:
    adapter = make_adapter(CONFIGURATION)
    adapter.receive(make_instance(seed="one"), ae_title="LUNG")
    adapter.advance(5)
    adapter.platform.fail("start", Retriable("busy"), times=ALWAYS, pipeline_id="p2")
    for description in ("first", "second"):
        adapter.receive(make_instance(seed="two", accession_number=description), ae_title="LUNG")
    adapter.advance(60)
    with adapter.ledger.read() as transaction:
        (account,) = balance.load_accounts(transaction)
    assert (3, 1, {InstanceOutcome.SUBMITTED: 1, InstanceOutcome.REPLACED: 1}) == (
        account.received,
        account.unfinished,
        account.reclaimed,
    )


# --- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pending", "quarantined", "needed"])
def test_a_missing_object_is_found(site: Site, name: str) -> None:
    """The object is needed by an instance or by a job."""
    instance = getattr(site, name)
    site.path(instance).unlink()
    assert [(Kind.MISSING, instance.instance_id)] == site.found_kinds()


def test_an_object_without_a_row_is_found(site: Site) -> None:
    """The finding has the key of the object."""
    site.delete_row(site.pending)
    (finding,) = findings(site.audit())
    assert (Kind.ORPHAN, site.pending.storage_key) == (finding.kind, finding.storage_key)


@pytest.mark.parametrize("verify", [False, True])
def test_an_object_of_a_wrong_size_is_found(site: Site, verify: bool) -> None:
    """The object is too short or too long."""
    for instance, change in ((site.pending, -1), (site.needed, 1)):
        content = site.path(instance).read_bytes()
        site.path(instance).write_bytes(content[:change] if change < 0 else content + b"\0")
    assert {(Kind.CHANGED, site.pending.instance_id), (Kind.CHANGED, site.needed.instance_id)} == set(
        site.found_kinds(verify=verify)
    )


def test_changed_bytes_are_found_with_verify_only(site: Site) -> None:
    content = bytearray(site.path(site.pending).read_bytes())
    content[-1] ^= 1
    site.path(site.pending).write_bytes(content)
    assert [] == site.found_kinds()
    assert [(Kind.CHANGED, site.pending.instance_id)] == site.found_kinds(verify=True)


def test_an_unreadable_object_is_found(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The audit continues with the next object."""
    read = site.storage.read

    def failing(key: str) -> BinaryIO:
        if key == site.pending.storage_key:
            raise OSError(5, "Input/output error")
        return read(key)

    monkeypatch.setattr(site.storage, "read", failing)
    assert [(Kind.UNREADABLE, site.pending.instance_id)] == site.found_kinds()


def test_an_object_of_a_reclaimed_instance_is_found(site: Site) -> None:
    """A power loss can restore a deleted file."""
    site.path(site.reclaimed).write_bytes(b"again")
    assert [(Kind.NOT_DELETED, site.reclaimed.instance_id)] == site.found_kinds()


def test_an_interrupted_reclaim_is_found(site: Site) -> None:
    """The object is deleted, but the row is not updated."""
    site.path(site.free).unlink()
    assert [(Kind.UNFINISHED, site.free.instance_id)] == site.found_kinds()


def test_an_overdue_reclaim_is_found_while_the_service_runs(site: Site) -> None:
    """The reclaim is not a finding if the service is stopped, or if the instance was released a moment ago."""
    assert [] == site.found_kinds(running=True)
    site.clock.advance(301)
    assert [] == site.found_kinds()
    assert [(Kind.OVERDUE, site.free.instance_id)] == site.found_kinds(running=True)


def test_instances_of_a_job_that_has_just_finished_are_not_overdue(site: Site) -> None:
    """The instances may have been released long before the job finished."""
    site.clock.advance(301)
    with site.ledger.write() as transaction:
        (row,) = jobs.newest(transaction, 1, states=[JobState.FAULTED])
        jobs.change(transaction, row, state=JobState.CANCELLED, changed_at=site.clock.now())
    assert (Kind.OVERDUE, site.needed.instance_id) not in site.found_kinds(running=True)
    site.clock.advance(301)
    assert (Kind.OVERDUE, site.needed.instance_id) in site.found_kinds(running=True)


def test_jobs_that_cannot_be_completed_are_found(site: Site) -> None:
    """One job has lost its instances. Another needs a reclaimed instance, which is a loss of data."""
    site.path(site.needed).unlink()
    site.update_row(site.needed, state="reclaimed", outcome="submitted")
    with site.ledger.write() as transaction:
        transaction.execute(delete(members).where(members.c.instance_id == site.reclaimed.instance_id))
    report = site.audit()
    assert [2, 1] == [report.found[kind].count for kind in (Kind.INCOMPLETE, Kind.WITHOUT_DATA)]
    (finding,) = report.found[Kind.WITHOUT_DATA].listed
    (faulted,) = [job for job in site.adapter.jobs if job.state is JobState.FAULTED]
    assert (site.needed.instance_id, faulted.job_id) == (finding.instance_id, finding.job_id)


def test_a_missing_replacement_is_found(site: Site) -> None:
    """The row names a newer arrival that does not exist."""
    site.update_row(site.reclaimed, replaced_by=999)
    assert [(Kind.REPLACEMENT_MISSING, site.reclaimed.instance_id)] == site.found_kinds()


# --- while the service runs -------------------------------------------------------------------------------------------


class Busy:
    """A storage backend that runs work of the service before and after it lists keys."""

    def __init__(self, storage: Any, before_keys: Callable[[], None], after_keys: Callable[[], None]) -> None:
        self._storage, self._before, self._after = storage, before_keys, after_keys

    def keys(self) -> Iterator[str]:
        self._before()
        yield from self._storage.keys()
        self._after()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)


def test_changes_during_the_audit_are_not_reported(site: Site) -> None:
    """An instance arrives after the keys were listed. Another is reclaimed after the list and before its row is read.

    Verified to fail when findings are reported without a second check.
    """

    def traffic() -> None:
        site.receive("WAIT", seed="new")
        site.path(site.free).unlink()
        site.clock.advance(1)

    pauses: list[float] = []

    def finish_reclaim(seconds: float) -> None:
        pauses.append(seconds)
        with site.ledger.write() as transaction:
            instances.mark_reclaimed(transaction, [site.free.instance_id], site.clock.now())

    site.storage = Busy(site.storage, lambda: None, traffic)
    assert [] == site.found_kinds(running=True, pause=finish_reclaim)
    assert 1 == len(pauses)


@pytest.mark.parametrize("in_time", [True, False])
def test_an_object_whose_row_is_entered_during_the_audit_is_no_orphan(site: Site, in_time: bool) -> None:
    """A receiver has synced the object and waits for the ledger. An object whose row is never entered is reported."""
    key = store_orphan(site, site.path(site.pending).read_bytes())

    def commit(_seconds: float) -> None:
        if in_time:
            with site.ledger.write() as transaction:
                instances.insert(transaction, evolve(site.pending, storage_key=key, sop_instance_uid="1.2.3"))

    assert ([] if in_time else [(Kind.ORPHAN, None)]) == site.found_kinds(running=True, pause=commit)


def test_an_object_that_is_deleted_during_the_audit_is_no_orphan(site: Site) -> None:
    """A refused duplicate exists for a moment."""
    key = store_orphan(site, b"duplicate")
    site.storage = Busy(site.storage, lambda: None, lambda: site.adapter.storage.delete([key]))
    assert [] == site.found_kinds(running=True)


def test_the_audit_of_a_stopped_service_does_not_wait(site: Site) -> None:
    """A stopped service has no work in progress."""
    site.path(site.pending).unlink()

    def pause(_seconds: float) -> None:
        raise AssertionError

    report = site.audit(pause=pause)
    assert (1, False) == (report.count, report.running)


# --- the repair -------------------------------------------------------------------------------------------------------


def test_a_pending_instance_without_object_is_quarantined(site: Site) -> None:
    """The event has the reason. An instance that is already quarantined, or needed by a job, is only reported."""
    for instance in (site.pending, site.quarantined, site.needed):
        site.path(instance).unlink()
    assert [False, True, False] == site.repair()  # in the order of the ids: needed, pending, quarantined
    assert "quarantined" == site.state(site.pending)
    assert ("instance_quarantined", site.pending.instance_id) == site.last_event()
    assert [Kind.MISSING] * 3 == [kind for kind, _number in site.found_kinds()]
    assert [False] * 3 == site.repair()


def test_an_interrupted_reclaim_is_completed(site: Site) -> None:
    """The row is updated, and the account counts the instance by the reason of its release."""
    site.path(site.free).unlink()
    assert [True] == site.repair()
    assert ("instance_reclaimed", site.free.instance_id) == site.last_event()
    assert [] == site.found_kinds()
    with site.ledger.read() as transaction:
        assert {InstanceOutcome.UNUSED: 1} == balance.load_accounts(transaction)[1].reclaimed


def test_an_object_of_a_reclaimed_instance_is_deleted(site: Site) -> None:
    site.path(site.reclaimed).write_bytes(b"again")
    assert [True] == site.repair()
    assert ("object_deleted", site.reclaimed.instance_id) == site.last_event()
    assert [] == site.found_kinds()


def test_an_object_that_a_job_needs_is_never_deleted(site: Site) -> None:
    """The object is kept even if the row of its instance is reclaimed.

    Verified to fail when objects are deleted without a check of the jobs.
    """
    site.update_row(site.needed, state="reclaimed", outcome="submitted")
    assert [False] == site.repair()
    assert site.path(site.needed).exists()


def test_an_object_without_a_row_gets_a_quarantined_row(site: Site) -> None:
    """The row has the called AE title and all attributes of the file. The instance can be requeued."""
    site.delete_row(site.pending)
    assert [True] == site.repair()
    assert [] == site.found_kinds()
    with site.ledger.read() as transaction:
        ((adopted, row),) = balance.arrivals(transaction, "WAIT", site.pending.sop_instance_uid)
    same = evolve(
        adopted,
        **{
            name: getattr(site.pending, name)
            for name in ("instance_id", "peer_address", "association_id", "received_at")
        },
    )
    assert ("quarantined", site.pending) == (row.state.value, same)
    assert ("instance_quarantined", adopted.instance_id) == site.last_event()


@pytest.mark.parametrize("name", ["pending", "quarantined", "needed", "reclaimed"])
def test_an_object_with_the_data_set_of_another_row_is_deleted(site: Site, name: str) -> None:
    """The other row is another arrival of the same data set, perhaps from another sender: nothing is lost."""
    instance = getattr(site, name)
    again = make_instance(seed=name)
    (answer,) = site.adapter.receive(again, ae_title="LUNG", calling_ae_title="SOMEBODY")
    assert answer.instance is not None
    content = site.path(answer.instance).read_bytes().replace(b"LUNG", instance.ae_title.encode())
    site.delete_row(answer.instance)
    site.storage.delete([answer.instance.storage_key])
    key = store_orphan(site, content)

    assert [True] == site.repair()
    assert key not in site.keys
    assert ("object_deleted", instance.instance_id) == site.last_event()
    assert [] == site.found_kinds()


@pytest.mark.parametrize("name", ["pending", "needed", "reclaimed but needed"])
@pytest.mark.parametrize("how", ["missing", "changed"])
def test_the_only_copy_is_never_deleted(site: Site, name: str, how: str) -> None:
    """If the object of the other row is missing or damaged, the orphan gets a row.

    Verified to fail when an object is deleted without a check of the other object.
    """
    instance = site.pending if name == "pending" else site.needed
    content = site.path(instance).read_bytes()
    key = store_orphan(site, content)
    if how == "missing":
        site.path(instance).unlink()
    else:
        site.path(instance).write_bytes(content[:-1] + b"x")
    if name == "reclaimed but needed":
        site.update_row(site.needed, state="reclaimed", outcome="submitted")
    site.repair()
    assert key in site.keys
    with site.ledger.read() as transaction:
        arrivals = balance.arrivals(transaction, instance.ae_title, instance.sop_instance_uid)
    assert "quarantined" == arrivals[-1][1].state.value
    assert key == arrivals[-1][0].storage_key


def test_one_of_two_objects_with_the_same_data_set_is_kept(site: Site) -> None:
    """The first object gets a row. The second is then a duplicate."""
    content = site.path(site.pending).read_bytes()
    store_orphan(site, content)
    site.delete_row(site.pending)
    assert [True, True] == site.repair()
    assert 4 == len(site.keys)
    assert [] == site.found_kinds()


@pytest.mark.parametrize("what", ["no file", "cut off", "no receiver", "deflated"])
def test_an_object_that_cannot_be_described_is_kept_and_reported(site: Site, what: str) -> None:
    """The object is not deleted and gets no row, because the row would need attributes that cannot be read."""
    whole = site.path(site.pending).read_bytes()
    names = (site.pending.sop_class_uid, site.pending.sop_instance_uid, site.pending.transfer_syntax_uid, "TEST-SCU")
    header, earlier = file_header(*names, "WAIT"), file_header(*names)
    of_deflated = file_header(*names[:2], DeflatedExplicitVRLittleEndian, "TEST-SCU", "WAIT")
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = deflate.compress(whole[len(header) :]) + deflate.flush()
    contents = {
        "no file": b"garbage",
        "cut off": whole[:-100],
        "no receiver": earlier + whole[len(header) :],
        "deflated": of_deflated + deflated,
    }
    key = store_orphan(site, contents[what])
    site.delete_row(site.pending)
    site.path(site.pending).unlink()
    assert [False] == site.repair()
    assert [False] == site.repair()
    assert key in site.keys
    assert {(Kind.ORPHAN, None)} == set(site.found_kinds())


def test_a_repair_does_not_expose_patient_data(site: Site) -> None:
    """Texts and events of the repair contain no patient data."""
    site.delete_row(site.pending)
    site.path(site.needed).unlink()
    texts = [result.text for result in Repair(site.resources).run(site.audit())]
    assert texts
    assert not any(site.pending.patient_id in text for text in [*texts, *map(str, site.adapter.events)])
