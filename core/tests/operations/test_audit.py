"""The audit reports mismatches of ledger and storage, but no unfinished stores; the repair resolves them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from attrs import evolve
from pydicom.uid import DeflatedExplicitVRLittleEndian
from sqlalchemy import delete, update

from dicom_adapter import InstanceStorageInfo, JobState
from dicom_adapter.dicom.part10 import file_header
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.ledger import balance, counters, events, instances, jobs
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
[submitters.platform]
type = "fake"
fail = [{ call = "start", pipeline = "p2", kind = "permanent", after = 1, times = 0 }]
[ae-titles.LUNG]
overwrite-same-instance = true
[ae-titles.LUNG.settings]
pipeline-one = "p1"
pipeline-two = "p2"
[ae-titles.WAIT.settings]
timeout = 1000
pipeline-one = "p1"
"""


class Site:
    """An adapter with an instance in each state, whose objects and rows the test spoils."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.ledger, self.storage, self.clock = adapter.ledger, adapter.storage, adapter.clock
        self.reclaimed = self.receive("LUNG", seed="reclaimed")
        adapter.advance(5)
        self.needed = self.receive("LUNG", seed="needed")
        adapter.advance(5)
        self.pending = self.receive("WAIT", seed="pending")
        self.quarantined = self.receive("WAIT", seed="quarantined")
        with self.ledger.write() as transaction:
            instances.quarantine(transaction, self.quarantined.instance_id, "test", self.clock.now())
        self.host_stops()
        self.free = self.receive("WAIT", seed="free")
        with self.ledger.write() as transaction:
            instances.release(transaction, [self.free.instance_id], self.clock.now())

    def host_stops(self) -> None:
        self.adapter.host.run_until_idle = lambda: None  # type: ignore[method-assign]

    def receive(self, ae_title: str, **attributes: Any) -> InstanceStorageInfo:
        (answer,) = self.adapter.receive(make_instance(**attributes), ae_title=ae_title)
        assert answer.instance is not None
        return answer.instance

    def path(self, instance: InstanceStorageInfo) -> Path:
        key = instance.storage_key
        return self.adapter.config.storage.path / "instances" / key[:2] / f"{key}.dcm"

    def set(self, instance: InstanceStorageInfo, **values: Any) -> None:
        """Change a row, which nobody should."""
        with self.ledger.write() as transaction:
            transaction.execute(update(table).where(table.c.instance_id == instance.instance_id).values(**values))

    def forget(self, instance: InstanceStorageInfo) -> None:
        """Lose a row, as an older backup of the ledger does."""
        with self.ledger.write() as transaction:
            transaction.execute(delete(table).where(table.c.instance_id == instance.instance_id))
            counters.add(transaction, instance.ae_title, counters.RECEIVED, -1)

    @property
    def resources(self) -> Resources:
        return Resources(ledger=self.ledger, storage=self.storage, clock=self.clock)

    def look(
        self, *, running: bool = False, verify: bool = False, pause: Callable[[float], None] | None = None
    ) -> AuditReport:
        audit = Audit(
            self.resources,
            is_running=lambda: running,
            verify=verify,
            pause=pause or (lambda _seconds: None),
        )
        return audit.run()

    def found(self, **how: Any) -> list[tuple[Kind, int | None]]:
        return [(finding.kind, finding.instance_id) for finding in findings(self.look(**how))]

    def repair(self) -> list[bool]:
        """Repair the findings; return for each one that can be repaired whether it was."""
        return [result.repaired for result in Repair(self.resources).run(self.look())]

    @property
    def keys(self) -> set[str]:
        return set(self.storage.keys())

    def state(self, instance: InstanceStorageInfo) -> str:
        with self.ledger.read() as transaction:
            (row,) = balance.object_rows(transaction, [instance.instance_id])
        return row.state.value

    def last_event(self) -> tuple[str, int | None]:
        with self.ledger.read() as transaction:
            event = [event for _number, event in events.after(transaction, 0, 10_000)][-1]
        return event.event, event.instance_id


def orphan(site: Site, content: bytes) -> str:
    """A stored object without a row."""
    writer = site.storage.writer()
    writer.write(content)
    key = writer.finish()
    site.storage.sync([key])
    return key


def findings(report: AuditReport) -> Iterator[Any]:
    for found in report.found.values():
        yield from found.listed


@pytest.fixture
def site(make_adapter: MakeAdapter) -> Site:
    return Site(make_adapter(CONFIGURATION))


# --- the balance ------------------------------------------------------------------------------------------------------


def test_everything_received_is_accounted_for(site: Site) -> None:
    """Each state has its place, by AE title; nothing is found."""
    report = site.look()
    assert {} == report.found
    lung, wait = report.balance
    assert (2, 1, {InstanceOutcome.SUBMITTED: 1}) == (lung.received, lung.faulted, lung.reclaimed)
    assert (3, 1, 1, 1) == (wait.received, wait.pending, wait.quarantined, wait.free)
    assert [0, 0] == [lung.difference, wait.difference]


def test_a_row_that_is_lost_is_missed(site: Site) -> None:
    """Although its object is gone as well. Tried: a balance of rows alone shows nothing."""
    with site.ledger.write() as transaction:
        transaction.execute(delete(table).where(table.c.instance_id == site.pending.instance_id))
    site.path(site.pending).unlink()
    (finding,) = findings(site.look())
    assert (Kind.BALANCE, "WAIT: +1 of 3 received are not accounted for") == (finding.kind, finding.text)


def test_replaced_and_unused_instances_and_those_of_unfinished_jobs_have_their_places(
    make_adapter: MakeAdapter,
) -> None:
    """Every outcome and need is told apart."""
    adapter = make_adapter(CONFIGURATION.replace('kind = "permanent", ', ""))
    for seed in ("one", "two", "two"):
        adapter.receive(make_instance(seed=seed), ae_title="LUNG")
        adapter.advance(5 if seed == "one" else 0)
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
def test_an_object_that_is_missing_is_found(site: Site, name: str) -> None:
    """Whatever still needs it."""
    instance = getattr(site, name)
    site.path(instance).unlink()
    assert [(Kind.MISSING, instance.instance_id)] == site.found()


def test_an_object_without_a_row_is_found(site: Site) -> None:
    """It is named by its key."""
    site.forget(site.pending)
    (finding,) = findings(site.look())
    assert (Kind.ORPHAN, site.pending.storage_key) == (finding.kind, finding.storage_key)


@pytest.mark.parametrize("verify", [False, True])
def test_an_object_of_another_size_is_found(site: Site, verify: bool) -> None:
    """Cut short, or longer."""
    for instance, change in ((site.pending, -1), (site.needed, 1)):
        content = site.path(instance).read_bytes()
        site.path(instance).write_bytes(content[:change] if change < 0 else content + b"\0")
    assert {(Kind.CHANGED, site.pending.instance_id), (Kind.CHANGED, site.needed.instance_id)} == set(
        site.found(verify=verify)
    )


def test_other_bytes_are_found_when_they_are_read(site: Site) -> None:
    """Only `--verify` reads them."""
    content = bytearray(site.path(site.pending).read_bytes())
    content[-1] ^= 1
    site.path(site.pending).write_bytes(content)
    assert [] == site.found()
    assert [(Kind.CHANGED, site.pending.instance_id)] == site.found(verify=True)


def test_an_object_that_cannot_be_read_is_found(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """And does not end the audit."""
    read = site.storage.read

    def failing(key: str) -> BinaryIO:
        if key == site.pending.storage_key:
            raise OSError(5, "Input/output error")
        return read(key)

    monkeypatch.setattr(site.storage, "read", failing)
    assert [(Kind.UNREADABLE, site.pending.instance_id)] == site.found()


def test_an_object_of_a_reclaimed_instance_is_found(site: Site) -> None:
    """As a power loss brings it back."""
    site.path(site.reclaimed).write_bytes(b"again")
    assert [(Kind.LEFT, site.reclaimed.instance_id)] == site.found()


def test_a_reclaim_that_was_cut_off_is_found(site: Site) -> None:
    """The object is gone, the row does not say so."""
    site.path(site.free).unlink()
    assert [(Kind.UNFINISHED, site.free.instance_id)] == site.found()


def test_what_is_not_reclaimed_for_long_is_found_while_the_service_runs(site: Site) -> None:
    """Without a service nobody reclaims, and what was released a moment ago has time."""
    assert [] == site.found(running=True)
    site.clock.advance(301)
    assert [] == site.found()
    assert [(Kind.OVERDUE, site.free.instance_id)] == site.found(running=True)


def test_a_job_that_was_finished_a_moment_ago_gives_its_instances_time(site: Site) -> None:
    """Their release may be long ago."""
    site.clock.advance(301)
    with site.ledger.write() as transaction:
        (row,) = jobs.newest(transaction, 1, states=[JobState.FAULTED])
        jobs.change(transaction, row, state=JobState.CANCELLED, changed_at=site.clock.now())
    assert (Kind.OVERDUE, site.needed.instance_id) not in site.found(running=True)
    site.clock.advance(301)
    assert (Kind.OVERDUE, site.needed.instance_id) in site.found(running=True)


def test_jobs_that_cannot_be_done_are_found(site: Site) -> None:
    """One has lost its instances, another needs one that is reclaimed: the terrible one."""
    site.path(site.needed).unlink()
    site.set(site.needed, state="reclaimed", outcome="submitted")
    with site.ledger.write() as transaction:
        transaction.execute(delete(members).where(members.c.instance_id == site.reclaimed.instance_id))
    report = site.look()
    assert [2, 1] == [report.found[kind].count for kind in (Kind.INCOMPLETE, Kind.WITHOUT_DATA)]
    (finding,) = report.found[Kind.WITHOUT_DATA].listed
    (faulted,) = [job for job in site.adapter.jobs if job.state is JobState.FAULTED]
    assert (site.needed.instance_id, faulted.job_id) == (finding.instance_id, finding.job_id)


def test_a_replacement_that_is_not_there_is_found(site: Site) -> None:
    """The number of the newer arrival leads nowhere."""
    site.set(site.reclaimed, replaced_by=999)
    assert [(Kind.REPLACED, site.reclaimed.instance_id)] == site.found()


# --- while the service runs -------------------------------------------------------------------------------------------


class Busy:
    """A storage backend beside which the service goes on: each time that its keys are listed, or rows were read."""

    def __init__(self, storage: Any, before_keys: Callable[[], None], after_keys: Callable[[], None]) -> None:
        self._storage, self._before, self._after = storage, before_keys, after_keys

    def keys(self) -> Iterator[str]:
        self._before()
        yield from self._storage.keys()
        self._after()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)


def test_what_arrives_and_goes_meanwhile_is_not_reported(site: Site) -> None:
    """An instance arrives after the keys were listed, another is reclaimed between the list and its row.

    Tried: with the first judgement reported, both are.
    """

    def traffic() -> None:
        site.receive("WAIT", seed="new")
        site.path(site.free).unlink()
        site.clock.advance(1)

    pauses: list[float] = []

    def reclaim_goes_on(seconds: float) -> None:
        pauses.append(seconds)
        with site.ledger.write() as transaction:
            instances.mark_reclaimed(transaction, [site.free.instance_id], site.clock.now())

    site.storage = Busy(site.storage, lambda: None, traffic)
    assert [] == site.found(running=True, pause=reclaim_goes_on)
    assert 1 == len(pauses)


@pytest.mark.parametrize("in_time", [True, False])
def test_an_object_whose_row_follows_is_no_orphan(site: Site, in_time: bool) -> None:
    """A receiver has synced it, and waits for the ledger. One whose row does not follow is reported."""
    key = orphan(site, site.path(site.pending).read_bytes())

    def commit(_seconds: float) -> None:
        if in_time:
            with site.ledger.write() as transaction:
                instances.insert(transaction, evolve(site.pending, storage_key=key, sop_instance_uid="1.2.3"))

    assert ([] if in_time else [(Kind.ORPHAN, None)]) == site.found(running=True, pause=commit)


def test_an_object_that_is_refused_and_deleted_is_no_orphan(site: Site) -> None:
    """It was there for a moment, as a duplicate is."""
    key = orphan(site, b"duplicate")
    site.storage = Busy(site.storage, lambda: None, lambda: site.adapter.storage.delete([key]))
    assert [] == site.found(running=True)


def test_a_stopped_service_is_looked_at_without_waiting(site: Site) -> None:
    """Nothing is on its way then."""
    site.path(site.pending).unlink()

    def pause(_seconds: float) -> None:
        raise AssertionError

    report = site.look(pause=pause)
    assert (1, False) == (report.count, report.running)


# --- the repair -------------------------------------------------------------------------------------------------------


def test_a_pending_instance_without_object_is_quarantined(site: Site) -> None:
    """And said to be so; one that is quarantined already, or needed by a job, can only be reported."""
    for instance in (site.pending, site.quarantined, site.needed):
        site.path(instance).unlink()
    assert [False, True, False] == site.repair()
    assert "quarantined" == site.state(site.pending)
    assert ("instance_quarantined", site.pending.instance_id) == site.last_event()
    assert [Kind.MISSING] * 3 == [kind for kind, _number in site.found()]
    assert [False] * 3 == site.repair()


def test_a_reclaim_that_was_cut_off_is_finished(site: Site) -> None:
    """The row says what is so; the account knows what it was good for."""
    site.path(site.free).unlink()
    assert [True] == site.repair()
    assert ("instance_reclaimed", site.free.instance_id) == site.last_event()
    assert [] == site.found()
    with site.ledger.read() as transaction:
        assert {InstanceOutcome.UNUSED: 1} == balance.load_accounts(transaction)[1].reclaimed


def test_an_object_of_a_reclaimed_instance_is_deleted(site: Site) -> None:
    """Nobody needs it."""
    site.path(site.reclaimed).write_bytes(b"again")
    assert [True] == site.repair()
    assert ("object_deleted", site.reclaimed.instance_id) == site.last_event()
    assert [] == site.found()


def test_an_object_that_a_job_needs_is_never_deleted(site: Site) -> None:
    """Although its row says that it is reclaimed. Tried: without the question, the job's data are lost."""
    site.set(site.needed, state="reclaimed", outcome="submitted")
    assert [False] == site.repair()
    assert site.path(site.needed).exists()


def test_an_object_without_a_row_gets_one(site: Site) -> None:
    """Quarantined at the AE title that it was sent to, with all that the file tells; it can be requeued then."""
    site.forget(site.pending)
    assert [True] == site.repair()
    assert [] == site.found()
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
def test_an_object_whose_data_set_the_ledger_knows_is_deleted(site: Site, name: str) -> None:
    """It was never acknowledged, or its data are kept elsewhere, or were submitted; whoever sent it."""
    instance = getattr(site, name)
    again = make_instance(seed=name)
    (answer,) = site.adapter.receive(again, ae_title="LUNG", calling_ae_title="SOMEBODY")
    assert answer.instance is not None
    content = site.path(answer.instance).read_bytes().replace(b"LUNG", instance.ae_title.encode())
    site.forget(answer.instance)
    site.storage.delete([answer.instance.storage_key])
    key = orphan(site, content)

    assert [True] == site.repair()
    assert key not in site.keys
    assert ("object_deleted", instance.instance_id) == site.last_event()
    assert [] == site.found()


@pytest.mark.parametrize("name", ["pending", "needed", "reclaimed but needed"])
@pytest.mark.parametrize("how", ["missing", "changed"])
def test_the_only_copy_is_never_deleted(site: Site, name: str, how: str) -> None:
    """The known arrival's own object is gone or spoilt: the orphan gets a row. Tried: deleted without a look, lost."""
    instance = site.pending if name == "pending" else site.needed
    content = site.path(instance).read_bytes()
    key = orphan(site, content)
    if how == "missing":
        site.path(instance).unlink()
    else:
        site.path(instance).write_bytes(content[:-1] + b"x")
    if name == "reclaimed but needed":
        site.set(site.needed, state="reclaimed", outcome="submitted")
    site.repair()
    assert key in site.keys
    with site.ledger.read() as transaction:
        found = balance.arrivals(transaction, instance.ae_title, instance.sop_instance_uid)
    assert "quarantined" == found[-1][1].state.value
    assert key == found[-1][0].storage_key


def test_of_two_objects_with_one_data_set_one_stays(site: Site) -> None:
    """The first gets a row, by which the second is known."""
    content = site.path(site.pending).read_bytes()
    orphan(site, content)
    site.forget(site.pending)
    assert [True, True] == site.repair()
    assert 4 == len(site.keys)
    assert [] == site.found()


@pytest.mark.parametrize("what", ["no file", "cut off", "no receiver", "deflated"])
def test_an_object_that_says_too_little_stays_and_is_reported(site: Site, what: str) -> None:
    """It is never deleted, and nothing is made up."""
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
    key = orphan(site, contents[what])
    site.forget(site.pending)
    site.path(site.pending).unlink()
    assert [False] == site.repair()
    assert [False] == site.repair()
    assert key in site.keys
    assert {(Kind.ORPHAN, None)} == set(site.found())


def test_a_repair_does_not_quote_the_patient(site: Site) -> None:
    """Neither in what it says nor in the events."""
    site.forget(site.pending)
    site.path(site.needed).unlink()
    said = [result.text for result in Repair(site.resources).run(site.look())]
    assert said
    assert not any("SYN-0001" in text for text in [*said, *map(str, site.adapter.events)])
